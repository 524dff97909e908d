"""Intervals that distances are certain to lie in, from products in single precision.

Ranking needs to know which of two distances is smaller, not what they are. Single precision tells that for all but a
few pairs, at half the cost of double precision or less (much less on most GPUs); those few are then computed exactly.
The intervals hold for any order in which a product is summed up, by the standard bound of rounding errors
(Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1): a sum of k products errs by k units of
rounding of the sum of their absolute values.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from opengait.evaluation.distances import Distances, _unit

_ROUNDING = 2.0**-24
# Products of so many channels at a time make the intervals narrow, and the multiplication slower.
_CHANNELS = 64
# Pairs left in doubt, as a share, whose exact distances would cost as much as narrow intervals do.
_IN_DOUBT = 1 / 400
# Sums of so many parts at a time, for the same reason.
_PARTS = 8
# Below the square root of this nothing is told apart: what underflows in single precision.
_TINY = 2.0**-108
_SMALLEST, _LARGEST = 2.0**-40, 2.0**50


class Span(NamedTuple):
    """Some sequences made ready for products."""

    parts: Tensor  # [n, p, c] float32, centred
    squares: Tensor  # [p, n] their squared lengths
    slack: Tensor  # [n] by how much rounding the centred parts may have moved a distance
    zero: Tensor  # [n] half the share of parts without direction (cosine only)


def in_range(distances: Distances) -> bool:
    """Whether squares of the embeddings neither overflow nor vanish in single precision."""
    return distances.metric == "cos" or _SMALLEST < distances.largest < _LARGEST


def span(distances: Distances, embeddings: Tensor, space: Workspace) -> Span:
    """Prepares embeddings `[n, c, p]`, float32, in a workspace, where they last until the next call."""
    cosine = distances.metric == "cos"
    # Turned sequence by sequence, which stays in the caches: parts first would take five times as long.
    turned = embeddings.transpose(1, 2)
    parts = space.tensor("parts", *turned.shape).copy_(turned)
    zero = parts.new_zeros(len(parts))
    if cosine:
        zero = (parts == 0).all(dim=2).to(torch.float32).mean(dim=1).mul_(0.5)
        # Cast to single precision each moves by one unit of rounding, and by one more when the centre is taken away.
        parts.copy_(_unit(parts.to(torch.float64), 2))
    parts.sub_(distances.centre.squeeze(1).to(torch.float32))
    squares = _squares(parts)
    moved = (squares.sqrt() + (1 if cosine else 0)).mean(dim=0) * (_ROUNDING * 1.01)
    # Half a squared difference of unit vectors changes by at most their distance, 2, times what they move.
    slack = moved * (2.2 if cosine else 1)
    return Span(parts, squares.to(torch.float32), slack.to(torch.float32), zero)


def _squares(parts: Tensor) -> Tensor:
    """Squared lengths of [n, p, c] in double precision: [p, n]; few at a time, so that they stay in the caches."""
    step = max(1, (1 << 18) // parts[0].numel()) if parts.device.type == "cpu" and len(parts) else max(1, len(parts))
    found = torch.empty(parts.shape[:2], dtype=torch.float64, device=parts.device)
    # Filled again and again: memory taken anew, small results between, would add up to that of all.
    space = torch.empty((min(step, len(parts)), *parts.shape[1:]), dtype=torch.float64, device=parts.device)
    for start in range(0, len(parts), step):
        some = parts[start : start + step]
        torch.sum(space[: len(some)].copy_(some).square_(), dim=2, out=found[start : start + step])
    return found.T.contiguous()


class Workspace:
    """Tensors that are used again for every block; allocating them anew would cost as much as filling them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._numbers: dict[str, Tensor] = {}

    def tensor(self, name: str, *shape: int) -> Tensor:
        """float32 with anything in it."""
        size = math.prod(shape)
        found = self._numbers.get(name)
        if found is None or found.numel() < size:
            found = self._numbers[name] = torch.empty(size, dtype=torch.float32, device=self._device)
        return found[:size].view(shape)


