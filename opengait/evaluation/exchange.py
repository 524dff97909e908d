"""What the evaluation needs of other processes, where the embeddings are dealt out over several.

Each process holds its own sequences and knows the names of all. Distances to the gallery are taken where the gallery
sequence lies; what travels are the probes of one chunk, the distances of their positives, and counts. All of these are
exact, so any number of processes gives the same figures.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Exchange(Protocol):
    """Collective: every process calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Number of this process; the one numbered 0 writes files."""
        ...

    def gather(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """`[n of this process, ...]` -> one array of each process, in order; n may differ."""
        ...

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum over processes of arrays of one shape."""
        ...


class Alone:
    """One process that holds everything."""

    rank = 0

    def gather(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """Its own array."""
        return [array]

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Its own counts."""
        return counts


ALONE = Alone()
