"""Augmentations: each sequence draws for itself, whatever batch, process or form it comes in."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from batches import apply, batch_of, noise, walkers
from torch import Tensor

from opengait.data.transforms import build_transforms
from opengait.data.transforms.draws import Draws
from opengait.data.transforms.parts import RandomPartBlur, RandomPartDilate, structuring_elements
from opengait.data.transforms.random_changes import RandomErasing

RANDOM = [
    {"type": "RandomHorizontalFlip"},
    {"type": "RandomRotate"},
    {"type": "RandomPerspective"},
    {"type": "RandomAffine"},
    {"type": "RandomErasing"},
    {"type": "RandomErasing", "per_frame": True},
    {"type": "RandomPartDilate"},
    {"type": "RandomPartBlur"},
    {"type": "RandomPartBlur", "per_frame": True},
]
DA = {"type": "Compose", "trf_cfg": [{"type": "BaseSilCuttingTransform"}, *RANDOM]}
every_change = pytest.mark.parametrize("entry", [*RANDOM, DA], ids=str)


@every_change
def test_a_process_gets_its_rows_of_the_whole_batch(entry: dict[str, Any]) -> None:
    frames = walkers(8, 3, 64, 64)
    whole = apply(entry, frames)
    for rank in range(3):
        share = apply(entry, frames[rank::3], positions=list(range(rank, 8, 3)))
        torch.testing.assert_close(share, whole[rank::3], rtol=0, atol=0)


@every_change
def test_packed_equals_fixed(entry: dict[str, Any]) -> None:
    frames = walkers(8, 3, 64, 64)
    packed = apply(entry, frames.reshape(1, 24, 64, 64), lengths=[3] * 8)
    torch.testing.assert_close(packed.reshape(8, 3, *packed.shape[2:]), apply(entry, frames), rtol=0, atol=1e-4)
    lengths = [1, 4, 2]
    unequal = apply(entry, frames.reshape(1, 24, 64, 64)[:, :7], lengths=lengths)
    start = 0
    for number, length in enumerate(lengths):
        alone = apply(entry, frames.reshape(1, 24, 64, 64)[:, start : start + length][0][None], positions=[number])
        torch.testing.assert_close(unequal[:, start : start + length], alone, rtol=0, atol=1e-4)
        start += length


@pytest.mark.parametrize("entry", RANDOM, ids=str)
def test_channels_change_alike(entry: dict[str, Any]) -> None:
    one = walkers(6, 2, 64, 44)
    colour = torch.stack([one, one, one], dim=2)
    out = apply(entry, colour)
    assert out.shape == (6, 2, 3, 64, 44)
    for channel in range(3):
        torch.testing.assert_close(out[:, :, channel], apply(entry, one), rtol=0, atol=1e-4)
    single = apply(entry, one[:, :, None])
    assert single.shape == (6, 2, 1, 64, 44)


@pytest.mark.parametrize("entry", RANDOM, ids=str)
def test_probabilities_are_kept(entry: dict[str, Any]) -> None:
    frames = noise(1, 1, 64, 44).expand(400, 1, 64, 44).clone()
    before = frames.clone()
    assert torch.equal(apply(entry | {"prob": 0.0}, frames), frames.float())

    def changed(prob: float) -> float:
        return (apply(entry | {"prob": prob}, frames) != frames).flatten(1).any(1).float().mean().item()

    assert changed(1.0) > 0.98  # a rare draw is that of no change, such as equal triangles
    assert abs(changed(0.2) - 0.2) < 0.08
    assert torch.equal(frames, before)  # never in place


def test_iterations_differ() -> None:
    frames = noise(64, 1, 8, 8)
    flip = {"type": "RandomHorizontalFlip"}
    assert not torch.equal(apply(flip, frames, iteration=1), apply(flip, frames, iteration=2))


def test_two_flips_are_none() -> None:
    frames = noise(4, 3, 5, 6)
    always = {"type": "RandomHorizontalFlip", "prob": 1}
    assert torch.equal(apply(always, frames), frames.flip(-1).float())
    assert torch.equal(apply({"type": "Compose", "trf_cfg": [always, always]}, frames), frames.float())


def test_equal_steps_of_a_chain_draw_apart() -> None:
    frames = noise(64, 1, 8, 8)
    flip = {"type": "RandomHorizontalFlip"}
    twice = apply({"type": "Compose", "trf_cfg": [flip, flip]}, frames)
    same = (twice == frames).flatten(1).all(1).float().mean().item()
    assert 0.25 < same < 0.75


def test_erased_boxes_have_the_sizes_asked_for() -> None:
    height, width = 64, 44
    boxes = RandomErasing(1.0).boxes(Draws(0, 0, torch.arange(4000), "cpu"), height, width)
    top, left, bottom, right = boxes.T
    tall, wide = bottom - top, right - left
    assert min(top.min(), left.min()) >= 0
    assert bottom.max() <= height
    assert right.max() <= width
    assert tall.max() < height
    assert wide.max() < width
    share = tall * wide / (height * width)
    assert 0.04 < share.min() < 0.06
    assert 0.19 < share.max() < 0.21
    assert abs(share.mean() - 0.125) < 0.01
    ratio = tall / wide
    assert 0.25 < ratio.min() < 0.35
    assert 2.8 < ratio.max() < 4
    # Room above and below is used evenly.
    assert abs((top / (height - tall)).mean() - 0.5) < 0.02
    assert abs((left / (width - wide)).mean() - 0.5) < 0.02


def test_erasing_sets_one_box_to_zero() -> None:
    frames = torch.full((20, 3, 64, 44), 255, dtype=torch.uint8)
    out = apply({"type": "RandomErasing", "prob": 1.0}, frames)
    for sequence in out:
        assert torch.equal(sequence, sequence[:1].expand_as(sequence))
        rows, columns = (sequence[0] == 0).nonzero(as_tuple=True)
        box = sequence[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box == 0).all()
        assert len(rows) == box.numel()
    single = apply({"type": "RandomErasing", "prob": 1.0, "per_frame": True}, frames)
    assert not torch.equal(single[:, 0], single[:, 1])


def test_a_box_that_never_fits_is_none() -> None:
    frames = noise(4, 2, 8, 8)
    out = apply({"type": "RandomErasing", "prob": 1.0, "sl": 1.0, "sh": 1.0, "r1": 1.0}, frames)
    assert torch.equal(out, frames.float())


def test_structuring_elements_are_those_of_opencv() -> None:
    sizes = [[(5, 3), (5, 5), (3, 5)], [(3, 3), (3, 5), (5, 3)], [(3, 3), (3, 5), (5, 3)]]
    shapes = [cv2.MORPH_RECT, cv2.MORPH_CROSS, cv2.MORPH_ELLIPSE]
    expected = {
        np.pad(cv2.getStructuringElement(shape, size), [((5 - size[1]) // 2,) * 2, ((5 - size[0]) // 2,) * 2]).tobytes()
        for shape, of_shape in zip(shapes, sizes, strict=True)
        for size in of_shape
    }
    own = [element.astype(np.uint8).tobytes() for element in structuring_elements()]
    assert len(own) == 9
    assert set(own) == expected


def parts(entry: Any, frames: Tensor) -> list[tuple[int, int]]:
    draws = Draws.of_batch(batch_of(frames), "modality 0")
    top = draws.whole_numbers("top", *entry.top_range)
    bottom = draws.whole_numbers("bottom", *entry.bot_range)
    return list(zip(top.tolist(), bottom.tolist(), strict=True))


def test_dilation_is_that_of_opencv() -> None:
    frames = noise(30, 2, 64, 44)
    frames[frames < 230] = 0
    out = apply({"type": "RandomPartDilate", "prob": 1.0}, frames)
    draws = Draws.of_batch(batch_of(frames), "modality 0")
    elements = structuring_elements()[draws.whole_numbers("element", 0, 8)]
    for n, (top, bottom) in enumerate(parts(RandomPartDilate(1.0), frames)):
        for frame, result in zip(frames[n].numpy(), out[n].numpy(), strict=True):
            expected = frame.copy()
            expected[top:bottom] = cv2.dilate(frame[top:bottom].copy(), elements[n].astype(np.uint8))
            np.testing.assert_array_equal(result, expected)


def test_blur_is_that_of_opencv_above_a_threshold() -> None:
    frames = walkers(30, 2, 64, 44).float() / 255
    out = apply({"type": "RandomPartBlur", "prob": 1.0}, frames)
    for n, (top, bottom) in enumerate(parts(RandomPartBlur(1.0), frames)):
        for frame, result in zip(frames[n].numpy(), out[n].numpy(), strict=True):
            expected = frame.copy()
            expected[top:bottom] = cv2.GaussianBlur(frame[top:bottom].copy(), (3, 3), 0) > 0.2
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("height", [3, 10, 20, 38])
@pytest.mark.parametrize("name", ["RandomPartDilate", "RandomPartBlur"])
def test_parts_end_with_the_frame(name: str, height: int) -> None:
    frames = walkers(6, 2, height, 11).float() / 255
    out = apply({"type": name, "prob": 1.0}, frames)
    assert set(out.unique().tolist()) <= {0.0, 1.0}
    if height < 9:
        assert torch.equal(out, frames)


def test_gaitssb_is_its_six_steps() -> None:
    frames = walkers(40, 2, 64, 64)
    arguments = {"top_range": [9, 20], "bot_range": [39, 50], "prob": 0.2}
    steps = [
        {"type": "RandomAffine", "prob": 0.2},
        {"type": "RandomPerspective", "prob": 0.2},
        {"type": "BaseSilCuttingTransform"},
        {"type": "RandomHorizontalFlip"},
        {"type": "RandomPartDilate", **arguments},
        {"type": "RandomPartBlur", **arguments},
    ]
    out = apply({"type": "DA4GaitSSB"}, frames)
    assert out.shape == (40, 2, 64, 44)
    assert out.max() < 1 + 1e-5
    assert torch.equal(out, apply({"type": "Compose", "trf_cfg": steps}, frames))
    assert build_transforms([{"type": "DA4GaitSSB", "cutting": 0}]).transforms[0].output_size(64, 44) == (64, 44)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"type": "RandomRotate", "prob": 1.5}, "RandomRotate: prob is a probability from 0 to 1, found 1.5"),
        ({"type": "RandomRotate", "compat": "Reference"}, "compat is 'reference' or null"),
        ({"type": "RandomErasing", "sl": 0.3}, "sl <= sh"),
        ({"type": "RandomPartBlur", "top_range": [20, 9]}, "top_range is [lowest, highest]"),
        ({"type": "Compose", "trf_cfg": [{"type": "RandomRotat"}]}, "did you mean 'RandomRotate'"),
        ({"type": "Compose"}, "Compose needs the argument 'trf_cfg'"),
        ({"type": "Rearrange", "source": "T H W C", "destination": "T C H"}, "the same names"),
    ],
)
def test_mistakes(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        build_transforms([entry])
    assert said in str(error.value)


def test_vectors_cannot_be_flipped() -> None:
    with pytest.raises(ValueError, match=r"frames .n, s, h, w. or .n, s, c, h, w. were expected, found .2, 3, 85."):
        apply({"type": "RandomHorizontalFlip"}, torch.zeros(2, 3, 85))