class Narrowness:
    """How many channels a product sums up at once, chosen by what the intervals before left in doubt: narrow ones take
    a fifth more time, which embeddings that set subjects apart do not need."""

    def __init__(self) -> None:
        self._narrow = True

    def channels(self, all_of_them: int) -> int:
        """To sum up at once, of so many."""
        return min(all_of_them, _CHANNELS) if self._narrow else all_of_them

    def left(self, in_doubt: float) -> None:
        """Learns which share of the pairs the last intervals left in doubt."""
        # Wide intervals of 256 channels leave three to four times as many.
        self._narrow = in_doubt > (_IN_DOUBT / 6 if self._narrow else _IN_DOUBT)


def interval(
    metric: str, probe: Span, gallery: Span, space: Workspace, at_once: int = _CHANNELS
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the distances `[n_probes, n_gallery]` as rounded to float32, overwritten next time.

    Args:
        at_once: channels that a product sums up; fewer make the bounds narrower.
    """
    shape = len(probe.parts), len(gallery.parts)
    parts_num, channels = probe.parts.shape[1:]
    terms = min(channels, at_once) + -(-channels // at_once) + 7
    # One share for all probes of the block: a pass over the block less than with each one's own. A little more than the
    # error, so that no upper bound of a square is negative.
    error = (gallery.squares + probe.squares.amax(dim=1, keepdim=True)) * (terms * _ROUNDING * 1.05) + 4 * _TINY
    highest = gallery.squares + error
    low, high, some, product, work = (space.tensor(name, *shape) for name in ("low", "high", "some", "product", "work"))
    nearest = space.tensor("nearest", parts_num, len(probe.parts))
    high.zero_()
    with _single_precision():
        for first in range(0, parts_num, _PARTS):
            some.zero_()
            for part in range(first, min(first + _PARTS, parts_num)):
                _multiply(probe.parts[:, part], gallery.parts[:, part], at_once, product, work)
                torch.add(probe.squares[part, :, None], product, alpha=-2, out=product).add_(highest[part])
                torch.amin(product, dim=1, out=nearest[part])
                some.add_(product.sqrt_() if metric == "euc" else product)
            high.add_(some)
    scale = (1 if metric == "euc" else 0.5) / parts_num
    # Roundings: of a root, of sums over some parts and over those sums, of a scale and its product, of two additions,
    # and of the exact distance to float32.
    slop = (_PARTS + -(-parts_num // _PARTS) + 5) * _ROUNDING
    width = _width(metric, nearest, 2 * error.amax(dim=1)).mul_(scale * (1 + slop))
    torch.mul(high, scale * (1 - slop), out=low).add_((probe.zero * (1 - slop) - probe.slack - width)[:, None])
    low.add_(gallery.zero * (1 - slop) - gallery.slack)
    high.mul_(scale * (1 + slop)).add_((probe.zero * (1 + slop) + probe.slack)[:, None])
    high.add_(gallery.zero * (1 + slop) + gallery.slack)
    return low, high


def _width(metric: str, nearest: Tensor, error: Tensor) -> Tensor:
    """By how much upper bounds of distances, summed over parts, may be too large: `[n_probes]`.

    Of a square between y - e and y the root lies within e / (root of y + root of (y - e)), most for the smallest y: one
    number for all of a row, in place of a second root for each pair.

    Args:
        nearest: smallest upper bound of a square, `[p, n_probes]`.
        error: by how much such bounds may be too large, `[p]`.
    """
    most = error.to(torch.float64)[:, None]
    if metric != "euc":
        return most.sum().to(torch.float32).expand(nearest.shape[1]).clone()
    squares = nearest.to(torch.float64)
    roots = squares.sqrt() + (squares - most).clamp_(min=0).sqrt_()
    width = torch.where(squares > most, most / roots, most.sqrt())
    return width.sum(dim=0).mul_(1 + 4 * _ROUNDING).to(torch.float32)


def _multiply(probe: Tensor, gallery: Tensor, at_once: int, product: Tensor, work: Tensor) -> None:
    """[n, c] and [m, c] -> product [n, m], some channels at a time."""
    for first in range(0, probe.shape[1], at_once):
        some = slice(first, first + at_once)
        torch.mm(probe[:, some], gallery[:, some].T, out=work if first else product)
        if first:
            product.add_(work)


@contextlib.contextmanager
def _single_precision() -> Iterator[None]:
    """No TF32 and no bfloat16 in products, whatever the training was set to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
