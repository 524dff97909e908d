"""Random warps: bilinear, zero outside the frame, as OpenCV's warpAffine and warpPerspective draw them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opengait.data.errors import DataError
from opengait.data.transforms.base import Probability, RandomTransform
from opengait.data.transforms.draws import Draws

Compat = Literal["reference"] | None


def warp(images: Tensor, back: Tensor) -> Tensor:
    """Draws every image anew from where its pixels come from.

    Args:
        images: float [g, q, h, w].
        back: [g, 3, 3], maps a pixel (x, y, 1) of the result to its place in `images`; whole numbers are pixel centres.

    Returns:
        [g, q, h, w]; values between pixels are bilinear, those outside are 0.
    """
    height, width = images.shape[-2:]
    y = torch.arange(height, dtype=back.dtype, device=back.device)[:, None]
    x = torch.arange(width, dtype=back.dtype, device=back.device)
    # Sums instead of a matrix product, which a GPU may round to ten bits.
    rows = back[:, :, :, None, None]  # [g, 3, 3, 1, 1]
    from_x, from_y, scale = (rows[:, i, 0] * x + rows[:, i, 1] * y + rows[:, i, 2] for i in range(3))
    grid = torch.stack([(2 * from_x / scale + 1) / width - 1, (2 * from_y / scale + 1) / height - 1], dim=-1)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)


class _RandomWarp(RandomTransform):
    """A warp that each sequence draws for itself; a subclass says where pixels come from."""

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        return warp(images, draws.by_row(self.back(draws, *images.shape[-2:])))

    def back(self, draws: Draws, height: int, width: int) -> np.ndarray:
        """Maps of result to source, float64 [n, 3, 3]."""
        raise NotImplementedError(f"{type(self).__name__} has to define back(draws, height, width)")


class RandomRotate(_RandomWarp):
    """Turns a sequence about the middle of its frames, (w // 2, h // 2).

    Args:
        prob: probability of a sequence to be turned.
        degree: the angle is drawn from -degree to degree.
        compat: 'reference' turns about (h // 2, w // 2) instead, as the reference implementation does.
    """

    def __init__(self, prob: Probability = 0.5, degree: float = 10, compat: Compat = None) -> None:
        super().__init__(prob)
        self.degree = degree
        self.compat = _check_compat("RandomRotate", compat)

    def back(self, draws: Draws, height: int, width: int) -> np.ndarray:
        x, y = width // 2, height // 2
        if self.compat == "reference":
            x, y = y, x
        angle = np.deg2rad(draws.numbers("angle", -self.degree, self.degree))
        cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
        # A positive angle turns against the clock, y pointing down; this is the way back.
        return np.stack(
            [
                np.stack([cos, -sin, x - cos * x + sin * y], axis=-1),
                np.stack([sin, cos, y - sin * x - cos * y], axis=-1),
                np.stack([zero, zero, one], axis=-1),
            ],
            axis=1,
        )


class RandomPerspective(_RandomWarp):
    """Stretches a quadrilateral to the whole frame; its corners are drawn along the frame's upper and lower edge.

    Corners lie up to 10 columns from the frame's own for each whole 44 of the width; in narrower frames, 10 / 44 of it.

    Args:
        prob: probability of a sequence to be changed.
    """

    def __init__(self, prob: Probability = 0.5) -> None:
        super().__init__(prob)

    def back(self, draws: Draws, height: int, width: int) -> np.ndarray:
        columns = _reach(width, 44, width // 2)
        top_left, bottom_left = (draws.whole_numbers(name, 0, columns - 1) for name in ("top left", "bottom left"))
        top_right, bottom_right = (
            draws.whole_numbers(name, width - columns, width - 1) for name in ("top right", "bottom right")
        )
        zero, last = np.zeros_like(top_left), np.full_like(top_left, height)
        corners = [(top_left, zero), (top_right, zero), (bottom_right, last), (bottom_left, last)]
        frame = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
        return _homography(frame, np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1))


class RandomAffine(_RandomWarp):
    """Maps one random triangle to another, each near three corners of the frame.

    Points lie up to 10 pixels from the corners for each whole 64 of the height; in smaller frames, 10 / 64 of it.

    Args:
        prob: probability of a sequence to be changed.
        degree: without effect; a key of the reference implementation.
        compat: 'reference' takes the height for the width, as the reference implementation does.
    """

    def __init__(self, prob: Probability = 0.5, degree: float = 10, compat: Compat = None) -> None:
        super().__init__(prob)
        self.compat = _check_compat("RandomAffine", compat)

    def back(self, draws: Draws, height: int, width: int) -> np.ndarray:
        # Within a third of the frame, three points keep their turning sense.
        reach = _reach(height, 64, min(height, width) // 3)
        if self.compat == "reference":
            height, width = width, height
        source, target = (self._triangle(draws.within(name), height, width, reach) for name in ("source", "target"))
        ones = np.ones((*source.shape[:2], 1))
        back = np.linalg.solve(np.concatenate([target, ones], axis=-1), np.concatenate([source, ones], axis=-1))
        return back.transpose(0, 2, 1)

    def _triangle(self, draws: Draws, height: int, width: int, reach: int) -> np.ndarray:
        """Points (x, y) near the upper left, upper right and lower left corner, float64 [n, 3, 2]."""
        x1, y1, x2, y2, x3, y3 = (draws.whole_numbers(str(number), 0, max(reach - 1, 0)) for number in range(6))
        points = [(x1, y1), (width - x2, y2), (x3, height - y3)]
        return np.stack([np.stack(point, axis=-1) for point in points], axis=1).astype(np.float64)


def _homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The perspective map of four points (x, y) to four others: [4, 2], [n, 4, 2] -> [n, 3, 3]."""
    count = len(target)
    equations = np.zeros((count, 8, 8))
    for point in range(4):
        x, y = source[point]
        for axis in range(2):
            row = equations[:, 2 * point + axis]
            row[:, 3 * axis : 3 * axis + 3] = x, y, 1
            row[:, 6:] = -target[:, point, axis, None] * source[point]
    solved = np.linalg.solve(equations, target.reshape(count, 8, 1).astype(np.float64))[..., 0]
    return np.concatenate([solved, np.ones((count, 1))], axis=1).reshape(count, 3, 3)


def _reach(size: int, unit: int, most: int) -> int:
    """10 pixels for each whole unit of the size, or that share of a size below one unit."""
    return min(size // unit * 10 or max(1, size * 10 // unit), most)


def _check_compat(transform: str, compat: str | None) -> str | None:
    if compat not in (None, "reference"):
        raise DataError(f"{transform}: compat is 'reference' or null, found {compat!r}")
    return compat
