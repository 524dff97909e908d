"""Random flip and erasing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from opengait.data.errors import DataError
from opengait.data.transforms.base import Probability, RandomTransform
from opengait.data.transforms.draws import Draws

TRIES = 100


class RandomHorizontalFlip(RandomTransform):
    """Mirrors a sequence, left to right.

    Args:
        prob: probability of a sequence to be mirrored.
    """

    def __init__(self, prob: Probability = 0.5) -> None:
        super().__init__(prob)

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        return images.flip(-1)


class RandomErasing(RandomTransform):
    """Sets a box to 0, in all frames of a sequence. Source: Zhong et al., AAAI 2020 (arXiv 1708.04896).

    Args:
        prob: probability of a sequence (of a frame) to lose a box.
        sl, sh: the box's share of the frame's area, from and to.
        r1: its height by its width is drawn from r1 to 1 / r1.
        per_frame: decide and draw for each frame by itself.
    """

    def __init__(
        self, prob: Probability = 0.5, sl: float = 0.05, sh: float = 0.2, r1: float = 0.3, per_frame: bool = False
    ) -> None:
        super().__init__(prob, per_frame)
        if not 0 <= sl <= sh <= 1 or not 0 < r1 <= 1:
            raise DataError(
                "RandomErasing: shares 0 <= sl <= sh <= 1 and a ratio 0 < r1 <= 1 were expected, "
                f"found sl {sl!r}, sh {sh!r}, r1 {r1!r}"
            )
        self.sl, self.sh, self.r1 = sl, sh, r1

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        box = draws.by_row(self.boxes(draws, height, width))[:, None, :, None, None]  # [g, 1, 4, 1, 1]
        top, left, bottom, right = box.unbind(2)
        y = torch.arange(height, device=images.device)[:, None]
        x = torch.arange(width, device=images.device)
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        return images.masked_fill(inside, 0)

    def boxes(self, draws: Draws, height: int, width: int) -> np.ndarray:
        """First and last + 1 row and column of each sequence's box: (top, left, bottom, right), int64 [n, 4].

        Drawn until the box is smaller than the frame; one that never is, in 100 tries, is empty.
        """
        sizes = np.zeros((len(draws), 2), dtype=np.int64)
        for number in range(TRIES):
            trial = draws.within(f"try {number}")
            area = trial.numbers("area", self.sl, self.sh) * height * width
            aspect = trial.numbers("aspect", self.r1, 1 / self.r1)
            size = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=-1).round().astype(np.int64)
            size[(size >= (height, width)).any(axis=1)] = 0
            sizes = np.where(sizes.any(axis=1, keepdims=True), sizes, size)
            if sizes.any(axis=1).all():
                break
        top = draws.whole_numbers("top", 0, height - sizes[:, 0])
        left = draws.whole_numbers("left", 0, width - sizes[:, 1])
        return np.stack([top, left, top + sizes[:, 0], left + sizes[:, 1]], axis=-1)
