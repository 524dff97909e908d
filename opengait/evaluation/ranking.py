"""Where a probe's own gallery sequences stand in its ranking, counted and not sorted.

For every positive (gallery sequence of the probe's subject) the wrong sequences that are not farther are counted: that
and the number of nearer positives is its position. A wrong sequence at the same distance counts as before the positive,
so a network that maps everyone to one point scores 0 and not 100 %.

Counts add up, over blocks of the gallery and over the processes that hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opengait.evaluation.chunks import DENSE, Chunk, Source, chunks

IntArray = NDArray[np.int64]
# Pairs in doubt that are kept until their exact distances are taken, many of one probe together.
_WAITING = 1 << 16


@dataclass(frozen=True)
class Ranking:
    """One value for each probe and gallery segment, `[n_probes, n_segments]` each.

    Attributes:
        first: position of the nearest positive, from 1; 0 where there is none.
        average_precision: mean over positives of (positives so far) / position; NaN where there is no positive.
        inverse_negative_penalty: positives / position of the last positive; NaN where there is no positive.
        positives, candidates: how many positives, and sequences in all, were ranked.
    """

    first: IntArray
    average_precision: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    positives: IntArray
    candidates: IntArray

    def measure(self, name: str) -> NDArray[np.float64]:
        """Rank-k (1 for a hit, 0 for a miss), mAP or mINP of each probe, 0 to 1; NaN where it is not defined."""
        if name == "mAP":
            return self.average_precision
        if name == "mINP":
            return self.inverse_negative_penalty
        return ((self.first > 0) & (self.first <= int(name.removeprefix("Rank-")))).astype(np.float64)


def rank(
    distances: Source,
    probes: IntArray,
    gallery: IntArray,
    labels: IntArray,
    *,
    segments: IntArray | None = None,
    exclusion: IntArray | None = None,
    nearest_only: bool = False,
) -> Ranking:
    """Ranks the gallery for each probe, each segment of the gallery by itself; collective, the same in every process.

    Args:
        distances: of embeddings, or re-ranked ones.
        probes, gallery: numbers of sequences.
        labels: a number for each subject, for every sequence of the embeddings.
        segments: a number from 0 for each gallery sequence, `[n_gallery]`; sequences of one number form a gallery of
            their own (one view, say). None: one gallery.
        exclusion: a number for every sequence of the embeddings; a gallery sequence with the probe's number takes no
            part (same subject from the same view, say).
        nearest_only: fill `first` alone; the other two measures stay NaN.
    """
    segments = np.zeros(len(gallery), dtype=np.int64) if segments is None else segments
    positives, candidates = count_candidates(probes, gallery, labels, segments, exclusion)
    first = np.zeros(positives.shape, dtype=np.int64)
    precision, penalty = np.full(positives.shape, np.nan), np.full(positives.shape, np.nan)
    held = distances.held(gallery)
    columns = held[np.argsort(segments[held], kind="stable")]
    edges = np.searchsorted(segments[columns], np.arange(positives.shape[1] + 1)).tolist()
    kinship = Kinship(labels, exclusion, gallery[columns])
    for rows, chunk in chunks(distances, probes, gallery, columns, int(positives.sum())):
        kin = kinship.of(probes[rows])
        own = _positives(distances, chunk, kin, segments[columns], positives[rows].shape, nearest_only)
        before = distances.exchange.total(_count(chunk, kin, segments[columns], edges, own).cpu().numpy())
        width = own.shape[2]
        places = np.where(np.isinf(own.cpu().numpy()), 0, before + np.arange(1, width + 1))
        first[rows] = places[:, :, 0]
        if not nearest_only:
            shape = first[rows].shape
            values = _precision_and_penalty(places.reshape(-1, width))
            precision[rows], penalty[rows] = (value.reshape(shape) for value in values)
    return Ranking(first, precision, penalty, positives, candidates)


@dataclass(frozen=True)
class Kin:
    """Pairs of a chunk that are no rivals, by column: their rows and columns, and which of them are right answers."""

    row: IntArray
    column: IntArray
    right: NDArray[np.bool_]

    def within(self, columns: slice) -> tuple[IntArray, IntArray]:
        """Rows, and columns counted from the slice's start."""
        some = slice(*np.searchsorted(self.column, (columns.start, columns.stop)))
        return self.row[some], self.column[some] - columns.start


class Kinship:
    """Finds the gallery sequences of a probe's subject, and those that take no part, without looking at all pairs.

    Args:
        labels, exclusion: a number for every sequence, as `rank` takes them.
        columns: number of the sequence of each column.
    """

    def __init__(self, labels: IntArray, exclusion: IntArray | None, columns: IntArray) -> None:
        self._labels, self._exclusion, self._columns = labels, exclusion, columns
        self._by_label = _Join(labels[columns])
        self._by_exclusion = None if exclusion is None else _Join(exclusion[columns])

    def of(self, probes: IntArray) -> Kin:
        row, column = self._by_label.pairs(self._labels[probes])
        right = np.ones(len(row), dtype=bool)
        if self._exclusion is not None and self._by_exclusion is not None:
            right = self._exclusion[probes[row]] != self._exclusion[self._columns[column]]
            more = self._by_exclusion.pairs(self._exclusion[probes])
            strangers = self._labels[probes[more[0]]] != self._labels[self._columns[more[1]]]
            row, column = (np.concatenate([a, b[strangers]]) for a, b in zip((row, column), more, strict=True))
            right = np.concatenate([right, np.zeros(len(row) - len(right), dtype=bool)])
        order = np.argsort(column, kind="stable")
        return Kin(row[order], column[order], right[order])


