"""Convolutions of three by three pixels with fewer multiplications, for a CPU.

Two by two results of a 3x3 convolution take 36 multiplications a pair of channels directly and 16 by Winograd's
algorithm: 4x4 values of the map and the 3x3 weights are brought to a form in which the convolution is a product, value
by value, summed over channels: 16 matrix products. A convolution over frames as well adds up such products of each
frame with its neighbours. The transforms are additions, whose cost grows with the channels and not with their square,
so it pays where channels are many. Rounding is no coarser than that of the direct sum.

Source: Fast Algorithms for Convolutional Neural Networks (Lavin and Gray, CVPR 2016), F(2x2, 3x3).

Shapes: n sequences, s frames, h x w pixels, c channels, t frames that a result sees (1 or 3). Maps are cut into 4x4
tiles, each beginning two pixels behind the one before it, so tiles have (h + 1) // 2 rows and (w + 1) // 2 columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

VALUES_AT_ONCE = 98304
"""Tiles times channels that are transformed together, so that they still lie in a cache when they are multiplied."""


class _Portion(NamedTuple):
    """Results that are computed together: of these sequences, frames, and rows of tiles."""

    sequences: slice
    frames: slice
    rows: slice


class _Space:
    """Memory that all portions of one convolution take in turn, since fresh pages cost as much as a transform."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.taken: dict[str, Tensor] = {}

    def empty(self, name: str, *shape: int) -> Tensor:
        """Values of this shape, whatever they are; those that the name stood for before are overwritten."""
        size = math.prod(shape)
        if name not in self.taken or len(self.taken[name]) < size:
            self.taken[name] = self.like.new_empty(size)
        return self.taken[name][:size].view(shape)


