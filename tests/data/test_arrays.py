"""Transforms written for NumPy arrays, one sequence at a time: applied by the workers, the same whoever does it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from batches import apply, batch_of, chain, noise
from torch import Tensor

from opengait.config import ConfigError, load_config
from opengait.data.dataset import GaitDataset
from opengait.data.loader import test_loader as make_test_loader
from opengait.data.loader import train_loader
from opengait.data.transforms import Draws, Transform, build_transforms
from opengait.registry import TRANSFORMS

FIXED = {"type": "TripletSampler", "batch_size": [3, 2], "sample_type": "fixed_unordered", "frames_num_fixed": 4}
UNFIXED = FIXED | {"sample_type": "unfixed_ordered", "frames_num_min": 3, "frames_num_max": 6, "frames_skip_num": 0}
CUT = {"type": "BaseSilTransform"}


class Speckle:
    """Noise of three global generators, in place, as people write it."""

    def __init__(self, amount: float = 0.5) -> None:
        self.amount = amount

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        assert frames.ndim == 3
        frames[np.random.rand(*frames.shape) < self.amount * random.random()] = 0
        frames[:, int(torch.randint(frames.shape[1], ()))] = 255
        return frames


class Halved:
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames[:, ::2, ::2] / 2


class Doubled(Transform):
    """One of ours, on the device."""

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        return frames.float() * 2


class Shortened:
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames[:2]


def negative(frames: np.ndarray, white: int = 255) -> np.ndarray:
    return white - frames


def threshold(level: int = 128) -> Callable[[np.ndarray], np.ndarray]:
    return lambda frames: (frames > level) * np.float32(255)


def nothing(level: int = 0) -> int:
    return level


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TRANSFORMS, "_entries", dict(TRANSFORMS._entries))
    for entry in (Speckle, Halved, Doubled, Shortened, negative, threshold, nothing):
        TRANSFORMS.register(entry)


def test_every_form_is_called_with_arrays_of_sequences() -> None:
    frames = noise(3, 4, 8, 6)
    torch.testing.assert_close(apply({"type": "Halved"}, frames), frames[..., ::2, ::2].float() / 2)
    torch.testing.assert_close(apply({"type": "negative"}, frames), 255 - frames.float())
    torch.testing.assert_close(apply({"type": "negative", "white": 200}, frames), (200 - frames).float())
    torch.testing.assert_close(apply({"type": "threshold", "level": 7}, frames), (frames > 7).float() * 255)
    packed = apply({"type": "Halved"}, frames.reshape(1, 12, 8, 6), lengths=[5, 1, 6])
    torch.testing.assert_close(packed[0], frames.reshape(12, 8, 6)[:, ::2, ::2].float() / 2)


def test_a_chain_keeps_its_order() -> None:
    frames = noise(3, 4, 8, 6)
    torch.testing.assert_close(apply(chain("negative", "Doubled"), frames), (255 - frames.float()) * 2)
    torch.testing.assert_close(apply(chain("Doubled", "negative"), frames), 255 - frames.float() * 2)
    nested = chain("Doubled", chain("negative", "Doubled"), "Doubled")
    torch.testing.assert_close(apply(nested, frames), (255 - frames.float() * 2) * 4)


@pytest.mark.parametrize("sampler_cfg", [FIXED, UNFIXED])
def test_workers_and_processes_change_nothing(
    make_tree: Callable[..., dict[str, Any]], sampler_cfg: dict[str, Any]
) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    entry = chain("RandomHorizontalFlip", "Speckle", "RandomErasing", CUT)

    def run(workers: int = 0, **share: int) -> list[Tensor]:
        transforms = build_transforms([entry])
        given = {"transforms": transforms} if workers < 2 else {}
        loader = train_loader(dataset, sampler_cfg, seed=5, end_iteration=2, num_workers=workers, **given, **share)
        batches = list(loader)
        loader.close()
        assert all(batch.prepared == (workers < 2) for batch in batches)
        ends = [None if batch.lengths is None else batch.lengths[0].tolist() for batch in batches]
        outs = [transforms(batch)[0] for batch in batches]
        return [
            sequence
            for out, lengths in zip(outs, ends, strict=True)
            for sequence in (out if lengths is None else out[0].split(lengths))
        ]

    whole = run()
    for other in (run(workers=1), run(workers=2)):  # the last without telling the loader
        for one, same in zip(whole, other, strict=True):
            assert torch.equal(one, same)
    shares = [run(rank=rank, world_size=2) for rank in range(2)]
    for rank, share in enumerate(shares):
        for one, same in zip(share[:3], whole[rank:6:2], strict=True):
            assert torch.equal(one, same)
    assert not torch.equal(whole[0][0], whole[6][0])


def test_workers_do_the_work_up_to_the_last_step_on_arrays(make_tree: Callable[..., dict[str, Any]]) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    transforms = build_transforms([chain("Doubled", "Halved", "Doubled")])
    [batch] = train_loader(dataset, FIXED, seed=0, end_iteration=1, num_workers=1, transforms=transforms)
    assert batch.frames[0].shape == (6, 4, 8, 6)
    [raw] = train_loader(dataset, FIXED, seed=0, end_iteration=1)
    torch.testing.assert_close(batch.frames[0], raw.frames[0][..., ::2, ::2].float())
    torch.testing.assert_close(transforms(batch)[0], 2 * batch.frames[0])
    testing = {"type": "InferenceSampler", "sample_type": "all_ordered"}
    first = next(iter(make_test_loader(dataset, testing, frames_per_batch=20, transforms=transforms)))
    assert first.frames[0].shape[-2:] == (8, 6)


def test_batches_without_such_transforms_stay_raw(make_tree: Callable[..., dict[str, Any]]) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    transforms = build_transforms([chain("RandomRotate", CUT)])
    [batch] = train_loader(dataset, FIXED, seed=0, end_iteration=1, transforms=transforms)
    assert batch.frames[0].dtype == torch.uint8


def test_global_generators_go_on_as_if_nothing_had_been() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = draw()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    frames = noise(2, 3, 8, 8)
    before = frames.clone()
    apply({"type": "Speckle"}, frames)
    assert draw() == expected
    assert torch.equal(frames, before)


@pytest.mark.parametrize(
    ("entry", "lengths", "said"),
    [
        ({"type": "Shortened"}, [4, 4, 4], "transform Shortened: 4 frames became 2"),
        ({"type": "nothing"}, None, "something to call with an array was expected"),
        ({"type": "Speckle", "amont": 1}, None, "did you mean 'amount'"),
        ({"type": "negative", "wite": 1}, None, "negative takes no argument 'wite' (did you mean 'white'?)"),
    ],
)
def test_mistakes(entry: dict[str, Any], lengths: list[int] | None, said: str) -> None:
    frames = noise(3, 4, 8, 6)
    with pytest.raises(ValueError) as error:
        apply(entry, frames.reshape(1, 12, 8, 6) if lengths else frames, lengths=lengths)
    assert said in str(error.value)
    assert apply({"type": "Shortened"}, frames).shape == (3, 2, 8, 6)


def test_a_config_names_them_like_any_other() -> None:
    entry = chain("Speckle", {"type": "negative", "white": 200}, {"type": "threshold", "level": 9}, CUT)
    config = load_config("configs/gaitset/gaitset.yaml", _trained_with(entry))
    assert config["trainer_cfg"]["transform"] == [entry]
    wrong = chain({"type": "Speckle", "amont": 1}, {"type": "negative", "white": "x"}, {"type": "Speckl"})
    with pytest.raises(ConfigError) as error:
        load_config("configs/gaitset/gaitset.yaml", _trained_with(wrong))
    said = str(error.value)
    assert "unknown key 'amont' for Speckle (did you mean 'amount'?)" in said
    assert "trainer_cfg.transform.0.trf_cfg.1.white: expected an integer, found 'x'" in said
    assert "unknown transform 'Speckl'" in said


def _trained_with(entry: dict[str, Any]) -> dict[str, Any]:
    return {"trainer_cfg": {"transform": [entry]}}


def test_unlike_results_are_named() -> None:
    class Growing:
        def __call__(self, frames: np.ndarray) -> np.ndarray:
            return np.zeros((len(frames), random.randrange(1, 1000), 4))

    TRANSFORMS.register(Growing)
    with pytest.raises(ValueError, match="sequences of a batch have to stay alike"):
        apply({"type": "Growing"}, noise(3, 4, 8, 6))
    with pytest.raises(ValueError, match="sequences of a batch have to stay alike"):
        build_transforms([{"type": "Growing"}])(batch_of(noise(1, 12, 8, 6), lengths=[4, 4, 4]))
