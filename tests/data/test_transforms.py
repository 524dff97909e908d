"""Transforms: equal to the reference's numbers, and blind to how a batch is put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import apply, batch_of, chain, noise
from torch import Tensor

from opengait.data.transforms import Transforms, build_transforms
from opengait.data.transforms.draws import Draws
from opengait.data.transforms.recycled import Recycled
from opengait.data.transforms.silhouette import BaseSilCuttingTransform, scaled


@pytest.mark.parametrize(
    ("name", "key"), [("BaseSilCuttingTransform", "BaseSilCutting_64"), ("BaseRgbTransform", "BaseRgb")]
)
def test_golden(shared: Callable[[str], Path], name: str, key: str) -> None:
    golden = np.load(shared("golden/pretreat/pretreat.npz"))
    frames = torch.from_numpy(golden[f"trf_in/{key}"])
    for shaped in (frames[None], torch.stack([frames, frames])):
        for sequence in apply({"type": name}, shaped):
            torch.testing.assert_close(sequence, torch.from_numpy(golden[f"trf_out/{key}"]), rtol=1e-6, atol=1e-6)


def test_division_is_the_correctly_rounded_one() -> None:
    """The reference divides in float64 and rounds to float32; dividing in float32 gives the same bits."""
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = (values.double() / 255.0).float()
    assert torch.equal(apply({"type": "BaseSilTransform"}, values), expected)


@pytest.mark.parametrize(
    ("width", "cutting", "left"),
    [(64, None, 44), (128, None, 88), (44, None, 44), (63, None, 63), (64, 0, 64), (64, 3, 58)],
)
def test_cutting_takes_the_middle(width: int, cutting: int | None, left: int) -> None:
    frames = noise(2, 3, 8, width)
    entry = {"type": "BaseSilCuttingTransform", "cutting": cutting}
    start = (width - left) // 2
    torch.testing.assert_close(apply(entry, frames), frames[..., start : start + left].float() / 255)
    assert build_transforms([entry]).transforms[0].output_size(8, width) == (8, left)


def test_divisor_and_shape_of_frames() -> None:
    frames = noise(2, 3, 48)
    out = apply({"type": "BaseSilTransform", "divsor": 1, "img_shape": [8, 6]}, frames)
    torch.testing.assert_close(out, frames.reshape(2, 3, 8, 6).float())


def test_null_casts_only() -> None:
    frames = noise(2, 3, 4, 4)
    torch.testing.assert_close(apply(None, frames), frames.float())
    assert apply(None, torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"type": "BaseSilCutingTransform"}], "did you mean 'BaseSilCuttingTransform'"),
        ([{"type": "BaseSilTransform", "cutting": 3}], "takes no argument 'cutting'"),
        ([{"type": "BaseSilCuttingTransform", "cuting": 3}], "did you mean 'cutting'"),
        ([{"type": "BaseSilCuttingTransform", "cutting": -1}], "found -1"),
        ([{"type": "BaseSilCuttingTransform", "cutting": 32}], "leaves nothing"),
        ([{"type": "BaseSilTransform", "divsor": 0}], "divsor"),
        ([{"type": "BaseSilTransform", "img_shape": [3, 3]}], "does not fit"),
        ([{"type": "BaseRgbTransform"}], "frames [n, s, 3, h, w] were expected"),
        ([{"type": "BaseRgbTransform", "mean": [1]}], "one mean and one std"),
        ([{"cutting": 3}], "`type`"),
        (["BaseSilTransform"], "`type`"),
        ({"type": "BaseSilTransform"}, "a list"),
        ([None, None], "sequences have 1 modalities and the section `transform` has 2 entries"),
        ([], "has 0 entries"),
    ],
)
def test_mistakes(entries: Any, said: str) -> None:
    with pytest.raises(ValueError) as error:
        build_transforms(entries)(batch_of(noise(1, 2, 64, 64)))
    assert said in str(error.value)


def test_modalities_keep_their_order() -> None:
    sil, ratio = noise(2, 3, 64, 64), torch.rand(2, 3, dtype=torch.float64)
    first, second = build_transforms([{"type": "BaseSilCuttingTransform"}, None])(batch_of(sil, ratio))
    assert first.shape == (2, 3, 64, 44)
    torch.testing.assert_close(second, ratio.float())


def test_draws_belong_to_the_sequence_not_to_the_batch() -> None:
    frames = noise(4, 3, 8, 8)
    together = Draws.of_batch(batch_of(frames), "modality 0")
    for name in ("flip", "angle"):
        values = together.uniform(name, -2.0, 5.0)
        assert values.dtype == torch.float32
        assert ((values >= -2) & (values < 5)).all()
        for position in range(4):
            alone = Draws.of_batch(batch_of(frames[:1], positions=[position]), "modality 0")
            torch.testing.assert_close(alone.uniform(name, -2.0, 5.0), values[position : position + 1], rtol=0, atol=0)
        packed = Draws.of_batch(batch_of(frames.reshape(1, 12, 8, 8), lengths=[3, 4, 3, 2]), "modality 0")
        torch.testing.assert_close(packed.uniform(name, -2.0, 5.0), values, rtol=0, atol=0)
    assert not torch.equal(together.uniform("flip"), together.uniform("angle"))
    assert not torch.equal(together.uniform("flip"), together.within("step 1").uniform("flip"))
    assert not torch.equal(together.uniform("flip"), Draws.of_batch(batch_of(frames), "modality 1").uniform("flip"))


def test_whole_draws_cover_their_range() -> None:
    draws = Draws(0, 0, torch.arange(500), "cpu")
    assert set(draws.integers("top", 3, 6).tolist()) == {3, 4, 5, 6}


def test_per_sequence_values_reach_every_frame_of_theirs() -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    fixed = torch.ones(3, 4, 2, 2)
    torch.testing.assert_close(
        fixed * Draws.of_batch(batch_of(fixed), "").per_frame(values, fixed), fixed * values.view(3, 1, 1, 1)
    )
    packed, lengths = torch.ones(1, 6, 2, 2), [1, 3, 2]
    shaped = Draws.of_batch(batch_of(packed, lengths=lengths), "").per_frame(values, packed)
    assert shaped.shape == (1, 6, 1, 1)
    assert shaped.flatten().tolist() == [1, 2, 2, 2, 3, 3]


def test_parsing_maps_keep_their_classes() -> None:
    """A sequence decides by its own maximum, also in a packed batch."""
    classes, grey = noise(1, 3, 8, 64) % 12, noise(1, 3, 8, 64)
    grey[0, 0, 0, 30] = 255
    entry = {"type": "BaseParsingCuttingTransform"}
    fixed = apply(entry, torch.cat([classes, grey]))
    torch.testing.assert_close(fixed[0], classes[0, ..., 10:54].float())
    torch.testing.assert_close(fixed[1], grey[0, ..., 10:54].float() / 255)
    packed = apply(entry, torch.cat([classes, grey], dim=1), lengths=[3, 3])
    torch.testing.assert_close(packed[0], fixed.flatten(0, 1))


def test_ratio_of_height_and_width() -> None:
    sizes = torch.tensor([[[200, 100], [64, 48]]])
    assert apply({"type": "RatioHW"}, sizes).tolist() == [[0.5, 0.75]]
    with pytest.raises(ValueError, match="heights and widths"):
        apply({"type": "RatioHW"}, torch.ones(1, 2))


def test_axes_are_put_into_another_order() -> None:
    frames = noise(2, 3, 8, 6, 3)
    entry = {"type": "Rearrange", "source": "T H W C", "destination": "T C H W"}
    assert torch.equal(apply(entry, frames), frames.permute(0, 1, 4, 2, 3).float())
    packed = apply(entry, frames.reshape(1, 6, 8, 6, 3), lengths=[2, 4])
    assert packed.shape == (1, 6, 3, 8, 6)
    moved = {"type": "Rearrange", "source": "T H W C", "destination": "C T H W"}
    assert apply(moved, frames).shape == (2, 3, 3, 8, 6)
    with pytest.raises(ValueError, match="has to stay first"):
        apply(moved, frames.reshape(1, 6, 8, 6, 3), lengths=[2, 4])
    with pytest.raises(ValueError, match="axes T H W C were expected"):
        apply(entry, noise(2, 3, 8, 6))


def test_no_operation_casts_only() -> None:
    frames = noise(2, 3, 4, 4)
    assert torch.equal(apply({"type": "NoOperation"}, frames), frames.float())


@pytest.mark.parametrize("divisor", [255.0, 3.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_scaling_in_one_pass_has_the_bits_of_two(dtype: torch.dtype, divisor: float) -> None:
    frames = torch.arange(256).reshape(1, 2, 4, 32).to(dtype)[..., 3:-5]
    found = scaled(frames, divisor, Recycled())
    assert found.dtype == torch.float32
    assert torch.equal(found, frames.float() / divisor)


@pytest.mark.parametrize("lengths", [None, [3, 1, 4]])
@pytest.mark.parametrize(
    ("entry", "width"),
    [
        ({"type": "BaseSilCuttingTransform"}, 44),
        ({"type": "BaseSilCuttingTransform", "cutting": 3, "divsor": 100.0}, 58),
        (chain("BaseSilCuttingTransform", "RandomHorizontalFlip", "RandomErasing"), 44),
        (chain(chain("BaseSilCuttingTransform"), {"type": "BaseSilCuttingTransform", "cutting": 2}), 44),
        (chain("RandomHorizontalFlip", "BaseSilCuttingTransform"), 64),
        ({"type": "BaseParsingCuttingTransform"}, 64),
        ({"type": "BaseSilTransform"}, 64),
        (None, 64),
    ],
)
def test_a_cut_that_a_transform_begins_with_can_be_done_before(
    entry: Any, width: int, lengths: list[int] | None
) -> None:
    """Parsing maps and what is cut later stay whole; the input is the same bit for bit."""
    torch.manual_seed(0)
    shape = (3, 8) if lengths is None else (1, 8)
    frames = torch.randint(256, (*shape, 5, 64), dtype=torch.uint8)
    batch = batch_of(frames, frames[..., 0].clone(), lengths=lengths)
    transforms = build_transforms([entry, None])
    prepared = transforms.prepare(batch)
    assert [tuple(one.shape) for one in prepared.frames] == [(*shape, 5, width), (*shape, 5)]
    assert prepared.frames[0].dtype == torch.uint8
    assert transforms.prepare(prepared) is prepared
    whole = [transform(*each) for transform, *each in transforms._of_modalities(batch)]
    for found in (transforms(prepared), transforms(batch)):
        assert all(torch.equal(one, other.float()) for one, other in zip(found, whole, strict=True))


def test_a_transform_made_of_a_cut_is_given_whole_frames() -> None:
    class Edges(BaseSilCuttingTransform):
        def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
            return frames[..., :10].float()

    batch = batch_of(torch.full((1, 2, 4, 64), 7, dtype=torch.uint8))
    transforms = Transforms([Edges()])
    assert transforms.prepare(batch) is batch
    assert transforms(batch)[0].shape == (1, 2, 4, 10)
