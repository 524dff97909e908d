"""The nearest gallery sequences of each probe."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from opengait.evaluation.chunks import Source

IntArray = NDArray[np.int64]


def nearest(
    distances: Source, probes: IntArray, gallery: IntArray, count: int
) -> Iterator[tuple[slice, IntArray, NDArray[np.float32]]]:
    """The nearest `count` of each probe, nearest first, ties in the order of the gallery. Collective.

    Yields:
        A slice of `probes`, positions in `gallery` `[rows, count]` (fewer in a smaller gallery), and the largest
        distance of each `[rows]`.
    """
    held = distances.held(gallery)
    for rows, chunk in distances.rows(probes, gallery, bytes_per_pair=16):
        columns, values = nearest_columns(chunk, min(count, len(held)))
        farthest = chunk.amax(dim=1).cpu().numpy() if len(held) else np.zeros(len(chunk), dtype=np.float32)
        # Ranks first, because these differ in number where a process holds few sequences.
        candidates, apart = (
            np.concatenate(distances.exchange.gather(np.ascontiguousarray(own.T))).T for own in (held[columns], values)
        )
        best = np.lexsort((candidates, apart), axis=1)[:, :count]
        largest = np.stack(distances.exchange.gather(farthest)).max(axis=0)
        yield rows, np.take_along_axis(candidates, best, axis=1), largest


def nearest_columns(distances: torch.Tensor, count: int) -> tuple[IntArray, NDArray[np.float32]]:
    """Columns of the nearest `count` of each row and their distances, ties in column order: `[rows, count]` each."""
    if not count:
        return np.zeros((len(distances), 0), dtype=np.int64), np.zeros((len(distances), 0), dtype=np.float32)
    last = distances.topk(count, dim=1, largest=False).values.amax(dim=1, keepdim=True)
    row, column = (index.cpu().numpy() for index in torch.nonzero(distances <= last, as_tuple=True))
    values = distances[distances <= last].cpu().numpy()
    order = np.lexsort((column, values, row))
    chosen = order[np.searchsorted(row, np.arange(len(distances)))[:, None] + np.arange(count)]
    return column[chosen], values[chosen]
