"""Colour frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opengait.data.errors import DataError
from opengait.data.transforms.base import Transform
from opengait.data.transforms.draws import Draws

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class BaseRgbTransform(Transform):
    """Subtracts the mean and divides by the standard deviation, per channel.

    Args:
        mean, std: one number a channel in the frames' own scale (0..255); None takes those of ImageNet.
    """

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        self.mean = tuple(IMAGENET_MEAN if mean is None else mean)
        self.std = tuple(IMAGENET_STD if std is None else std)
        if len(self.mean) != len(self.std) or 0 in self.std:
            raise DataError(
                "BaseRgbTransform: one mean and one std other than 0 a channel were expected, "
                f"found mean {list(self.mean)} and std {list(self.std)}"
            )

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, c, h, w] -> the same."""
        if frames.ndim != 5 or frames.shape[2] != len(self.mean):
            raise DataError(
                f"BaseRgbTransform: frames [n, s, {len(self.mean)}, h, w] were expected, found {list(frames.shape)}"
            )
        # Made on the host, since numbers of Python's that go to a GPU at once wait for it.
        both = torch.tensor([self.mean, self.std]).to(frames.device, non_blocking=True)
        mean, std = both[:, :, None, None]
        return (frames.float() - mean) / std
