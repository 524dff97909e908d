"""Distances from some probes to the gallery, as ranking takes them: exact, or as intervals with exact values on demand.

A chunk belongs to one slice of the probes and to the gallery sequences that this process holds, its columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opengait.evaluation import bounds
from opengait.evaluation.distances import Distances
from opengait.evaluation.exchange import Exchange

IntArray = NDArray[np.int64]
# What ranking holds for each pair of a block: two bounds and a sum over some parts, two products, and bin numbers.
BYTES_PER_PAIR = 44
# On a CPU the passes over a block are fastest where it stays in the caches.
_CACHED_PAIRS = 1 << 18
# So many probes at a time make the preparation of the gallery a tenth of the work; more take memory and save little.
_PROBES = 768
# Where more pairs than this share need their exact distance, products in double precision are the cheaper way.
DENSE = 1 / 48


class Source(Protocol):
    """What can give exact distances from some probes at a time to the sequences held here, as `Distances.rows` does."""

    @property
    def device(self) -> torch.device: ...

    @property
    def exchange(self) -> Exchange: ...

    def held(self, gallery: IntArray) -> IntArray: ...

    def rows(
        self, probes: IntArray, gallery: IntArray, *, bytes_per_pair: int = 4
    ) -> Iterator[tuple[slice, Tensor]]: ...


class Chunk(Protocol):
    """Distances of one slice of the probes to all columns."""

    def exact(self, row: IntArray, column: IntArray) -> Tensor:
        """Distances of single pairs, float32 `[k]`."""
        ...

    def exact_block(self, columns: slice) -> Tensor:
        """Distances to these columns, which may be written to: for where bounds leave too much in doubt."""
        ...

    def blocks(self, edges: list[int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Columns in order, none across an edge, with lower and upper bounds `[rows, columns]` that may be written to;
        the same tensor twice where they are exact."""
        ...

    def left(self, in_doubt: float) -> None:
        """Told which share of the pairs of the last block its bounds left in doubt."""
        ...


class ExactChunk:
    """Distances that are all there, `[rows, columns]`."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def exact(self, row: IntArray, column: IntArray) -> Tensor:
        device = self.matrix.device
        return self.matrix[torch.as_tensor(row, device=device), torch.as_tensor(column, device=device)]

    def exact_block(self, columns: slice) -> Tensor:
        return self.matrix[:, columns].clone()

    def blocks(self, edges: list[int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        for start, stop in itertools.pairwise(edges):
            if start < stop:
                block = self.exact_block(slice(start, stop))
                yield slice(start, stop), block, block

    def left(self, in_doubt: float) -> None:
        pass


class Shared(NamedTuple):
    """What chunks, of which one is made and used at a time, hand on: workspaces of the prepared probes and of all that
    belongs to a block, and what was learnt."""

    probes: bounds.Workspace
    block: bounds.Workspace
    narrowness: bounds.Narrowness


class BoundedChunk:
    """Bounds from single precision, block after block; nothing of the size of the gallery is held."""

    def __init__(self, distances: Distances, probes: Tensor, columns: IntArray, width: int, shared: Shared):
        self.distances, self.probes, self.columns, self.width = distances, probes, columns, width
        self.space, self.narrowness = shared.block, shared.narrowness
        self.span = bounds.span(distances, probes, shared.probes)

    def exact(self, row: IntArray, column: IntArray) -> Tensor:
        return self.distances.pairs(self.probes, row, self.columns[column])

    def blocks(self, edges: list[int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        for start, stop in itertools.pairwise(edges):
            for column in range(start, stop, self.width):
                some = slice(column, min(column + self.width, stop))
                gallery = bounds.span(self.distances, self.distances.take(self.columns[some]), self.space)
                at_once = self.narrowness.channels(gallery.parts.shape[2])
                yield some, *bounds.interval(self.distances.metric, self.span, gallery, self.space, at_once)

    def left(self, in_doubt: float) -> None:
        self.narrowness.left(in_doubt)

    def exact_block(self, columns: slice) -> Tensor:
        return self.distances.between(self.probes, self.columns[columns])


def chunks(
    source: Source, probes: IntArray, gallery: IntArray, columns: IntArray, positives: int
) -> Iterator[tuple[slice, Chunk]]:
    """The probes slice by slice; the same slices in every process.

    Args:
        source: embeddings, or anything that has exact distances.
        columns: positions in `gallery` of the sequences held here, in the order that the chunks' columns shall have.
        positives: pairs of which the exact distance is needed anyhow, over all processes.
    """
    sparse = positives <= DENSE * len(probes) * max(1, len(gallery))
    if isinstance(source, Distances) and sparse and bounds.in_range(source):
        yield from _bounded(source, probes, gallery[columns])
        return
    order = np.searchsorted(source.held(gallery), columns)
    sorted_already = np.array_equal(order, np.arange(len(order)))
    for rows, matrix in source.rows(probes, gallery, bytes_per_pair=BYTES_PER_PAIR):
        yield rows, ExactChunk(matrix if sorted_already else matrix[:, torch.as_tensor(order, device=matrix.device)])


def _bounded(distances: Distances, probes: IntArray, columns: IntArray) -> Iterator[tuple[slice, Chunk]]:
    # A third of the memory each: the probes as they are and made ready, the columns with copies, the block's matrices.
    share = distances.memory // 3
    step = max(1, min(len(probes), share // (2 * distances.row_bytes + 1), share // BYTES_PER_PAIR))
    pairs = share // BYTES_PER_PAIR
    if distances.device.type == "cpu":
        step, pairs = min(step, _PROBES), min(pairs, _CACHED_PAIRS)
    width = max(1, min(pairs // step, share // (4 * distances.row_bytes)))
    shared = Shared(bounds.Workspace(distances.device), bounds.Workspace(distances.device), bounds.Narrowness())
    for start in range(0, len(probes), step):
        rows = slice(start, min(start + step, len(probes)))
        yield rows, BoundedChunk(distances, distances.fetch(probes[rows]), columns, width, shared)
