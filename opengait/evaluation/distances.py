"""Exact distances between embeddings, in chunks under a memory budget.

Euclidean: the mean over parts of the length of the difference. Cosine: one minus the mean over parts of the cosine.
What a distance is: computed in double precision from the float32 embeddings, then rounded to float32.

For many at once products of matrices are the affordable way, but `|x|^2 + |y|^2 - 2xy` loses digits for near vectors:
in single precision a vector of length 160 lies 0.03 from itself. So they run in double precision on centred vectors.
What is left of rounding noise is set to zero, so that equal embeddings are at distance exactly 0 from each other and at
equal distances from any third one: ties stay ties. `bounds` has the way that needs single precision only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opengait.evaluation.exchange import ALONE, Exchange
from opengait.evaluation.memory import DEFAULT_MEMORY
from opengait.registry import nearest

METRICS = {"euc": "Euclidean", "cos": "cosine"}
IntArray = NDArray[np.int64]
# Squared distances below this share of the squared lengths are rounding noise of the products: sums over c terms err by
# about sqrt(c) * 2^-53, a thousandth of it. In length it is 2^-22, the resolution of the float32 embeddings themselves.
_NOISE = 2.0**-44
# On a CPU the passes over a block run twice as fast where the block stays near its caches.
_CACHED_PAIRS = 1 << 20
_CACHED_NUMBERS = 1 << 18
# Single pairs at a time: what is kept of each is a number a part.
_SLAB = 1 << 12
_LARGEST = torch.finfo(torch.float32).max


class Features(NamedTuple):
    """Some sequences made ready for products: centred parts, their squared lengths, and which parts are zero."""

    parts: Tensor  # [p, n, c] float64
    squares: Tensor  # [p, n] float64
    zero: Tensor  # [p, n] float64, 1 where a part has no direction (cosine only)


class Distances:
    """Distances from any sequences to those that this process holds.

    Args:
        embeddings: `[n, c, p]` (or `[n, c]`: one part), any float type; an array, also memory-mapped, or a tensor on
            any device. They are taken as float32, half precision cast up, before anything is computed.
        metric: "euc" or "cos".
        device: where the products run; the CPU if the device has no double precision.
        memory: bytes that all chunks together may take beyond the embeddings.
        indices: number of each row among all sequences, where several processes hold a share each; None: its place.
        exchange: the way to the other processes. With several, all methods but `pairs` and `between` are collective.

    Raises:
        ValueError: unknown metric, wrong shape, nothing in it, no numbers, or values that are not finite in float32;
            a sequence that no process holds, or two. On all processes alike.
    """

    def __init__(
        self,
        embeddings: NDArray[np.generic] | Tensor,
        metric: str = "euc",
        *,
        device: str | torch.device = "cpu",
        memory: int = DEFAULT_MEMORY,
        indices: IntArray | None = None,
        exchange: Exchange = ALONE,
    ) -> None:
        check_metric(metric)
        if embeddings.ndim == 2:
            embeddings = embeddings[:, :, None]
        if memory <= 0:
            raise ValueError(f"memory is {memory} bytes; expected a positive number")
        self._embeddings, self.exchange, self.metric = embeddings, exchange, metric
        self.device = torch.device(device)
        if self.device.type == "mps":  # has no double precision
            self.device = torch.device("cpu")
        self.memory = int(memory)
        self._check_shape()
        own = np.arange(len(embeddings)) if indices is None else np.asarray(indices, dtype=np.int64)
        self._owner, self._place = self._map(own)
        self.row_bytes = 4 * int(np.prod(self._embeddings.shape[1:]))
        self.centre, self.largest = self._look_through(own)

    def __len__(self) -> int:
        """Number of all sequences, whoever holds them."""
        return len(self._owner)

    def held(self, gallery: IntArray) -> IntArray:
        """Which of these sequences this process holds: positions in `gallery`, ascending."""
        return np.flatnonzero(self._owner[gallery] == self.exchange.rank)

    def most_held(self, gallery: IntArray) -> int:
        """The largest number of these sequences that any one process holds."""
        return int(np.bincount(self._owner[gallery], minlength=1).max(initial=0))

    def fetch(self, indices: IntArray) -> Tensor:
        """Embeddings of any sequences, from whichever process holds them: `[n, c, p]` float32 on the device."""
        owners = self._owner[indices]
        own = self.take(indices[owners == self.exchange.rank])
        if len(parts := self.exchange.gather(own.cpu().numpy())) == 1:
            return own
        found = np.empty((len(indices), *own.shape[1:]), dtype=np.float32)
        for owner, part in enumerate(parts):
            found[owners == owner] = part
        return torch.from_numpy(found).to(self.device)

    def take(self, indices: IntArray) -> Tensor:
        """Embeddings of sequences that this process holds: `[n, c, p]` float32 on the device; not to be written to."""
        places = self._place[indices]
        in_order = len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places)))
        return self._read(slice(int(places[0]), int(places[0]) + len(places)) if in_order else places)

    def _read(self, places: IntArray | slice) -> Tensor:
        if isinstance(self._embeddings, Tensor):
            index = places if isinstance(places, slice) else torch.as_tensor(places, device=self._embeddings.device)
            return self._embeddings.detach()[index].to(self.device, torch.float32)
        found = np.asarray(self._embeddings[places], dtype=np.float32)
        return torch.from_numpy(found if found.flags.writeable else found.copy()).to(self.device)

    def rows(self, probes: IntArray, gallery: IntArray, *, bytes_per_pair: int = 4) -> Iterator[tuple[slice, Tensor]]:
        """Distances from some probes at a time to those sequences of the gallery that this process holds.

        Args:
            probes, gallery: numbers of sequences, `[n_probes]` and `[n_gallery]`.
            bytes_per_pair: memory that the caller's work on a chunk takes for each distance, the distance included.

        Yields:
            The slice of `probes`, and their distances `[rows, n_held]`, float32 on the device; columns as `held`.
        """
        share = self.memory // 3
        features = max(1, share // (8 * self.row_bytes))  # two sets in double precision, each with a copy in the making
        step = max(1, min(len(probes), features, share // max(1, self.most_held(gallery) * bytes_per_pair)))
        own = gallery[self.held(gallery)]
        for start in range(0, len(probes), step):
            rows = slice(start, min(start + step, len(probes)))
            yield rows, self.between(self.fetch(probes[rows]), own)

    def between(self, probes: Tensor, gallery: IntArray) -> Tensor:
        """Distances `[n, m]`, float32, from embeddings `[n, c, p]` to sequences that this process holds."""
        share = self.memory // 3
        features = max(1, share // (8 * self.row_bytes))
        rows = max(1, min(len(probes), features))
        columns = min(max(1, len(gallery)), features, share // (rows * 32))  # 32: four double matrices in `_block`
        if self.device.type == "cpu":
            columns = min(columns, max(256, _CACHED_PAIRS // rows))
        columns = max(1, columns)
        distances = torch.empty(len(probes), len(gallery), dtype=torch.float32, device=self.device)
        for row in range(0, len(probes), rows):
            probe = self._features(probes[row : row + rows])
            for column in range(0, len(gallery), columns):
                span = slice(column, min(column + columns, len(gallery)))
                distances[row : row + rows, span] = self._block(probe, self._features(self.take(gallery[span])))
        return distances

    def pairs(self, probes: Tensor, row: IntArray, gallery: IntArray) -> Tensor:
        """Distances of single pairs, float32 `[k]`: of `probes[row]`, `[n, c, p]`, to sequences held here.

        Fastest where pairs of one row stand together.
        """
        found = torch.empty(len(row), dtype=torch.float32, device=self.device)
        places = self._place[gallery]
        for start in range(0, len(row), _SLAB):
            some = slice(start, start + _SLAB)
            squares, zeros = self._parts_apart(probes, row[some], places[some])
            self._drop_noise(squares, probes, row[some], places[some])
            found[some] = self._mean_of_parts(squares, zeros)
        return found

    def any_pairs(self, one: IntArray, other: IntArray) -> NDArray[np.float32]:
        """Distances of single pairs of any sequences, float32 `[k]`; the same in every process."""
        found = np.empty(len(one), dtype=np.float32)
        known, codes = np.unique(one, return_inverse=True)
        step = max(1, self.memory // (4 * self.row_bytes))
        for start in range(0, len(known), step):
            some = np.flatnonzero((codes >= start) & (codes < start + step))
            some = some[np.argsort(codes[some], kind="stable")]
            probes = self.fetch(known[start : start + step])
            mine = some[self.held(other[some])]
            values = self.pairs(probes, codes[mine] - start, other[mine]).cpu().numpy()
            for number, theirs in enumerate(self.exchange.gather(values)):
                found[some[self._owner[other[some]] == number]] = theirs
        return found

    def _parts_apart(self, probes: Tensor, row: IntArray, places: IntArray) -> tuple[Tensor, Tensor]:
        """Squared distances of all parts of pairs `[k, p]`, and how many of the two have no direction (cosine only); by
        differences, which lose no digits."""
        shape = len(row), probes.shape[2]
        squares, zeros = (torch.zeros(shape, dtype=torch.float64, device=self.device) for _ in range(2))
        by_row = self.device.type == "cpu"  # so that each probe is made ready once
        edges = np.flatnonzero(np.diff(row, prepend=-1, append=-1)).tolist() if by_row else [0, len(row)]
        step = max(1, (4 * _CACHED_NUMBERS if by_row else self.memory // 16) // self.row_bytes)
        # Filled again and again: fresh memory would take longer than the arithmetic.
        space = torch.empty((min(step, len(row)), *probes.shape[1:]), dtype=torch.float64, device=self.device)
        for first, last in itertools.pairwise(edges):
            for start in range(first, last, step):
                some = slice(start, min(start + step, last))
                if not by_row:
                    one = probes[torch.as_tensor(row[some], device=self.device)].to(torch.float64)
                elif start == first:
                    one = probes[int(row[first])].to(torch.float64)[None]
                other = space[: some.stop - start].copy_(self._read(places[some]))
                if self.metric == "cos":
                    zeros[some] = (one == 0).all(dim=1).to(torch.float64) + (other == 0).all(dim=1)
                    one, other = _unit(one, 1), _unit(other, 1)
                torch.sum(other.sub_(one).square_(), dim=1, out=squares[some])
        return squares, zeros

    def _drop_noise(self, squares: Tensor, probes: Tensor, row: IntArray, places: IntArray) -> None:
        """Sets to zero what `_block` could not tell from zero, so that both ways have the same ties."""
        longest = 8.0 if self.metric == "cos" else 8.0 * probes.shape[1] * self.largest**2
        near = ((squares > 0) & (squares <= _NOISE * longest)).any(dim=1).nonzero().flatten()
        step = max(1, self.memory // (32 * self.row_bytes))
        for some in near.split(step):
            pairs = some.cpu().numpy()
            one, other = probes[torch.as_tensor(row[pairs], device=self.device)], self._read(places[pairs])
            lengths = self._features(one).squares + self._features(other).squares
            squares[some] = squares[some].masked_fill(squares[some] <= lengths.T * _NOISE, 0)

    def _mean_of_parts(self, squares: Tensor, zeros: Tensor) -> Tensor:
        if self.metric == "euc":
            return squares.sqrt_().mean(dim=1).clamp_(max=_LARGEST).to(torch.float32)
        return squares.add_(zeros).mul_(0.5).mean(dim=1).to(torch.float32)

    def _features(self, embeddings: Tensor) -> Features:
        """[n, c, p] float32 -> centred parts in double precision."""
        parts = embeddings.permute(2, 0, 1).to(torch.float64, memory_format=torch.contiguous_format)
        directionless = torch.zeros_like(parts[..., 0])
        if self.metric == "cos":
            directionless = (parts == 0).all(dim=2).to(torch.float64)
            parts = _unit(parts, 2)
        parts = parts - self.centre
        return Features(parts, parts.square().sum(dim=2), directionless)

    def _block(self, probe: Features, gallery: Features) -> Tensor:
        """Distances `[n_probes, n_gallery]`, float32; part after part: all at once would take p times as much."""
        parts_num = len(probe.parts)
        total = probe.parts.new_zeros(probe.parts.shape[1], gallery.parts.shape[1])
        for part in range(parts_num):
            lengths = probe.squares[part, :, None] + gallery.squares[part]
            squared = torch.addmm(lengths, probe.parts[part], gallery.parts[part].T, alpha=-2)
            squared.masked_fill_(squared <= lengths.mul_(_NOISE), 0)
            if self.metric == "euc":
                total += squared.sqrt_()
            else:  # 1 - xy = |x - y|^2 / 2 for unit vectors; a part without direction has product 0, so distance 1
                total += squared.mul_(0.5) + 0.5 * (probe.zero[part, :, None] + gallery.zero[part])
        return total.div_(parts_num).clamp_(max=_LARGEST).to(torch.float32)

    def _check_shape(self) -> None:
        embeddings = self._embeddings
        shapes = self.exchange.gather(np.array([embeddings.shape]) if len(embeddings) else np.zeros((0, 3), np.int64))
        alike = {tuple(shape[1:].tolist()) for part in shapes for shape in part}
        if embeddings.ndim != 3 or len(alike) != 1 or 0 in next(iter(alike)):
            raise ValueError(
                f"embeddings have shape {list(embeddings.shape)}; expected [n, c, p]: "
                "n sequences, c channels, p parts, none of them 0"
            )
        if not len(embeddings):  # a process without any sequence
            self._embeddings = np.zeros((0, *next(iter(alike))), dtype=np.float32)
        elif not isinstance(embeddings, Tensor) and embeddings.dtype.kind not in "biuf":
            raise ValueError(f"embeddings are of type {embeddings.dtype}; expected floats")

    def _map(self, own: IntArray) -> tuple[IntArray, IntArray]:
        """For every sequence who holds it, and in which place if it is this process."""
        shares = self.exchange.gather(own)
        everyone = np.concatenate(shares)
        total = len(everyone)
        if not np.array_equal(np.sort(everyone), np.arange(total)):
            raise ValueError(f"the {len(shares)} processes together do not hold each of {total} sequences once")
        owner = np.empty(total, dtype=np.int64)
        for number, share in enumerate(shares):
            owner[share] = number
        place = np.full(total, -1, dtype=np.int64)
        place[own] = np.arange(len(own))
        return owner, place

    def _look_through(self, own: IntArray) -> tuple[Tensor, float]:
        """The mean `[p, 1, c]` of what is compared, which taken away from both sides changes no distance; and the
        largest absolute value. Refuses what is not finite as float32, which is what gets compared."""
        count, channels, parts = self._embeddings.shape
        total = torch.zeros(channels, parts, dtype=torch.float64, device=self.device)
        bad: list[IntArray] = [np.zeros(0, dtype=np.int64)]
        largest = 0.0
        step = max(1, min(self.memory, 8 * _CACHED_NUMBERS) // (2 * self.row_bytes))
        for start in range(0, count, step):
            span = slice(start, min(start + step, count))
            with np.errstate(over="ignore"):
                rows = self._read(span)
            edge = max(abs(float(value)) for value in torch.aminmax(rows))  # NaN, if there is any
            if not np.isfinite(edge):
                bad.append(own[span][~torch.isfinite(rows).flatten(1).all(dim=1).cpu().numpy()])
                continue
            largest = max(largest, edge)
            numbers = rows.to(torch.float64)
            total += (_unit(numbers, 1) if self.metric == "cos" else numbers).sum(dim=0)
        self._refuse(np.sort(np.concatenate(self.exchange.gather(np.concatenate(bad)))))
        sums = np.concatenate(self.exchange.gather(total.cpu().numpy()[None])).sum(axis=0)
        largest = max(float(value[0]) for value in self.exchange.gather(np.array([largest])))
        mean = torch.from_numpy(sums / len(self)).to(self.device)
        return mean.T.contiguous()[:, None], largest

    def _refuse(self, bad: IntArray) -> None:
        if len(bad):
            raise ValueError(
                f"embeddings of {len(bad)} of {len(self)} sequences hold NaN or infinite values, the first at index "
                f"{bad[0]}; expected numbers that are finite in float32. The network diverged, or overflowed in half "
                "precision."
            )


def _unit(parts: Tensor, dim: int) -> Tensor:
    length = parts.norm(dim=dim, keepdim=True)
    return parts / torch.where(length > 0, length, torch.ones_like(length))


def check_metric(metric: str) -> None:
    """Refuses a metric that does not exist.

    Raises:
        ValueError: not "euc" or "cos"; the message says the nearest.
    """
    if metric not in METRICS:
        near = nearest(str(metric), METRICS)
        hint = f" (did you mean '{near}'?)" if near else ""
        raise ValueError(f"unknown metric '{metric}'{hint}; expected one of: {', '.join(METRICS)}")
