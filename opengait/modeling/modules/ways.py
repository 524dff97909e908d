"""The faster way to compute a convolution on a CPU, forward and backward: torch's own, or Winograd's algorithm.

They give the same map and the same gradients; which of them is taken shows in nothing but time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opengait.modeling.modules import winograd

Convolution = nn.Conv2d | nn.Conv3d

LEAST_FOR_MAPS = 90.0
"""Fewest products a transformed value (`_products_a_value`) for which Winograd's algorithm computes maps and their
gradients. Measured with AVX2: 512 x 512 channels (256 products) 1.5 to 1.7 times as fast as directly, 128 x 128 over
three frames (192) 1.3 to 1.5 times, 256 x 256 (128) 1.2 to 1.3 times, 128 x 128 (64) 0.9 to 1.1 times."""
LEAST_FOR_WEIGHTS = 60.0
"""The same for the gradient of the weights, where torch is slower: 256 x 256 channels 2.1 times as fast, 128 x 128 (64)
1.5 times, 64 x 64 (32) 1.1 to 1.3 times, which is lost again in a whole iteration."""
LEAST_SIDE = 3
"""Fewest rows and columns: directly, the zeros around a small map are left out."""


class Ways(NamedTuple):
    """Whether Winograd's algorithm computes maps and their gradients, and whether the gradient of the weights."""

    maps: bool
    weights: bool


def convolved(layer: Convolution, x: Tensor) -> Tensor | None:
    """[n, c_in, (s,) h, w] -> what `layer` makes of it, in the layout in memory of `x`; None where all is torch's."""
    if torch.compiler.is_compiling() or not _is_dense(layer, x):
        return None
    products = _products_a_value(layer)
    learns = torch.is_grad_enabled() and layer.weight.requires_grad
    ways = Ways(products >= LEAST_FOR_MAPS, products >= LEAST_FOR_WEIGHTS and learns)
    if not any(ways):
        return None
    y = _Convolution.apply(x, layer.weight, ways)
    return y if layer.bias is None else y.add_(layer.bias.view(-1, *(1,) * (x.ndim - 2)))


def _is_dense(layer: Convolution, x: Tensor) -> bool:
    """Whether it is a convolution of 3x3 or 3x3x3 that keeps the size, of full precision, on a CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype == layer.weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.ndim == layer.weight.ndim
        and x.numel() > 0
        and min(x.shape[-2:]) >= LEAST_SIDE
        and set(layer.kernel_size) == {3}
        and set(layer.padding) == set(layer.stride) == set(layer.dilation) == {1}
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not torch.is_autocast_enabled("cpu")
    )


def _products_a_value(layer: Convolution) -> float:
    """Multiplications for each value that is transformed: what is saved grows with those, its price with these."""
    taps = 3 if len(layer.kernel_size) == 3 else 1
    return taps * layer.in_channels * layer.out_channels / (layer.in_channels + layer.out_channels)


class _Convolution(torch.autograd.Function):
    """x [n, c_in, (s,) h, w], weight [c_out, c_in, (3,) 3, 3] -> [n, c_out, (s,) h, w]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ways: Ways) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.ways = ways
        if ways.maps:
            return _by_winograd(x, weight)
        return F.conv2d(x, weight, padding=1) if x.ndim == 4 else F.conv3d(x, weight, padding=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        (maps, weights), (of_map, of_weight) = ctx.ways, ctx.needs_input_grad[:2]
        of_x, of_w = None, None
        by_torch = [of_map and not maps, of_weight and not weights, False]
        if any(by_torch):
            ones = [1] * (x.ndim - 2)
            of_x, of_w, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, ones, ones, ones, False, [0] * len(ones), 1, by_torch
            )
        if of_map and maps:
            of_x = _by_winograd(grad, weight.flip(*range(2, weight.ndim)).transpose(0, 1))
        if of_weight and weights:
            taps = 1 if x.ndim == 4 else 3
            of_w = winograd.weight_gradient(_with_frames(x), _with_frames(grad), taps).view_as(weight)
        return of_x, of_w, None


def _with_frames(x: Tensor) -> Tensor:
    return x.unsqueeze(2) if x.ndim == 4 else x


def _by_winograd(x: Tensor, weight: Tensor) -> Tensor:
    channels_last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    layout = channels_last if x.is_contiguous(memory_format=channels_last) else torch.contiguous_format
    shape = (len(x), len(weight), *x.shape[2:])
    result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    winograd.convolve(_with_frames(x), _with_frames(weight), _with_frames(result))
    return result  # no view, which autograd would not let be changed in place
