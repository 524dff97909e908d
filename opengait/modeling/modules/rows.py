"""Sequences laid out so that convolutions over frames never mix two of them."""

from __future__ import annotations

import torch
from torch import Tensor

from opengait.modeling.modules.frames import checked_lengths, frame_max


class EqualLengths:
    """Sequences of one length, a row each: nothing has to be kept apart.

    Args:
        least: fewest frames; a shorter sequence is repeated from its start until it has as many.
    """

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def lay(self, x: Tensor) -> Tensor:
        """[n, c, s, ...] -> [n, c, s or more, ...]."""
        times = -(-self.least // x.shape[2])
        return x if times == 1 else x.repeat(1, 1, times, *(1,) * (x.ndim - 3))

    def clear(self, x: Tensor, value: float = 0.0) -> Tensor:
        """There are no gaps to fill."""
        return x

    def every(self, stride: int) -> EqualLengths:
        """The layout behind a convolution of that kernel and stride over frames."""
        return self

    def maximum(self, x: Tensor) -> Tensor:
        """[n, c, s, ...] -> [n, c, ...], over the frames of each sequence."""
        return frame_max(x)


class GappedRow:
    """Sequences of several lengths in one row, with empty frames between them.

    A convolution over frames sees at both ends of a sequence what it pads a single one with, as long as `clear` empties
    the gaps again behind every layer that fills them; `every` follows a strided convolution, which drops the frames
    left over at the end of a sequence. So a row gives what one sequence at a time gives, in one call, and no statistics
    or gradients pass from one sequence to another.

    Args:
        lengths: frames of each sequence, int [n].
        frames: their sum, as the shape of the packed input tells it without a look at the values.
        gap: fewest empty frames behind a sequence; half the widest kernel.
        stride: every sequence starts at a multiple of it.
        least: fewest frames; a shorter sequence is repeated from its start until it has as many.
    """

    def __init__(self, lengths: Tensor, frames: int, gap: int, stride: int = 1, least: int = 1) -> None:
        longer = lengths * torch.div(least + lengths - 1, lengths, rounding_mode="floor")  # shorter ones repeated
        slots = torch.div(longer + gap + stride - 1, stride, rounding_mode="floor") * stride
        if lengths.device.type == "cpu" or not torch.is_grad_enabled():
            total = int(slots.sum())
        else:  # the most it can be, so that a training step does not wait for the GPU to say
            total = -(-(frames + len(lengths) * (gap + stride + least - 2)) // stride) * stride
        starts = slots.cumsum(0) - slots
        slots[-1] = total - starts[-1]
        sequence = torch.arange(len(lengths), device=lengths.device).repeat_interleave(slots, output_size=total)
        offset = torch.arange(total, device=lengths.device) - starts[sequence]
        first = lengths.cumsum(0) - lengths
        self._source = first[sequence] + offset % lengths[sequence]
        self._set(slots, longer, offset, sequence)

    def _set(self, slots: Tensor, lengths: Tensor, offset: Tensor, sequence: Tensor) -> None:
        self.slots, self.lengths, self._offset, self._sequence = slots, lengths, offset, sequence
        self.is_gap = offset >= lengths[sequence]

    def lay(self, x: Tensor) -> Tensor:
        """Packed [1, c, sum of lengths, ...] -> row [1, c, frames with gaps, ...]; gaps are 0."""
        return self.clear(x.index_select(2, self._source))

    def clear(self, x: Tensor, value: float = 0.0) -> Tensor:
        """A row with its gaps filled with a value."""
        return x.masked_fill(self.is_gap.view(1, 1, -1, *(1,) * (x.ndim - 3)), value)

    def every(self, stride: int) -> GappedRow:
        """The layout behind a convolution of that kernel and stride over frames."""
        behind = object.__new__(GappedRow)
        slots = torch.div(self.slots, stride, rounding_mode="floor")
        lengths = torch.div(self.lengths, stride, rounding_mode="floor")
        offset = torch.div(self._offset[::stride], stride, rounding_mode="floor")
        behind._set(slots, lengths, offset, self._sequence[::stride])
        return behind

    def maximum(self, x: Tensor) -> Tensor:
        """A row -> [n, c, ...], over the frames of each sequence without its gap."""
        return frame_max(self.clear(x, float("-inf")), self.slots[None])


def layout(x: Tensor, seqL: Tensor | None, gap: int, stride: int = 1, least: int = 1) -> EqualLengths | GappedRow:
    """The layout for sequences [n, c, s, ...], or packed [1, c, sum of lengths, ...] with `seqL` [1, n].

    Raises:
        ValueError: packed sequences in more than one row; on a CPU also lengths that do not add up to the frames.
    """
    if seqL is None:
        return EqualLengths(least)
    lengths = checked_lengths(x, seqL)
    if len(lengths) == 1:
        return EqualLengths(least)
    return GappedRow(lengths, x.shape[2], gap, stride, least)
