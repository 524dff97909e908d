"""Transforms that put values into another order or form."""

from __future__ import annotations

from torch import Tensor

from opengait.data.errors import DataError
from opengait.data.transforms.base import Transform
from opengait.data.transforms.draws import Draws


class RatioHW(Transform):
    """Height and width of a box -> its width by its height."""

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, 2] -> [n, s]."""
        if frames.ndim != 3 or frames.shape[-1] != 2:
            raise DataError(f"RatioHW: heights and widths [n, s, 2] were expected, found {list(frames.shape)}")
        height, width = frames.float().unbind(-1)
        return width / height


class Rearrange(Transform):
    """Puts the axes of a sequence into another order.

    Args:
        source: a name for each axis as it is, time first: `T H W C`.
        destination: the same names in the order wanted: `T C H W`. Where time does not stay first, frames need a fixed
            number.
    """

    def __init__(self, source: str, destination: str) -> None:
        self.source, self.destination = source.split(), destination.split()
        if sorted(self.source) != sorted(self.destination) or len(set(self.source)) != len(self.source):
            raise DataError(
                "Rearrange: the same names, each once, were expected in source and destination, "
                f"found '{source}' and '{destination}'"
            )

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, ...] -> [n, ...]."""
        if frames.ndim != 1 + len(self.source):
            raise DataError(
                f"Rearrange: sequences with the axes {' '.join(self.source)} were expected, found frames of shape "
                f"{list(frames.shape[2:])}"
            )
        if draws.packed and self.source[0] != self.destination[0]:
            raise DataError(
                f"Rearrange: '{self.source[0]}' has to stay first where sequences of unequal length are packed"
            )
        return frames.permute(0, *(1 + self.source.index(name) for name in self.destination)).float()
