"""What the evaluation room asks of other processes, over the process group."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from opengait.engine.distributed import gather_counts, rank, world_size
from opengait.evaluation.exchange import ALONE, Exchange


class Processes:
    """The processes of the group; arrays travel on the host."""

    @property
    def rank(self) -> int:
        """Number of this process."""
        return rank()

    def gather(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """`[n of this process, ...]` -> one array of each process, in order; n may differ, also be 0.

        Each share is sent as it is: padded to the largest they would take so many times the memory.
        """
        # A process that has nothing may not know what the others' rows look like.
        found = []
        for source, (share, itemsize, kind, *sizes) in enumerate(gather_counts(_described(array))):
            if source == rank():
                part = np.ascontiguousarray(array)
            else:
                dtype = np.dtype(f"{chr(kind)}{itemsize // 4 if chr(kind) == 'U' else itemsize}")
                part = np.empty((share, *sizes[1 : 1 + sizes[0]]), dtype)
            if part.size:
                dist.broadcast(torch.from_numpy(_writable(part).reshape(-1).view(np.uint8)), source)
            found.append(part)
        return found

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum over processes of arrays of one shape."""
        summed = torch.from_numpy(np.array(counts, dtype=np.int64))
        dist.all_reduce(summed)
        return summed.numpy()


def _described(array: NDArray[Any]) -> list[int]:
    """Rows, bytes and kind of an element, number of further axes and their sizes (at most four)."""
    sizes = [*array.shape[1:], 0, 0, 0, 0][:4]
    return [len(array), array.dtype.itemsize, ord(array.dtype.kind), array.ndim - 1, *sizes]


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """torch warns of arrays that may not be written to, also where it only reads."""
    return array if array.flags.writeable else array.copy()


def exchange() -> Exchange:
    """The way to the other processes, where there are any."""
    return Processes() if world_size() > 1 else ALONE