class _Join:
    """Columns by key."""

    def __init__(self, keys: IntArray) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def pairs(self, keys: IntArray) -> tuple[IntArray, IntArray]:
        """Rows and columns of all pairs of one key."""
        start, stop = np.searchsorted(self._sorted, keys), np.searchsorted(self._sorted, keys, side="right")
        counts = stop - start
        row = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, self._order[start[row] + within]


def _positives(
    source: Source, chunk: Chunk, kin: Kin, segments: IntArray, shape: tuple[int, ...], nearest_only: bool
) -> Tensor:
    """Distances of the positives of all processes, ascending, padded with infinity: `[rows, n_segments, r]`, r >= 1."""
    by_row = np.argsort(kin.row[kin.right], kind="stable")  # pairs of one probe together: its features are made once
    row, column = kin.row[kin.right][by_row], kin.column[kin.right][by_row]
    cell = row * shape[1] + segments[column]
    mine = torch.from_numpy(cell), chunk.exact(row, column).cpu()
    if nearest_only:
        nearest = torch.full((shape[0] * shape[1],), torch.inf).scatter_reduce_(0, *mine, "amin")
        everyone = np.stack(source.exchange.gather(nearest.numpy()))
        return torch.from_numpy(everyone.min(axis=0)).view(*shape, 1).to(source.device)
    cells, values = (np.concatenate(source.exchange.gather(part.numpy())) for part in mine)
    order = np.lexsort((values, cells))
    cells, values = cells[order], values[order]
    counts = np.bincount(cells, minlength=shape[0] * shape[1])
    own = np.full((len(counts), max(1, int(counts.max(initial=0)))), np.inf, dtype=np.float32)
    own[cells, np.arange(len(cells)) - (np.cumsum(counts) - counts)[cells]] = values
    return torch.from_numpy(own).view(*shape, -1).to(source.device)


def _count(chunk: Chunk, kin: Kin, segments: IntArray, edges: list[int], own: Tensor) -> Tensor:
    """How many wrong sequences held here stand before each positive, int64 `[rows, n_segments, r]`."""
    before = torch.zeros(own.shape, dtype=torch.int64, device=own.device)
    waiting: list[tuple[IntArray, IntArray]] = []
    for columns, low, high in chunk.blocks(edges):
        segment = int(segments[columns.start])
        there, theirs = kin.within(columns), own[:, segment].contiguous()
        counts, row, column = _count_block(low, high, theirs, there)
        chunk.left(len(row) / low.numel())
        if len(row) > low.numel() * DENSE:
            block = chunk.exact_block(columns)
            counts, row, column = _count_block(block, block, theirs, there)
        before[:, segment] += counts
        waiting.append((row, column + columns.start))
        if sum(len(some) for some, _ in waiting) > _WAITING:
            _count_pairs(chunk, waiting, segments, own, before)
            waiting = []
    _count_pairs(chunk, waiting, segments, own, before)
    return before


def _count_block(
    low: Tensor, high: Tensor, own: Tensor, kin: tuple[IntArray, IntArray]
) -> tuple[Tensor, IntArray, IntArray]:
    """Rivals `[rows, m]` before each of `own` `[rows, r]`: how many for certain, and rows and columns of the others."""
    where = tuple(torch.as_tensor(index, device=own.device) for index in kin)
    for bound in (low, high) if low is not high else (low,):
        bound[where] = torch.inf
    if own.shape[1] == 1:
        certain = high <= own
        counts = certain.sum(dim=1, keepdim=True)
        doubtful = (low <= own).ne_(certain) if low is not high else None
    else:
        # A rival falls before the first positive that is not nearer than itself, and so before all later ones.
        bins = torch.searchsorted(own, high, out_int32=True)
        doubtful = bins != torch.searchsorted(own, low, out_int32=True) if low is not high else None
        if doubtful is not None:
            bins.masked_fill_(doubtful, own.shape[1])
        counts = _cumulated(bins, own.shape[1])
    if doubtful is None or not bool(doubtful.any()):
        return counts, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    row, column = (index.cpu().numpy() for index in torch.nonzero(doubtful, as_tuple=True))
    return counts, row, column


def _cumulated(bins: Tensor, width: int) -> Tensor:
    """[rows, m] numbers from 0 to `width` -> [rows, width], how many are not above 0, 1, ..., width - 1."""
    cells = bins.to(torch.int64).add_(torch.arange(len(bins), device=bins.device)[:, None] * (width + 1))
    counts = torch.bincount(cells.flatten(), minlength=len(bins) * (width + 1))
    return counts.view(len(bins), width + 1)[:, :width].cumsum(dim=1)


