"""Convolutions over frames that never mix two sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from opengait.modeling.modules.convolutions import Conv3d
from opengait.modeling.modules.frames import checked_lengths


class SequenceConv3d(Conv3d):
    """A 3-D convolution over frames, height and width that also takes sequences packed end to end; keys of Conv3d.

    Between packed sequences it sees as many empty frames as it pads at the ends of a single one, so each sequence
    gives what it gives alone. Nothing else sees those frames: they are cut out again, and a batch norm behind has
    statistics of real frames only.
    """

    def forward(self, x: Tensor, seqL: Tensor | None = None) -> Tensor:
        """[n, c_in, s, h, w], or packed [1, c_in, sum of lengths, h, w] with `seqL` [1, n] -> [., c_out, s', h', w'].

        Raises:
            ValueError: as `checked_lengths`, or a convolution that changes the lengths of packed sequences.
        """
        if seqL is None or self.kernel_size[0] == 1:
            return super().forward(x)
        padding = int(self.padding[0])
        if self.stride[0] != 1 or self.kernel_size[0] != 2 * padding + 1 or self.dilation[0] != 1:
            raise ValueError(
                f"a convolution over frames of kernel {self.kernel_size[0]}, stride {self.stride[0]} and padding "
                f"{padding} changes the lengths of packed sequences; give it sequences of one length (seqL=None)"
            )
        lengths = checked_lengths(x, seqL)
        places = gapped_places(lengths, x.shape[2], padding)
        spaced = x.new_zeros(*x.shape[:2], x.shape[2] + padding * (len(lengths) - 1), *x.shape[3:])
        return super().forward(spaced.index_copy(2, places, x)).index_select(2, places)


def gapped_places(lengths: Tensor, frames: int, gap: int) -> Tensor:
    """Where packed frames, the sum of the lengths [n], lie with `gap` frames between sequences; int64 [frames]."""
    number = torch.arange(len(lengths), device=lengths.device)
    return torch.arange(frames, device=lengths.device) + gap * number.repeat_interleave(lengths, output_size=frames)
