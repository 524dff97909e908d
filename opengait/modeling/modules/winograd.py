"""3x3 convolutions with fewer multiplications, for a CPU.

Two by two results of a 3x3 convolution take 36 multiplications a pair of channels directly and 16 by Winograd's
algorithm: 4x4 values of the map and the 3x3 weights are brought to a form in which the convolution is a product, value
by value, summed over channels: 16 matrix products. The transforms are additions, whose cost grows with the channels and
not with their square, so it pays where channels are many. Rounding is no coarser than that of the direct sum.

Source: Fast Algorithms for Convolutional Neural Networks (Lavin and Gray, CVPR 2016), F(2x2, 3x3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

LEAST_PRODUCT = 256 * 256
"""Fewest channels before times channels after for which it pays. Measured with AVX2, a forward pass of 512 x 512 runs
1.4 to 1.7 times as fast as directly, one of 256 x 512 1.2 to 1.6 times, of 256 x 256 0.9 to 1.2 times; with its
backward pass also the last 1.4 times."""
TILES_AT_ONCE = 192
"""Tiles of 2x2 results transformed together, so that they still lie in the caches when they are multiplied."""


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1 and no bias; keys of Conv2d. The same map however it is computed.

    Args:
        in_channels, out_channels: channels before and after.
        stride: of height and width.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int | tuple[int, int] = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, h / stride, w / stride], in the layout in memory of `x`."""
        if not self._pays(x):
            return super().forward(x)
        y = _Winograd.apply(x, self.weight)
        return y if self.bias is None else y.add_(self.bias.view(-1, 1, 1))

    def _pays(self, x: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and x.device.type == "cpu"
            and x.ndim == 4
            and x.dtype == self.weight.dtype
            and x.dtype in (torch.float32, torch.float64)
            and self.stride == (1, 1)
            and self.in_channels * self.out_channels >= LEAST_PRODUCT
            and not torch.is_autocast_enabled("cpu")
        )


class _Winograd(torch.autograd.Function):
    """x [n, c_in, h, w], weight [c_out, c_in, 3, 3] -> [n, c_out, h, w]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = _convolve(grad, weight.flip(2, 3).transpose(0, 1)) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(x, grad) if ctx.needs_input_grad[1] else None
        return of_x, of_weight


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """[n, c_in, h, w] -> [n, c_out, h, w]."""
    n, _, h, w = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    result = x.new_empty(n, len(weight), h, w).contiguous(memory_format=layout)
    nine = weight.permute(2, 3, 1, 0).reshape(9, -1)
    transformed = (_transform(weight) @ nine).view(16, *weight.shape[1::-1])  # [16, c_in, c_out]
    for part in _portions(x):
        tiles = _map_tiles(x[part])  # [4, 4, f, h', w', c_in]
        products = torch.bmm(tiles.view(16, -1, tiles.shape[-1]), transformed)
        images = _joined(products.view(*tiles.shape[:-1], -1))
        result[part] = images[:, :h, :w].permute(0, 3, 1, 2)
    return result


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Maps [n, c_in, h, w] and the gradient of the results [n, c_out, h, w] -> [c_out, c_in, 3, 3]."""
    total = x.new_zeros(16, x.shape[1], grad.shape[1])
    for part in _portions(x):
        tiles, of_results = _map_tiles(x[part]), _gradient_tiles(grad[part])
        total.baddbmm_(tiles.view(16, -1, x.shape[1]).transpose(1, 2), of_results.view(16, -1, grad.shape[1]))
    nine = _transform(x).T @ total.flatten(1)
    return nine.view(3, 3, *total.shape[1:]).permute(3, 2, 0, 1).contiguous()


def _transform(like: Tensor) -> Tensor:
    """[16, 9]: the nine weights of a pair of channels -> what a tile's values are multiplied with."""
    of_three = like.new_tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
    return torch.kron(of_three, of_three)


def _portions(x: Tensor) -> Iterator[slice]:
    height, width = _tiles_of(x)
    step = max(1, TILES_AT_ONCE // (height * width))
    return (slice(start, start + step) for start in range(0, len(x), step))


def _tiles_of(x: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles of a map [n, c, h, w]."""
    return (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2


def _map_tiles(x: Tensor) -> Tensor:
    """[f, c, h, w] -> [4, 4, f, h', w', c]: tiles of 4x4, each beginning two pixels behind the one before it."""
    f, c, h, w = x.shape
    height, width = _tiles_of(x)
    padded = x.new_zeros(f, 2 * height + 2, 2 * width + 2, c)
    padded[:, 1 : h + 1, 1 : w + 1] = x.permute(0, 2, 3, 1)
    rows = x.new_empty(4, f, height, 2 * width + 2, c)
    _transform_map([padded[:, i : i + 2 * height - 1 : 2] for i in range(4)], rows.unbind(0))
    tiles = x.new_empty(4, 4, f, height, width, c)
    _transform_map([rows[..., i : i + 2 * width - 1 : 2, :] for i in range(4)], tiles.unbind(1))
    return tiles


def _transform_map(values: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Four values in a row -> what is multiplied with the transformed weights."""
    torch.sub(values[0], values[2], out=out[0])
    torch.add(values[1], values[2], out=out[1])
    torch.sub(values[2], values[1], out=out[2])
    torch.sub(values[1], values[3], out=out[3])


def _joined(products: Tensor) -> Tensor:
    """[4, 4, f, h', w', c] -> results [f, 2 h', 2 w', c]."""
    _, _, f, height, width, c = products.shape
    result = products.new_empty(f, height, 2, width, 2, c)
    for row, values in enumerate(_two_of_four(products)):
        for column, one in enumerate(_two_of_four(values)):
            result[:, :, row, :, column] = one
    return result.view(f, 2 * height, 2 * width, c)


def _two_of_four(products: Tensor) -> tuple[Tensor, Tensor]:
    """Four products in a row (the first axis) -> two results."""
    first, second, third, fourth = products
    return first + (second + third), (second - third).sub_(fourth)


def _gradient_tiles(grad: Tensor) -> Tensor:
    """Gradients of the results [f, c, h, w] -> those of the products, [4, 4, f, h', w', c]."""
    f, c, h, w = grad.shape
    height, width = _tiles_of(grad)
    padded = grad.new_zeros(f, 2 * height, 2 * width, c)
    padded[:, :h, :w] = grad.permute(0, 2, 3, 1)
    rows = grad.new_empty(4, f, height, 2 * width, c)
    _four_of_two(padded[:, ::2], padded[:, 1::2], rows.unbind(0))
    tiles = grad.new_empty(4, 4, f, height, width, c)
    _four_of_two(rows[..., ::2, :], rows[..., 1::2, :], tiles.unbind(1))
    return tiles


def _four_of_two(first: Tensor, second: Tensor, out: Sequence[Tensor]) -> None:
    """The transpose of `_two_of_four`."""
    out[0].copy_(first)
    torch.add(first, second, out=out[1])
    torch.sub(first, second, out=out[2])
    torch.neg(second, out=out[3])
