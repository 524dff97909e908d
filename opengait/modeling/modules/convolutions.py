"""Convolutions, with the keys of torch and of the reference implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from opengait.modeling.modules.ways import convolved


class Conv2d(nn.Conv2d):
    """A 2-D convolution that is computed on a CPU in the way that is fastest there; keys of Conv2d."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, h', w']."""
        y = convolved(self, x)
        return super().forward(x) if y is None else y


class Conv3x3(Conv2d):
    """A 3x3 convolution with padding 1 and no bias.

    Args:
        in_channels, out_channels: channels before and after.
        stride: of height and width.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int | tuple[int, int] = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class BasicConv2d(nn.Module):
    """A 2-D convolution without bias, norm or activation; key `conv.weight`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, **kwargs: Any
    ) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, h', w']."""
        return self.conv(x)


class Conv3d(nn.Conv3d):
    """A 3-D convolution that is computed on a CPU in the way that is fastest there; keys of Conv3d.

    One short sequence that is left to torch goes to oneDNN too: torch takes a batch of one that has few values through
    matrix products of its own, where they are five times as slow.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, s, h, w] -> [n, c_out, s', h', w']."""
        y = convolved(self, x)
        if y is not None:
            return y
        padding = self.padding
        if isinstance(padding, str) or not self._hands_over(x):
            return super().forward(x)
        return torch.mkldnn_convolution(x, self.weight, self.bias, padding, self.stride, self.dilation, self.groups)

    def _hands_over(self, x: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and len(x) == 1
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and self.in_channels > 1  # where there is one, the products are the faster ones
            and self.padding_mode == "zeros"
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.is_available()
        )


class BasicConv3d(nn.Module):
    """A 3-D convolution over frames, height and width; keys `conv3d.weight` (and `conv3d.bias`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int] = (3, 3, 3),
        stride: int | tuple[int, int, int] = (1, 1, 1),
        padding: int | tuple[int, int, int] = (1, 1, 1),
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv3d = Conv3d(
            in_channels, out_channels, kernel_size=kernel_size, stride=stride, padding=padding, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, s, h, w] -> [n, c_out, s', h', w']."""
        return self.conv3d(x)


class BasicConv1d(nn.Module):
    """A 1-D convolution over frames, without bias; key `conv.weight`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, s] -> [n, c_out, s']."""
        return self.conv(x)


class FocalConv2d(nn.Module):
    """A convolution that does not see across horizontal strips; key `conv.weight`.

    The map is cut on h into strips of height floor(h / 2^halving); each is convolved with its own zero padding.
    The strips are folded into the batch, so that one call convolves all of them.

    Source: GaitPart (Fan et al., CVPR 2020), section 3.2.

    Args:
        halving: 0 is an ordinary convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        halving: int,
        stride: int = 1,
        padding: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.halving = halving
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, h', w'].

        Raises:
            ValueError: the map is lower than 2^halving rows.
        """
        return convolve_strips(self.conv, x, self.halving)


def convolve_strips(conv: nn.Module, x: Tensor, halving: int) -> Tensor:
    """Runs a convolution on strips of height floor(h / 2^halving), each with its own padding, in one call.

    [n, c_in, ..., h, w] -> [n, c_out, ..., h', w'], with frames in front of h or not.

    Raises:
        ValueError: the map is lower than 2^halving rows.
    """
    if halving == 0:
        return conv(x)
    n, h = len(x), x.shape[-2]
    strip = h // 2**halving
    if strip == 0:
        raise ValueError(f"a map of {h} rows cannot be cut into {2**halving} strips (halving {halving})")
    # A last strip that is lower than the others is convolved alone: rows filled up with zeros would do for the
    # usual stride 1, but not where stride or padding make them part of the result.
    whole = x if h % strip == 0 else x[..., : h // strip * strip, :]
    # Folding has to copy maps with frames; it leaves the channels where they lie in memory, in front or last.
    last = x.movedim(1, -1).is_contiguous()
    rows = -3 if last else -2
    strips = whole.movedim(1, -1) if last else whole
    strips = strips.unflatten(rows, (-1, strip)).movedim(rows - 1, 1).flatten(0, 1)
    result = conv(strips.movedim(-1, 1) if last else strips)
    result = result.movedim(1, -1) if last else result
    result = result.unflatten(0, (n, -1)).movedim(1, rows - 1).flatten(rows - 1, rows)
    result = result.movedim(-1, 1) if last else result
    if whole is x:
        return result
    return torch.cat([result, conv(x[..., whole.shape[-2] :, :])], dim=-2)
