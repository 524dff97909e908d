"""Batches are the same for any number of workers and processes, and from any iteration on."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickle_files import write_pickle

from opengait.data import loader as loaders
from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset

Make = Callable[..., dict[str, Any]]
FIXED = {"type": "TripletSampler", "batch_size": [3, 2], "sample_type": "fixed_unordered", "frames_num_fixed": 7}
UNFIXED = FIXED | {"sample_type": "unfixed_ordered", "frames_num_min": 3, "frames_num_max": 8, "frames_skip_num": 2}
TESTING = {"type": "InferenceSampler", "sample_type": "all_ordered"}


def equal(left: Batch, right: Batch) -> None:
    for name in ("types", "views", "iteration", "seed"):
        assert getattr(left, name) == getattr(right, name)
    for name in ("labels", "indices", "positions"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=0, atol=0)
    for mine, other in zip(left.frames, right.frames, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert (left.lengths is None) == (right.lengths is None)
    if left.lengths is not None and right.lengths is not None:
        torch.testing.assert_close(left.lengths, right.lengths, rtol=0, atol=0)


def sequences(batch: Batch) -> list[list[torch.Tensor]]:
    """The frames of each sequence, one tensor a modality."""
    if batch.lengths is None:
        return [[frames[n] for frames in batch.frames] for n in range(len(batch))]
    parts = [frames[0].split(batch.lengths[0].tolist()) for frames in batch.frames]
    return [list(one) for one in zip(*parts, strict=True)]


@pytest.mark.parametrize("sampler_cfg", [FIXED, UNFIXED, FIXED | {"sample_type": "all_ordered"}])
def test_shapes_and_content_of_training_batches(make_tree: Make, sampler_cfg: dict[str, Any]) -> None:
    dataset = GaitDataset(make_tree(modalities=3), training=True)
    for batch in loaders.train_loader(dataset, sampler_cfg, seed=5, end_iteration=3):
        assert len(batch) == 6
        assert [frames.dtype for frames in batch.frames] == [torch.uint8, torch.float64, torch.uint8]
        if sampler_cfg is FIXED:
            assert batch.lengths is None
            assert [tuple(f.shape) for f in batch.frames] == [(6, 7, 16, 12), (6, 7), (6, 7, 3, 16, 12)]
        else:
            assert batch.lengths is not None
            total = int(batch.lengths.sum())
            assert batch.lengths.shape == (1, 6)
            assert [tuple(f.shape) for f in batch.frames] == [(1, total, 16, 12), (1, total), (1, total, 3, 16, 12)]
        for number, (silhouettes, ratios, colours) in enumerate(sequences(batch)):
            index = int(batch.indices[number])
            assert dataset.label_set[int(batch.labels[number])] == dataset.labels[index]
            assert (batch.types[number], batch.views[number]) == (dataset.types[index], dataset.views[index])
            stored = {frame.tobytes() for frame in dataset.read(index)[0]}
            assert all(frame.numpy().tobytes() in stored for frame in silhouettes)
            # All modalities take the same frames.
            np.testing.assert_allclose(ratios.numpy(), silhouettes.numpy().mean((1, 2)))
            torch.testing.assert_close(colours[:, 0], silhouettes)


@pytest.mark.parametrize("sampler_cfg", [FIXED, UNFIXED])
def test_workers_change_nothing(make_tree: Make, sampler_cfg: dict[str, Any]) -> None:
    dataset = GaitDataset(make_tree(modalities=2), training=True)
    runs = [
        list(loaders.train_loader(dataset, sampler_cfg, seed=5, num_workers=workers, end_iteration=5))
        for workers in (0, 1, 2)
    ]
    for batches in runs[1:]:
        for one, other in zip(runs[0], batches, strict=True):
            equal(one, other)


def test_resuming_needs_a_number_only(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    whole = list(loaders.train_loader(dataset, FIXED, seed=5, end_iteration=6))
    for one, other in zip(whole[4:], loaders.train_loader(dataset, FIXED, seed=5, start_iteration=4), strict=False):
        equal(one, other)
    assert [batch.iteration for batch in whole] == list(range(6))
    assert len(loaders.train_loader(dataset, FIXED, seed=5, start_iteration=4, end_iteration=6)) == 2


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch_of_one(make_tree: Make, world_size: int) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    for cfg in (FIXED, UNFIXED):
        [whole] = loaders.train_loader(dataset, cfg, seed=5, start_iteration=2, end_iteration=3)
        expected = sequences(whole)
        seen = []
        for rank in range(world_size):
            [share] = loaders.train_loader(
                dataset, cfg, seed=5, rank=rank, world_size=world_size, start_iteration=2, end_iteration=3
            )
            assert share.positions.tolist() == list(range(rank, 6, world_size))
            for position, [frames] in zip(share.positions.tolist(), sequences(share), strict=True):
                torch.testing.assert_close(frames, expected[position][0], rtol=0, atol=0)
                seen.append(position)
        assert sorted(seen) == list(range(6))


def test_more_processes_than_sequences(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    with pytest.raises(ValueError, match="gives 6 sequences for 7 processes"):
        loaders.train_loader(dataset, FIXED, seed=0, world_size=7)


@pytest.mark.parametrize(
    "sampler_cfg",
    [TESTING, UNFIXED | TESTING | {"sample_type": "unfixed_ordered"}, FIXED | {"type": "InferenceSampler"}],
)
@pytest.mark.parametrize(("workers", "ragged"), [(0, False), (2, False), (0, True), (2, True)])
def test_a_test_sequence_is_the_same_in_any_batch(
    make_tree: Make, sampler_cfg: dict[str, Any], workers: int, ragged: bool
) -> None:
    dataset = GaitDataset(make_tree(), training=False)
    cfg = sampler_cfg | {"batch_size": 4}
    alone = {int(batch.indices): batch.frames[0][0] for batch in loaders.test_loader(dataset, cfg, frames_per_batch=1)}
    assert sorted(alone) == list(range(len(dataset)))
    seen = []
    for rank in range(2):
        loader = loaders.test_loader(
            dataset, cfg, frames_per_batch=40, rank=rank, world_size=2, num_workers=workers, ragged=ragged
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            assert ragged or batch.lengths is None
            assert batch.positions.tolist() == batch.indices.tolist()
            for index, [frames] in zip(batch.indices.tolist(), sequences(batch), strict=True):
                torch.testing.assert_close(frames, alone[index], rtol=0, atol=0)
                seen.append(index)
    assert sorted(seen) == list(range(len(dataset)))


def test_ragged_batches_are_fuller(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=False)
    equal_lengths, ragged = (
        list(loaders.test_loader(dataset, TESTING, frames_per_batch=40, ragged=ragged)) for ragged in (False, True)
    )
    assert len(ragged) < len(equal_lengths)
    assert any(batch.lengths is not None for batch in ragged)
    for batch in ragged:
        assert batch.frames[0].shape[:2].numel() <= 40 or len(batch) == 1


def test_workers_serve_several_passes_until_closed(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=False)
    loader = loaders.test_loader(dataset, TESTING, frames_per_batch=40, num_workers=1)
    for one, other in zip(list(loader), list(loader), strict=True):
        equal(one, other)
    loader.close()
    assert not multiprocessing.active_children()
    assert len(list(loader)) == len(loader)
    loader.close()


def test_no_worker_outlives_an_abandoned_pass(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    for number, _ in enumerate(loaders.train_loader(dataset, FIXED, seed=0, num_workers=2)):
        if number == 3:
            break
    gc.collect()
    assert not multiprocessing.active_children()


def test_cut_sequences_are_counted_once(make_tree: Make, caplog: pytest.LogCaptureFixture) -> None:
    dataset = GaitDataset(make_tree(), training=False)
    expected = int((dataset.lengths() > 8).sum())
    with caplog.at_level(logging.WARNING):
        batches = list(loaders.test_loader(dataset, TESTING | {"frames_all_limit": 8}, frames_per_batch=40))
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        f"{expected} of 16 sequences are cut to their first 8 frames"
    ]
    assert max(batch.frames[0].shape[1] for batch in batches) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_one_clear_error_from_any_worker(make_tree: Make, workers: int) -> None:
    cfg = make_tree()
    dataset = GaitDataset(cfg, training=True)
    for path in Path(cfg["dataset_root"]).rglob("*.pkl"):
        path.write_bytes(b"cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"0_sil.pkl: refused, since it asks for os.system") as error:
        list(loaders.train_loader(dataset, FIXED, seed=0, num_workers=workers, end_iteration=2))
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()


def test_frames_of_unequal_shape_name_both_sequences(make_tree: Make) -> None:
    cfg = make_tree(train=3)
    write_pickle(Path(cfg["dataset_root"]) / "002/nm-01/090/0_sil.pkl", np.zeros((9, 20, 12), np.uint8))
    dataset = GaitDataset(cfg, training=True)
    with pytest.raises(ValueError, match=r"(\[20, 12\].*\[16, 12\]|\[16, 12\].*\[20, 12\])"):
        list(loaders.train_loader(dataset, FIXED | {"batch_size": [3, 4]}, seed=0, end_iteration=1))


def test_loading_leaves_the_global_random_state_alone(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    torch.manual_seed(0)
    np.random.seed(0)
    expected = (torch.get_rng_state(), np.random.get_state()[1])
    list(loaders.train_loader(dataset, FIXED, seed=5, num_workers=1, end_iteration=2))
    torch.testing.assert_close(torch.get_rng_state(), expected[0])
    np.testing.assert_array_equal(np.random.get_state()[1], expected[1])


def test_the_reader_travels_to_workers_of_any_start_method(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    again = pickle.loads(pickle.dumps(dataset))
    [one] = loaders.train_loader(dataset, FIXED, seed=5, end_iteration=1)
    [other] = loaders.train_loader(again, FIXED, seed=5, end_iteration=1)
    equal(one, other)


@pytest.mark.parametrize(
    ("sampler_cfg", "said"),
    [
        (FIXED | {"type": "TripletSamplr"}, "did you mean 'TripletSampler'"),
        (FIXED | {"type": "InferenceSampler"}, "cannot be used here"),
        ({key: value for key, value in FIXED.items() if key != "batch_size"}, "sampler.batch_size: is needed"),
        (FIXED | {"sample_type": "fixed_odered"}, "did you mean 'fixed_ordered'"),
    ],
)
def test_mistakes_in_the_sampler_section(make_tree: Make, sampler_cfg: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="sampler") as error:
        loaders.train_loader(GaitDataset(make_tree(), training=True), sampler_cfg, seed=0)
    assert said in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_reach_the_device(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    plain = list(loaders.train_loader(dataset, UNFIXED, seed=5, end_iteration=3))
    pinned = loaders.train_loader(dataset, UNFIXED, seed=5, num_workers=1, end_iteration=3, pin_memory=True)
    for one, other in zip(plain, pinned, strict=True):
        assert other.frames[0].is_pinned()
        there = other.to("cuda")
        assert there.frames[0].is_cuda
        equal(one, there.to("cpu"))