def convolve(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """[n, c_in, s, h, w], weight [c_out, c_in, t, 3, 3] -> `out` [n, c_out, s, h, w].

    Zeros are padded, as many as keep the size.
    """
    s, (c_out, c_in, t) = x.shape[2], weight.shape[:3]
    nine = weight.permute(3, 4, 2, 1, 0).reshape(9, -1)
    transformed = (_transform(weight) @ nine).view(16, t, c_in, c_out)
    space = _Space(x)
    for portion in _portions(x, max(c_in, c_out)):
        seen = _seen(portion, t, s)
        tiles = _map_tiles(x, portion, seen, space)  # [4, 4, s, n, rows, columns, c_in]
        products = space.empty("products", 4, 4, portion.frames.stop - portion.frames.start, *tiles.shape[3:6], c_out)
        for tap, results, frames in _taps(portion, seen, t):
            ours = products.view(16, len(products[0, 0]), -1, c_out)[:, results].flatten(1, 2)
            theirs = tiles.view(16, tiles.shape[2], -1, c_in)[:, frames].flatten(1, 2)
            torch.baddbmm(ours, theirs, transformed[:, tap], beta=int(tap != t // 2), out=ours)
        part = out[portion.sequences, :, portion.frames, 2 * portion.rows.start : 2 * portion.rows.stop]
        _join(products, part.permute(2, 0, 3, 4, 1))


def weight_gradient(x: Tensor, grad: Tensor, t: int) -> Tensor:
    """Maps [n, c_in, s, h, w] and the gradient of the results [n, c_out, s, h, w] -> [c_out, c_in, t, 3, 3]."""
    c_in, c_out = x.shape[1], grad.shape[1]
    total = x.new_zeros(t, 16, c_in, c_out)
    space = _Space(x)
    for portion in _portions(x, max(c_in, c_out)):
        seen = _seen(portion, t, x.shape[2])
        tiles = _map_tiles(x, portion, seen, space)
        of_results = _gradient_tiles(grad, portion, space)
        for tap, results, frames in _taps(portion, seen, t):
            theirs = tiles.view(16, tiles.shape[2], -1, c_in)[:, frames].flatten(1, 2)
            ours = of_results.view(16, of_results.shape[2], -1, c_out)[:, results].flatten(1, 2)
            total[tap].baddbmm_(theirs.transpose(1, 2), ours)
    nine = _transform(x).T @ total.transpose(0, 1).flatten(1)
    return nine.view(3, 3, t, c_in, c_out).permute(4, 3, 2, 0, 1).contiguous()


def _transform(like: Tensor) -> Tensor:
    """[16, 9]: the nine weights of a pair of channels -> what a tile's values are multiplied with."""
    of_three = like.new_tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
    return torch.kron(of_three, of_three)


def _portions(x: Tensor, channels: int) -> Iterator[_Portion]:
    """Whole sequences, else rows of one sequence, which overlap in little, else frames of a row."""
    n, _, s, h, w = x.shape
    rows, columns = (h + 1) // 2, (w + 1) // 2
    most = VALUES_AT_ONCE // channels
    together = max(1, most // (s * rows * columns))
    height = _even(rows, most // (s * columns))
    length = s if height > 1 else _even(s, most // columns)
    for sequence in range(0, n, together):
        for row in range(0, rows, height):
            for frame in range(0, s, length):
                yield _Portion(
                    slice(sequence, min(n, sequence + together)),
                    slice(frame, min(s, frame + length)),
                    slice(row, min(rows, row + height)),
                )


def _even(whole: int, most: int) -> int:
    """The size of equal parts of at most so many, and of at least one."""
    return math.ceil(whole / math.ceil(whole / max(1, min(whole, most))))


def _seen(portion: _Portion, t: int, s: int) -> slice:
    """The frames that the results depend on."""
    return slice(max(0, portion.frames.start - t // 2), min(s, portion.frames.stop + t // 2))


def _taps(portion: _Portion, seen: slice, t: int) -> Iterator[tuple[int, slice, slice]]:
    """Each of the t weights, the one in the middle first, with the frames of results and the frames seen it joins."""
    for tap in sorted(range(t), key=lambda tap: abs(tap - t // 2)):
        ahead = tap - t // 2
        first, last = max(portion.frames.start, seen.start - ahead), min(portion.frames.stop, seen.stop - ahead)
        if first < last:
            results = slice(first - portion.frames.start, last - portion.frames.start)
            yield tap, results, slice(first + ahead - seen.start, last + ahead - seen.start)


def _map_tiles(x: Tensor, portion: _Portion, seen: slice, space: _Space) -> Tensor:
    """[n, c, s, h, w] -> [4, 4, s', n', rows, columns, c]: the transformed tiles of a portion's frames.

    Even and odd columns lie apart, so that what is added lies in one piece.
    """
    h, w, c = x.shape[3], x.shape[4], x.shape[1]
    rows, columns = portion.rows.stop - portion.rows.start, (w + 1) // 2
    top = 2 * portion.rows.start - 1
    first, last = max(0, top), min(h, 2 * portion.rows.stop + 1)
    part = x[portion.sequences, :, seen, first:last].permute(2, 0, 3, 4, 1)  # [s', n', h', w, c]
    s, n = part.shape[:2]
    padded = space.empty("padded", s, n, 2 * rows + 2, 2, columns + 1, c).zero_()
    inside = padded[:, :, first - top : last - top]
    inside[..., 1, :columns, :] = part[..., 0::2, :]
    inside[..., 0, 1 : 1 + w // 2, :] = part[..., 1::2, :]
    of_rows = space.empty("rows", 4, s, n, rows, 2, columns + 1, c)
    _transform_map([padded[:, :, i : i + 2 * rows - 1 : 2] for i in range(4)], of_rows.unbind(0))
    tiles = space.empty("tiles", 4, 4, s, n, rows, columns, c)
    _transform_map([of_rows[..., i % 2, i // 2 : i // 2 + columns, :] for i in range(4)], tiles.unbind(1))
    return tiles


def _transform_map(values: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Four values in a row -> what is multiplied with the transformed weights."""
    torch.sub(values[0], values[2], out=out[0])
    torch.add(values[1], values[2], out=out[1])
    torch.sub(values[2], values[1], out=out[2])
    torch.sub(values[1], values[3], out=out[3])


def _join(products: Tensor, results: Tensor) -> None:
    """[4, 4, s, n, rows, columns, c], which are overwritten -> results [s, n, h, w, c]."""
    for row, values in enumerate(_two_of_four(products)):
        for column, one in enumerate(_two_of_four(values)):
            target = results[:, :, row::2, column::2]
            target.copy_(one[:, :, : target.shape[2], : target.shape[3]])


def _two_of_four(products: Tensor) -> tuple[Tensor, Tensor]:
    """Four products in a row (the first axis) -> two results, in the place of the first two."""
    first, second, third, fourth = products
    return first.add_(second).add_(third), second.sub_(third).sub_(fourth)


def _gradient_tiles(grad: Tensor, portion: _Portion, space: _Space) -> Tensor:
    """Gradients of the results [n, c, s, h, w] -> those of a portion's products, [4, 4, s', n', rows, columns, c]."""
    w, c = grad.shape[4], grad.shape[1]
    rows, columns = portion.rows.stop - portion.rows.start, (w + 1) // 2
    part = grad[portion.sequences, :, portion.frames, 2 * portion.rows.start : 2 * portion.rows.stop]
    part = part.permute(2, 0, 3, 4, 1)  # [s', n', h', w, c]
    s, n, height = part.shape[:3]
    padded = space.empty("padded gradient", s, n, 2 * rows, 2, columns, c).zero_()
    padded[:, :, :height, 0] = part[..., 0::2, :]
    padded[:, :, :height, 1, : w // 2] = part[..., 1::2, :]
    of_rows = space.empty("rows of the gradient", 4, s, n, rows, 2, columns, c)
    _four_of_two(padded[:, :, 0::2], padded[:, :, 1::2], of_rows.unbind(0))
    tiles = space.empty("gradient", 4, 4, s, n, rows, columns, c)
    _four_of_two(of_rows[..., 0, :, :], of_rows[..., 1, :, :], tiles.unbind(1))
    return tiles


def _four_of_two(first: Tensor, second: Tensor, out: Sequence[Tensor]) -> None:
    """The transpose of `_two_of_four`."""
    out[0].copy_(first)
    torch.add(first, second, out=out[1])
    torch.sub(first, second, out=out[2])
    torch.neg(second, out=out[3])
