"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) that keeps each sequence's neighbours and not the whole matrix.

Sequences that are among each other's nearest share weight; two sequences are near if their weighted neighbourhoods
overlap (Jaccard distance), blended with the distance they had. Weights are kept in half precision by default, because
published results were made so and its rounding decides between near candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from opengait.evaluation.distances import Distances
from opengait.evaluation.nearest import nearest

IntArray = NDArray[np.int64]
Row = tuple[IntArray, NDArray[np.floating]]  # indices, ascending, and their weights


class Reranked:
    """Re-ranked distances from some probes to a gallery, as `Distances.rows` gives them. Collective.

    Args:
        distances: of the embeddings.
        probes, gallery: numbers of sequences.
        k1: neighbours within which two sequences must find each other.
        k2: neighbours over which the weights of a sequence are averaged.
        blend: share of the original distance.
        dtype: of the weights and the Jaccard distance.
    """

    def __init__(
        self,
        distances: Distances,
        probes: IntArray,
        gallery: IntArray,
        *,
        k1: int = 6,
        k2: int = 6,
        blend: float = 0.3,
        dtype: DTypeLike = np.float16,
    ) -> None:
        self._distances, self._probes, self._gallery = distances, probes, gallery
        self._blend, self._dtype = blend, dtype
        self.device, self.exchange = torch.device("cpu"), distances.exchange
        everyone = np.concatenate([probes, gallery])
        neighbours, largest = _neighbours(distances, everyone, max(k1 + 1, k2))
        groups = [_reciprocal_group(i, neighbours, k1) for i in range(len(everyone))]
        weights = _weights(distances, everyone, largest, groups, dtype)
        if k2 != 1:
            weights = [_expanded([weights[j] for j in neighbours[i, :k2]], dtype) for i in range(len(everyone))]
        self._weights, self._largest = weights, largest
        self._members = _members(weights, len(everyone), dtype)

    def held(self, gallery: IntArray) -> IntArray:
        """As `Distances.held`."""
        return self._distances.held(gallery)

    def rows(
        self, probes: IntArray, gallery: IntArray, *, bytes_per_pair: int = 4
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """As `Distances.rows`, for the probes and gallery that this was made for.

        Raises:
            ValueError: others.
        """
        if not (np.array_equal(probes, self._probes) and np.array_equal(gallery, self._gallery)):
            raise ValueError(
                f"re-ranked for {len(self._probes)} probes and {len(self._gallery)} gallery sequences, asked for "
                f"{len(probes)} and {len(gallery)} others: neighbours would differ"
            )
        count, columns = len(self._weights), len(probes) + self.held(gallery)
        for rows, chunk in self._distances.rows(probes, gallery, bytes_per_pair=bytes_per_pair + 12):
            original = chunk.cpu().numpy() / self._largest[rows, None]
            jaccard = np.stack(
                [
                    _jaccard(self._weights[i], self._members, count, self._dtype)[columns]
                    for i in range(rows.start, rows.stop)
                ]
            )
            blended = jaccard * (1 - self._blend) + original * np.float32(self._blend)
            yield rows, torch.from_numpy(blended).to(torch.float32)


def _neighbours(distances: Distances, everyone: IntArray, count: int) -> tuple[IntArray, NDArray[np.float32]]:
    """The nearest of each sequence, itself included, `[n, count]` positions in `everyone`, and its largest distance."""
    count = min(count, len(everyone))
    neighbours = np.empty((len(everyone), count), dtype=np.int64)
    largest = np.empty(len(everyone), dtype=np.float32)
    for rows, columns, farthest in nearest(distances, everyone, everyone, count):
        neighbours[rows], largest[rows] = columns, farthest
    return neighbours, np.maximum(largest, np.finfo(np.float32).tiny)


def _reciprocal(i: int, neighbours: IntArray, k: int) -> IntArray:
    """The first k neighbours of i (and i) that have i among their own."""
    forward = neighbours[i, : k + 1]
    return forward[(neighbours[forward, : k + 1] == i).any(axis=1)]


def _reciprocal_group(i: int, neighbours: IntArray, k1: int) -> IntArray:
    """Reciprocal neighbours of i, widened by those of theirs that overlap by more than two thirds, ascending."""
    own = _reciprocal(i, neighbours, k1)
    group = [own]
    for candidate in own:
        theirs = _reciprocal(int(candidate), neighbours, round(k1 / 2))
        if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
            group.append(theirs)
    return np.unique(np.concatenate(group))


def _weights(
    distances: Distances, everyone: IntArray, largest: NDArray[np.float32], groups: list[IntArray], dtype: DTypeLike
) -> list[Row]:
    """Weights exp(-d) over each group, summing to one."""
    sizes = np.array([len(group) for group in groups])
    own, others = everyone.repeat(sizes), everyone[np.concatenate(groups)]
    apart = np.split(distances.any_pairs(own, others), np.cumsum(sizes)[:-1])
    weights: list[Row] = []
    for group, values, scale in zip(groups, apart, largest, strict=True):
        near = np.exp(-values / scale)
        weights.append((group, (near / near.sum()).astype(dtype)))
    return weights


def _expanded(rows: list[Row], dtype: DTypeLike) -> Row:
    """The mean of sparse rows."""
    indices = np.unique(np.concatenate([index for index, _ in rows]))
    total = np.zeros(len(indices), dtype=np.float32)
    for index, weight in rows:
        total[np.searchsorted(indices, index)] += weight
    return indices, (total / np.float32(len(rows))).astype(dtype)


def _members(weights: list[Row], count: int, dtype: DTypeLike) -> list[Row]:
    """For each sequence, who gives it weight and how much: the rows turned into columns."""
    column = np.concatenate([index for index, _ in weights])
    row = np.repeat(np.arange(len(weights)), [len(index) for index, _ in weights])
    value = np.concatenate([weight for _, weight in weights]).astype(dtype)
    order = np.argsort(column, kind="stable")
    edges = np.searchsorted(column[order], np.arange(1, count))
    return list(zip(np.split(row[order], edges), np.split(value[order], edges), strict=True))


def _jaccard(weights: Row, members: list[Row], count: int, dtype: DTypeLike) -> NDArray[np.floating]:
    """Jaccard distance of one sequence to all, `[count]`."""
    shared = np.zeros(count, dtype=dtype)
    for index, weight in zip(*weights, strict=True):
        others, theirs = members[index]
        shared[others] += np.minimum(weight, theirs)
    return 1 - shared / (2 - shared)