def _count_pairs(
    chunk: Chunk, pairs: list[tuple[IntArray, IntArray]], segments: IntArray, own: Tensor, before: Tensor
) -> None:
    """Adds rivals, given by row and column, to `before` by their exact distance."""
    row = np.concatenate([one for one, _ in pairs] or [np.zeros(0, dtype=np.int64)])
    if not len(row):
        return
    column = np.concatenate([other for _, other in pairs])
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    values = chunk.exact(row, column)
    cell = torch.as_tensor(row * own.shape[1] + segments[column], device=own.device)
    bins = torch.searchsorted(own.flatten(0, 1)[cell], values[:, None])[:, 0]
    counts = torch.zeros((own.shape[0] * own.shape[1], own.shape[2] + 1), dtype=torch.int64, device=own.device)
    counts.index_put_((cell, bins), torch.ones_like(cell), accumulate=True)
    before += counts[:, :-1].cumsum(dim=1).view(own.shape)


def positions_of_positives(
    distances: Tensor, positive: Tensor, valid: Tensor | None = None, *, nearest_only: bool = False
) -> Tensor:
    """Positions, from 1, of the positives in the ranking of each row, ascending and padded with 0: `[rows, r]` int64.

    Args:
        distances: `[rows, g]`.
        positive: bool `[rows, g]`, the gallery sequences that are right answers.
        valid: bool `[rows, g]`, False where a gallery sequence takes no part; None: all take part.
        nearest_only: count for the nearest positive of each row alone, which is cheaper.
    """
    if valid is not None:
        positive = positive & valid
    own = distances.masked_fill(~positive, torch.inf)
    own = own.amin(dim=1, keepdim=True) if nearest_only else own.sort(dim=1).values[:, : int(positive.sum(1).max())]
    own = own if own.shape[1] else own.new_full((len(own), 1), torch.inf)
    rivals = distances.masked_fill(positive if valid is None else positive | ~valid, torch.inf)
    nothing = np.zeros(0, dtype=np.int64)
    counts, _, _ = _count_block(rivals, rivals, own.contiguous(), (nothing, nothing))
    return torch.where(torch.isinf(own), 0, counts + torch.arange(1, own.shape[1] + 1, device=own.device))


def _precision_and_penalty(positions: IntArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and inverse negative penalty of each row of positions (0: padding); NaN for rows without."""
    found = positions > 0
    counts = found.sum(axis=1)
    some = np.maximum(counts, 1)
    so_far = np.arange(1, positions.shape[1] + 1)
    # Added up one after the other: in pairs, as `sum` does, the padding would change how the result is rounded.
    precision = np.where(found, so_far / np.maximum(positions, 1), 0.0).cumsum(axis=1)[:, -1] / some
    penalty = counts / np.maximum(positions.max(axis=1), 1)
    return np.where(counts > 0, precision, np.nan), np.where(counts > 0, penalty, np.nan)


def count_candidates(
    probes: IntArray,
    gallery: IntArray,
    labels: IntArray,
    segments: IntArray,
    exclusion: IntArray | None = None,
) -> tuple[IntArray, IntArray]:
    """Positives and sequences in all that each probe meets in each segment, `[n_probes, n_segments]`; no distances."""
    segment_num = int(segments.max(initial=0)) + 1
    positives = _tally(labels, gallery, segments, segment_num)[labels[probes]]
    candidates = np.broadcast_to(np.bincount(segments, minlength=segment_num), positives.shape)
    if exclusion is None:
        return positives, candidates
    excluded = _tally(exclusion, gallery, segments, segment_num)[exclusion[probes]]
    both = np.unique(np.stack([labels, exclusion], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    excluded_positives = _tally(both, gallery, segments, segment_num)[both[probes]]
    return positives - excluded_positives, candidates - excluded


def _tally(keys: IntArray, gallery: IntArray, segments: IntArray, segment_num: int) -> IntArray:
    """How often each key occurs in each segment of the gallery: `[n_keys, n_segments]`."""
    counts = np.zeros((int(keys.max(initial=0)) + 1, segment_num), dtype=np.int64)
    np.add.at(counts, (keys[gallery], segments), 1)
    return counts


def rank_k(first: IntArray, ks: Sequence[int] | int) -> NDArray[np.float64]:
    """Share of probes with a positive among the nearest k, one value for each k; a probe without positive is a miss.

    Raises:
        ValueError: no probe.
    """
    if first.size == 0:
        raise ValueError("no probe to rank; expected at least one")
    return np.array([((first > 0) & (first <= k)).mean() for k in np.atleast_1d(ks)])


def cmc(first: IntArray, length: int = 50) -> NDArray[np.float64]:
    """Cumulative match characteristic: Rank-k for k = 1..length, `[length]`."""
    return rank_k(first, range(1, length + 1))
