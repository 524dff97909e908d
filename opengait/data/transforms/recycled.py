"""Memory that is taken from the system once and used again."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCKS = 2  # the batch in the network, and the one made while its names still stand
LEAST = 1 << 18  # values; below, the allocator keeps memory by itself


class Recycled:
    """Float32 tensors on the CPU whose memory goes round.

    Pages fresh from the system cost several times what it takes to fill them. A block is given out again when no
    tensor, view or graph uses it any more; while all are in use, memory is new.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def empty(self, shape: Sequence[int]) -> Tensor:
        """A tensor whose values are undefined."""
        size = math.prod(shape)
        if size < LEAST:
            return torch.empty(tuple(shape), dtype=torch.float32)
        free = [number for number, (_, user) in enumerate(self._blocks) if user() is None]
        fitting = [number for number in free if self._blocks[number][0].size >= size]
        if fitting:
            block = self._blocks.pop(fitting[0])[0]
        elif free or len(self._blocks) < BLOCKS:
            if free:
                self._blocks.pop(free[0])
            # Not NumPy's own, which asks for large pages: at times the system takes long to find some.
            block = torch.empty(size, dtype=torch.float32).numpy()
        else:
            return torch.empty(tuple(shape), dtype=torch.float32)
        # The tensor's storage keeps this very array, and nothing else does: it dies with the storage's last user.
        array = block[:size].reshape(tuple(shape))
        self._blocks.append((block, weakref.ref(array)))
        return torch.from_numpy(array)

    def __reduce__(self) -> tuple[type[Recycled], tuple[()]]:
        """A copy, or what goes to a worker, begins with nothing."""
        return type(self), ()
