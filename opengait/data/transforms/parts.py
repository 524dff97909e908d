"""Random changes of the silhouette between two rows: it grows, or its outline is smoothed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opengait.data.transforms.base import Probability, RandomTransform, check_range
from opengait.data.transforms.draws import Draws

# Height, width and the outermost column of each row, counted from the middle, of the nine structuring elements:
# rectangles, crosses, ellipses as OpenCV has them.
ELEMENTS = (
    (1, (2, 2, 2)), (2, (2, 2, 2, 2, 2)), (2, (1, 1, 1, 1, 1)),
    (1, (0, 1, 0)), (2, (0, 0, 1, 0, 0)), (1, (0, 2, 0)),
    (1, (0, 1, 0)), (2, (0, 1, 1, 1, 0)), (1, (0, 2, 0)),
)  # fmt: skip
SIZE = 5


def structuring_elements() -> np.ndarray:
    """The nine, each in the middle of 5x5, bool [9, 5, 5]."""
    elements = np.zeros((len(ELEMENTS), SIZE, SIZE), dtype=bool)
    middle = SIZE // 2
    for element, (reach, columns) in zip(elements, ELEMENTS, strict=True):
        for row, column in enumerate(columns):
            element[middle - reach + row, middle - column : middle + column + 1] = True
    return elements


class _RandomPart(RandomTransform):
    """A change of the rows from one drawn in `top_range` up to, and without, one drawn in `bot_range`."""

    def __init__(
        self, prob: float, top_range: Sequence[int], bot_range: Sequence[int], per_frame: bool = False
    ) -> None:
        super().__init__(prob, per_frame)
        name = type(self).__name__
        self.top_range = check_range(name, "top_range", top_range)
        self.bot_range = check_range(name, "bot_range", bot_range)

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        height = images.shape[-2]
        top, bottom = (
            draws.by_row(np.minimum(draws.whole_numbers(name, *bounds), height))[:, None]
            for name, bounds in (("top", self.top_range), ("bottom", self.bot_range))
        )
        changed = self.change_part(images, top, bottom, draws)
        y = torch.arange(height, device=images.device)
        part = (y >= top) & (y < bottom)  # [g, h]
        return torch.where(part[:, None, :, None], changed, images)

    def change_part(self, images: Tensor, top: Tensor, bottom: Tensor, draws: Draws) -> Tensor:
        """[g, q, h, w] -> the same, right in the rows top to bottom - 1 ([g, 1] each) as if there were no others."""
        raise NotImplementedError(f"{type(self).__name__} has to define change_part(images, top, bottom, draws)")


class RandomPartDilate(_RandomPart):
    """Dilates a part of the silhouette with a rectangle (5x3, 5x5, 3x5), or a cross or ellipse (3x3, 3x5, 5x3).

    Source: GaitSSB (Fan et al., TPAMI 2023).

    Args:
        prob: probability of a sequence to be changed.
        top_range, bot_range: the part's first row, and the one after its last, are drawn from these, ends included.
    """

    def __init__(
        self,
        prob: Probability = 0.5,
        top_range: tuple[int, int] = (12, 16),
        bot_range: tuple[int, int] = (36, 40),
    ) -> None:
        super().__init__(prob, top_range, bot_range)

    def change_part(self, images: Tensor, top: Tensor, bottom: Tensor, draws: Draws) -> Tensor:
        drawn = structuring_elements()[draws.whole_numbers("element", 0, len(ELEMENTS) - 1)]  # [n, 5, 5]
        members = draws.by_row(drawn)
        height, width = images.shape[-2:]
        y = torch.arange(height, device=images.device)
        outside = (y < top) | (y >= bottom)
        lowest = float("-inf")
        margin = SIZE // 2
        padded = F.pad(images.masked_fill(outside[:, None, :, None], lowest), (margin,) * 4, value=lowest)
        grown = images
        for row, column in np.argwhere(drawn.any(axis=0)).tolist():
            shifted = padded[..., row : row + height, column : column + width]
            grown = torch.where(members[:, row, column, None, None, None], torch.maximum(grown, shifted), grown)
        return grown


class RandomPartBlur(_RandomPart):
    """Smooths a part of the silhouette: Gaussian of 3x3, then 1 above 0.2 and 0 elsewhere. For frames of 0 to 1.

    Source: GaitSSB (Fan et al., TPAMI 2023).

    Args:
        prob: probability of a sequence (of a frame) to be changed.
        top_range, bot_range: the part's first row, and the one after its last, are drawn from these, ends included.
        per_frame: decide and draw for each frame by itself.
    """

    def __init__(
        self,
        prob: Probability = 0.5,
        top_range: tuple[int, int] = (9, 20),
        bot_range: tuple[int, int] = (29, 40),
        per_frame: bool = False,
    ) -> None:
        super().__init__(prob, top_range, bot_range, per_frame)

    def change_part(self, images: Tensor, top: Tensor, bottom: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        y = torch.arange(height, device=images.device)
        smooth = _weigh(images, *(_rows(images, index) for index in _neighbours(y, top, bottom)))
        x = torch.arange(width, device=images.device)
        left, right = _neighbours(x, torch.zeros_like(x), torch.full_like(x, width))
        smooth = _weigh(smooth, smooth[..., left], smooth[..., right])
        return (smooth > 0.2).to(images.dtype)


def _neighbours(index: Tensor, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The lines before and after each, mirrored at the ends without repeating the last; a single line is its own."""
    before = torch.where(index == first, index + 1, index - 1)
    after = torch.where(index == end - 1, index - 1, index + 1)
    last = index.shape[-1] - 1
    before, after = (line.clamp(first, torch.maximum(end - 1, first)).clamp(0, last) for line in (before, after))
    return before, after


def _rows(images: Tensor, index: Tensor) -> Tensor:
    """The rows [g, h] of images [g, q, h, w]."""
    return images.gather(2, index[:, None, :, None].expand_as(images))


def _weigh(line: Tensor, before: Tensor, after: Tensor) -> Tensor:
    return 0.5 * line + 0.25 * (before + after)
