"""How the libraries say that memory has run out."""

from __future__ import annotations

import torch

# Of torch's and oneDNN's CPU allocators, of CUDA's libraries (whose workspaces torch does not allocate), of C++.
_SAID = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "could not create a memory object",
    "could not create a primitive",
    "ALLOC_FAILED",
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's or NumPy's, torch's on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _SAID)
