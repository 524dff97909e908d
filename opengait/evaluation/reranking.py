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
from opengait.evaluation.submissions import nearest_columns

IntArray = NDArray[np.int64]
Row = tuple[IntArray, NDArray[np.floating]]  # indices, ascending, and their weights


def reranked_rows(
    distances: Distances,
    probes: IntArray,
    gallery: IntArray,
    *,
    k1: int = 6,
    k2: int = 6,
    blend: float = 0.3,
    dtype: DTypeLike = np.float16,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Re-ranked distances from some probes at a time to the gallery, as `Distances.rows` gives them.

    Args:
        k1: neighbours within which two sequences must find each other.
        k2: neighbours over which the weights of a sequence are averaged.
        blend: share of the original distance.
        dtype: of the weights and the Jaccard distance.

    Yields:
        The slice of `probes` and their distances `[rows, n_gallery]`, float32.
    """
    everyone = np.concatenate([probes, gallery])
    neighbours, largest = _neighbours(distances, everyone, max(k1 + 1, k2))
    groups = [_reciprocal_group(i, neighbours, k1) for i in range(len(everyone))]
    weights = _weights(distances, everyone, largest, groups, dtype)
    if k2 != 1:
        weights = [_expanded([weights[j] for j in neighbours[i, :k2]], dtype) for i in range(len(everyone))]
    members = _members(weights, len(everyone), dtype)
    for rows, chunk in distances.rows(probes, gallery, bytes_per_pair=12):
        original = chunk.cpu().numpy() / largest[rows, None]
        jaccard = np.stack(
            [_jaccard(weights[i], members, len(everyone), dtype)[len(probes) :] for i in range(rows.start, rows.stop)]
        )
        yield rows, torch.from_numpy(jaccard * (1 - blend) + original * np.float32(blend)).to(torch.float32)


def _neighbours(distances: Distances, everyone: IntArray, count: int) -> tuple[IntArray, NDArray[np.float32]]:
    """The nearest of each sequence, itself included, `[n, count]` positions in `everyone`, and its largest distance."""
    count = min(count, len(everyone))
    neighbours = np.empty((len(everyone), count), dtype=np.int64)
    largest = np.empty(len(everyone), dtype=np.float32)
    for rows, chunk in distances.rows(everyone, everyone, bytes_per_pair=12):
        neighbours[rows] = nearest_columns(chunk, count)
        largest[rows] = chunk.amax(dim=1).cpu().numpy()
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
    """Weights exp(-d) over each group, summing to one; a second pass over the distances, because groups hold sequences
    that are not among the nearest."""
    weights: list[Row] = []
    for rows, chunk in distances.rows(everyone, everyone, bytes_per_pair=12):
        values = chunk.cpu().numpy()
        for i in range(rows.start, rows.stop):
            near = np.exp(-values[i - rows.start, groups[i]] / largest[i])
            weights.append((groups[i], (near / near.sum()).astype(dtype)))
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
