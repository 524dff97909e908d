"""What every transform is, and those that change nothing or some of the sequences."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from opengait.data.errors import DataError
from opengait.data.transforms.draws import Draws

Probability = Annotated[float, Field(ge=0, le=1)]


class Transform:
    """One modality of a batch, raw -> float32, all sequences at once and on whatever device they are.

    A class that is no Transform (`on_device` is absent or false) works on arrays: its objects are called with one
    NumPy array a sequence, and by the loader's workers.
    """

    on_device: ClassVar[bool] = True

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, ...], or packed [1, sum of lengths, ...] -> float32 of the same form.

        Args:
            draws: random numbers, one a sequence for each name.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define __call__(frames, draws)")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Frame size after the transform; ValueError where it leaves nothing."""
        return height, width


class NoOperation(Transform):
    """The values as they are, as float32; what a null entry stands for too."""

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        return frames.float()


class RandomTransform(Transform):
    """A change that falls on a sequence with probability `prob`, and on all of its frames alike.

    A subclass defines `change`. Which sequences are changed is decided on the host, so that the others cost nothing.

    Args:
        prob: probability of the change.
        per_frame: decide and draw for each frame by itself.
    """

    def __init__(self, prob: float, per_frame: bool = False) -> None:
        self.prob = check_probability(type(self).__name__, "prob", prob)
        self.per_frame = per_frame

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, h, w] or [n, s, c, h, w], or packed -> the same."""
        frames = frames.float()
        if frames.ndim not in (4, 5):
            raise DataError(
                f"{type(self).__name__}: frames [n, s, h, w] or [n, s, c, h, w] were expected, "
                f"found {list(frames.shape)}"
            )
        if self.per_frame:
            together = frames.reshape(1, -1, *frames.shape[2:])
            return self._change_some(together[0], draws.of_frames(frames)).reshape(frames.shape)
        if draws.packed:
            return self._change_some(frames[0], draws)[None]
        return self._change_some(frames, draws)

    def _change_some(self, rows: Tensor, draws: Draws) -> Tensor:
        """rows [n, s, ...], or [sum of lengths, ...] when packed."""
        chosen = draws.chosen(self.prob)
        if not len(chosen):
            return rows
        where = torch.from_numpy(draws.rows(chosen)).to(rows.device, non_blocking=True)
        some = rows[where]
        changed = self.change(some.reshape(len(some), -1, *some.shape[-2:]), draws.only(chosen))
        return rows.index_copy(0, where, changed.reshape(some.shape))

    def change(self, images: Tensor, draws: Draws) -> Tensor:
        """[g, q, h, w] -> the same: q images that are changed alike (all of a sequence, or all channels of a frame).

        Args:
            draws: of the sequences that are changed; `draws.by_row` brings values of sequences to [g, ...].
        """
        raise NotImplementedError(f"{type(self).__name__} has to define change(images, draws)")


def check_probability(transform: str, name: str, value: float) -> float:
    """The value of a transform's argument as a float.

    Raises:
        DataError: no number, or outside 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{transform}: {name} is a probability from 0 to 1, found {value!r}")
    return float(value)


def check_range(transform: str, name: str, value: object) -> tuple[int, int]:
    """Two whole numbers, both included."""
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or any(type(number) is not int or number < 0 for number in value)
        or value[0] > value[1]
    ):
        raise DataError(f"{transform}: {name} is [lowest, highest], whole numbers of 0 or more, found {value!r}")
    return value[0], value[1]
