"""`compat: reference` brings back what the reference implementation does to batches; without it nothing of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from batches import batch_of, noise, walkers

from opengait.data.dataset import GaitDataset
from opengait.data.frames import FrameChoice
from opengait.data.loader import train_loader
from opengait.data.samplers import BilateralSampler
from opengait.data.transforms import build_transforms

FIXED = {"sample_type": "fixed_allordered", "frames_num_fixed": 6}
UNFIXED = {"sample_type": "unfixed_unordered", "frames_num_min": 3, "frames_num_max": 6}


def test_allordered_is_sorted_and_under_compat_as_unordered() -> None:
    taken = [
        FrameChoice(FIXED | changes).choose(30, np.random.default_rng(3))
        for changes in ({}, {"compat": "reference"}, {"sample_type": "fixed_unordered"})
    ]
    assert (np.diff(taken[0]) > 0).all()
    assert (np.diff(taken[1]) < 0).any()
    np.testing.assert_array_equal(taken[1], taken[2])
    np.testing.assert_array_equal(taken[0], np.sort(taken[1]))


@pytest.mark.parametrize("iteration", range(4))
@pytest.mark.parametrize("entry", [{"type": "RandomRotate", "prob": 0.5}, {"type": "RandomHorizontalFlip"}], ids=str)
def test_a_packed_batch_is_augmented_as_one_sequence(entry: dict[str, Any], iteration: int) -> None:
    frames, lengths = walkers(1, 9, 64, 64), [4, 2, 3]
    batch = batch_of(frames, lengths=lengths, positions=[1, 3, 5], iteration=iteration)
    alone = batch_of(frames, lengths=[9], positions=[1], iteration=iteration)
    transforms = build_transforms([entry])
    [as_one], [of_one] = transforms(replace(batch, as_one=True)), transforms(alone)
    torch.testing.assert_close(as_one, of_one, rtol=0, atol=0)
    fixed = replace(batch_of(walkers(3, 3, 64, 64), iteration=iteration), as_one=True)
    assert torch.equal(transforms(fixed)[0], transforms(replace(fixed, as_one=False))[0])


def test_by_default_the_sequences_of_a_packed_batch_draw_for_themselves() -> None:
    batch = batch_of(walkers(1, 64, 64, 64), lengths=[1] * 64)
    flip = build_transforms([{"type": "RandomHorizontalFlip"}])
    flipped = [
        (flip(one)[0] != batch.frames[0]).flatten(2).any(2).sum().item() for one in (batch, replace(batch, as_one=True))
    ]
    assert 16 < flipped[0] < 48
    assert flipped[1] in (0, 64)


def test_frames_of_a_packed_batch_still_draw_one_by_one() -> None:
    frames = 200 + noise(1, 40, 16, 16) % 50
    batch = replace(batch_of(frames, lengths=[20, 20]), as_one=True)
    [erased] = build_transforms([{"type": "RandomErasing", "per_frame": True}])(batch)
    touched = (erased == 0).flatten(2).any(2)[0]
    assert 8 < touched.sum() < 32
    assert not torch.equal(touched[:20], touched[20:])


def test_one_bright_pixel_scales_a_whole_packed_batch_of_parsing_maps() -> None:
    maps = torch.ones(1, 4, 4, 64, dtype=torch.uint8)
    maps[0, 3, 0, 32] = 255
    batch = batch_of(maps, lengths=[2, 2])
    parse = build_transforms([{"type": "BaseParsingCuttingTransform"}])
    brightest = [parse(one)[0][0, 0].max().item() for one in (batch, replace(batch, as_one=True))]
    assert brightest == [1, pytest.approx(1 / 255)]


def test_a_function_on_arrays_is_given_the_whole_packed_batch() -> None:
    from opengait.data.transforms import Transforms
    from opengait.data.transforms.arrays import OnArrays

    seen: list[int] = []
    keep = Transforms([OnArrays(lambda frames: seen.append(len(frames)) or frames, "keep")])
    batch = batch_of(noise(1, 5, 4, 4), lengths=[2, 3])
    keep(batch), keep(replace(batch, as_one=True))
    assert seen == [2, 3, 5]


@pytest.mark.parametrize("compat", [None, "reference"])
def test_the_sampler_section_decides(make_tree: Callable[..., dict[str, Any]], compat: str | None) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    for frames, packed in ((UNFIXED, True), (FIXED, False)):
        sampler = {"type": "TripletSampler", "batch_size": [2, 2], "compat": compat, **frames}
        batch = next(iter(train_loader(dataset, sampler, seed=0)))
        assert (batch.lengths is not None) == packed
        assert batch.as_one == (compat == "reference")


def test_two_views_of_sequences_that_each_process_shuffles_by_itself() -> None:
    dataset = cast(GaitDataset, SimpleNamespace(labels=["000"] * 24))

    def batches(rank: int, **compat: Any) -> np.ndarray:
        sampler = BilateralSampler(dataset, [4, 2], rank=rank, seed=5, **compat)
        return np.stack([sampler.batch(iteration)[sampler.positions(rank, 2)] for iteration in range(6)])

    common = [batches(rank) for rank in range(2)]
    apart = [batches(rank, compat="reference") for rank in range(2)]
    np.testing.assert_array_equal(apart[0], common[0])
    np.testing.assert_array_equal(*np.split(apart[1], 2, axis=1))  # still two views of the same
    shared = [sum(len(set(one) & set(other)) for one, other in zip(*both, strict=True)) for both in (common, apart)]
    assert shared[0] == 0
    assert shared[1] > 0


def test_a_loader_tells_the_sampler_its_process(make_tree: Callable[..., dict[str, Any]]) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    sampler = {"type": "BilateralSampler", "batch_size": [3, 2], "compat": "reference", **FIXED}

    def indices(section: dict[str, Any], rank: int) -> list[int]:
        loader = train_loader(dataset, section, seed=0, rank=rank, world_size=2, end_iteration=3)
        return [index for batch in loader for index in batch.indices.tolist()]

    plain = {**sampler, "compat": None}
    assert indices(sampler, 0) == indices(plain, 0)
    assert indices(sampler, 1) != indices(plain, 1)
