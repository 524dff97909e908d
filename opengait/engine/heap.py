"""Memory that an iteration frees stays with the process on a CPU, for the next one to use.

The C library asks the system for each large tensor and gives it back when it is freed. The system hands out such memory
page by page, each filled with zeros at its first touch, in every iteration anew: between a tenth and a third of a
training iteration's time. A GPU's memory is kept by torch itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch

# Of glibc's `mallopt` (malloc.h), and what a process has that has freed large blocks before: the thresholds grow to
# these with use.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
_NEVER = -1
# Where somebody has settled this already; GLIBC_TUNABLES names the same settings.
_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@contextlib.contextmanager
def keeping_freed_memory(device: torch.device) -> Iterator[bool]:
    """Inside, memory that is freed is not given back to the system; all of it is at the end.

    The process then takes as much as it ever took at once, and some percent more. Nothing happens for a GPU, with
    another C library than glibc, or where environment variables have settled how it allocates.

    Yields:
        Whether memory is kept.
    """
    library = _glibc()
    keeps = device.type == "cpu" and library is not None and not _is_settled()
    if not keeps or library is None:
        yield False
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield True
    finally:
        for setting, value in _USUAL.items():
            library.mallopt(setting, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


def _is_settled() -> bool:
    return any(name in os.environ for name in _SETTINGS) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
