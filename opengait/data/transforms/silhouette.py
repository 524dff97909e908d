"""Silhouettes, uint8 0..255 -> float32 0..1, and parsing maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opengait.data.errors import DataError
from opengait.data.transforms.base import Transform
from opengait.data.transforms.draws import Draws
from opengait.data.transforms.recycled import Recycled


def scaled(frames: Tensor, divisor: float, memory: Recycled) -> Tensor:
    """Float32 frames / divisor; the same bits whichever way it is computed.

    On a CPU uint8 frames are converted and divided in one pass (NumPy's, which buffers; torch would convert all of them
    first), into memory that was used before: most of the time goes into taking arrays from the system, page by page.
    """
    if frames.device.type != "cpu" or frames.dtype != torch.uint8:
        return frames.float() / divisor
    result = memory.empty(frames.shape)
    np.divide(frames.numpy(), np.float32(divisor), out=result.numpy(), dtype=np.float32, casting="unsafe")
    return result


class BaseSilTransform(Transform):
    """Divides by `divsor`, after an optional reshape of every frame.

    Args:
        divsor: what the values are divided by (the field's spelling).
        img_shape: new shape of a frame with the same number of values, such as [h, w] for frames stored flat.
    """

    def __init__(self, divsor: float = 255.0, img_shape: Sequence[int] | None = None) -> None:
        self.divsor = _check_divisor(divsor)
        self._memory = Recycled()
        self.img_shape = None if img_shape is None else tuple(img_shape)

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, ...] -> [n, s, h, w]."""
        if self.img_shape is not None:
            if frames[0, 0].numel() != torch.Size(self.img_shape).numel():
                raise DataError(
                    f"BaseSilTransform: img_shape {list(self.img_shape)} does not fit frames of shape "
                    f"{list(frames.shape[2:])}"
                )
            frames = frames.reshape(*frames.shape[:2], *self.img_shape)
        return scaled(frames, self.divsor, self._memory)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return (height, width) if self.img_shape is None else (self.img_shape[-2], self.img_shape[-1])


class BaseSilCuttingTransform(Transform):
    """Removes the same number of columns at both sides and divides by `divsor`.

    Args:
        divsor: what the values are divided by (the field's spelling).
        cutting: columns to remove at each side; None takes 10 for each whole 64 of the width, so that 64 becomes 44
            and 128 becomes 88, and frames narrower than 64 stay as they are.
    """

    def __init__(self, divsor: float = 255.0, cutting: int | None = None) -> None:
        self.divsor = _check_divisor(divsor)
        self._memory = Recycled()
        if cutting is not None and (type(cutting) is not int or cutting < 0):
            raise DataError(f"{type(self).__name__}: cutting is a whole number of columns or null, found {cutting!r}")
        self.cutting = cutting

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, h, w] -> [n, s, h, w - 2 cutting]."""
        return self.scale(self.cut(frames))

    def cut(self, frames: Tensor) -> Tensor:
        """[n, s, h, w] -> a view of the columns that stay."""
        columns = self._columns(frames.shape[-1])
        return frames[..., columns : frames.shape[-1] - columns]

    def scale(self, frames: Tensor) -> Tensor:
        """What is left to do with frames that are cut."""
        return scaled(frames, self.divsor, self._memory)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width - 2 * self._columns(width)

    def _columns(self, width: int) -> int:
        cut = width // 64 * 10 if self.cutting is None else self.cutting
        if 2 * cut >= width:
            raise DataError(
                f"{type(self).__name__}: cutting {cut} columns off each side of frames {width} wide leaves nothing; "
                "use BaseSilTransform, or a smaller `cutting`"
            )
        return cut


class BaseParsingCuttingTransform(BaseSilCuttingTransform):
    """Removes the same number of columns at both sides; divides a sequence by `divsor` if its maximum is exactly 255.

    Parsing maps hold small class numbers, which stay as they are, and silhouettes can stand beside them. Each sequence
    of a packed batch is looked at by itself.

    Args:
        divsor, cutting: as for BaseSilCuttingTransform.
    """

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, h, w] -> [n, s, h, w - 2 cutting]."""
        frames = self.cut(frames).float()
        brightest = frames.flatten(2).amax(2)  # [n, s]
        if draws.packed:
            brightest = torch.stack([sequence.amax() for sequence in draws.split(brightest)])
        else:
            brightest = brightest.amax(1)
        divisors = torch.where(brightest == 255, self.divsor, 1.0)
        return frames / draws.per_frame(divisors, frames)


def _check_divisor(divsor: float) -> float:
    if isinstance(divsor, bool) or not isinstance(divsor, int | float) or divsor == 0:
        raise DataError(f"divsor: a number other than 0 was expected, found {divsor!r}")
    return float(divsor)
