"""Warps draw what OpenCV draws, and nothing that is not asked for."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from batches import apply, batch_of, noise, walkers

from opengait.data.transforms.draws import Draws
from opengait.data.transforms.warps import RandomAffine, RandomPerspective, RandomRotate

WARPS = [{"type": "RandomRotate"}, {"type": "RandomPerspective"}, {"type": "RandomAffine"}]
SIZES = [(64, 44), (64, 64), (128, 88), (32, 22), (33, 45)]


def maps(warp: Any, count: int, height: int, width: int) -> np.ndarray:
    return warp.back(Draws(0, 0, torch.arange(count), "cpu"), height, width)


@pytest.mark.parametrize("make", [noise, walkers])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("entry", WARPS, ids=lambda entry: entry["type"])
def test_as_opencv(entry: dict[str, Any], size: tuple[int, int], make: Any) -> None:
    """One frame at a time: OpenCV rounds positions to 1/32 pixel where it warps many channels at once."""
    frames = make(6, 2, *size)
    out = apply(entry | {"prob": 1.0}, frames)
    warp = {"RandomRotate": RandomRotate, "RandomPerspective": RandomPerspective, "RandomAffine": RandomAffine}[
        entry["type"]
    ](prob=1.0)
    draws = Draws.of_batch(batch_of(frames), "modality 0")
    for sequence, back, result in zip(frames.numpy(), warp.back(draws, *size), out.numpy(), strict=True):
        for frame, one in zip(sequence, result, strict=True):
            if entry["type"] == "RandomPerspective":
                expected = cv2.warpPerspective(frame, np.linalg.inv(back), size[::-1])
            else:
                expected = cv2.warpAffine(frame, np.linalg.inv(back)[:2], size[::-1])
            assert np.abs(expected.astype(np.float32) - one).max() <= 1


def test_rotation_is_that_of_opencv_about_the_middle() -> None:
    draws = Draws(0, 0, torch.arange(200), "cpu")
    angles = draws.numbers("angle", -20, 20)
    back = RandomRotate(1.0, degree=20).back(draws, 64, 44)
    for angle, one in zip(angles, back, strict=True):
        expected = cv2.getRotationMatrix2D((22, 32), angle, 1)
        np.testing.assert_allclose(np.linalg.inv(one)[:2], expected, atol=1e-9)
    np.testing.assert_allclose(back @ (22, 32, 1), np.tile([22.0, 32.0, 1.0], (200, 1)), atol=1e-9)
    assert angles.min() < -18
    assert angles.max() > 18


def test_the_swapped_centre_of_the_reference() -> None:
    back = maps(RandomRotate(1.0, compat="reference"), 20, 64, 44)
    np.testing.assert_allclose(back @ (32, 22, 1), np.tile([32.0, 22.0, 1.0], (20, 1)), atol=1e-9)


@pytest.mark.parametrize(("width", "reach"), [(44, 10), (64, 10), (88, 20), (22, 5), (4, 1)])
def test_perspective_stretches_a_quadrilateral_to_the_frame(width: int, reach: int) -> None:
    height = 64
    back = maps(RandomPerspective(1.0), 400, height, width)
    corners = np.array([(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)], dtype=np.float64)
    from_ = back @ corners.T  # [n, 3, 4]
    x, y = from_[:, 0] / from_[:, 2], from_[:, 1] / from_[:, 2]
    np.testing.assert_allclose(y, np.tile([0.0, 0.0, height, height], (400, 1)), atol=1e-6)
    np.testing.assert_allclose(x, x.round(), atol=1e-6)
    for left in (x[:, 0], x[:, 3]):
        assert set(left.round().astype(int)) == set(range(reach))
    for right in (x[:, 1], x[:, 2]):
        assert set(right.round().astype(int)) == set(range(width - reach, width))


@pytest.mark.parametrize("compat", [None, "reference"])
def test_affine_moves_three_corners(compat: Any) -> None:
    height, width = 64, 44
    back = maps(RandomAffine(1.0, compat=compat), 50, height, width)
    np.testing.assert_allclose(back[:, 2], np.tile([0.0, 0.0, 1.0], (50, 1)), atol=1e-12)
    # The triangle's corners are whole numbers, so a map takes three points near corners to whole numbers.
    right, down = (width, height) if compat is None else (height, width)
    found = 0
    for one in back:
        for corner in ((0, 0), (right - 9, 0), (0, down - 9)):
            grid = np.array([(corner[0] + i, corner[1] + j, 1) for i in range(10) for j in range(10)], dtype=np.float64)
            moved = (one @ grid.T)[:2].T
            found += bool((np.abs(moved - moved.round()).max(axis=1) < 1e-6).any())
    assert found == 150


@pytest.mark.parametrize("entry", WARPS, ids=lambda entry: entry["type"])
def test_small_frames_are_warped_too(entry: dict[str, Any]) -> None:
    for size in ((1, 1), (2, 3), (16, 11), (20, 64)):
        out = apply(entry | {"prob": 1.0}, noise(5, 2, *size))
        assert out.shape == (5, 2, *size)
        assert bool(torch.isfinite(out).all())
