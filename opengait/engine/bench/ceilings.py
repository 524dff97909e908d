"""Clocks, and what a device reaches with nothing in the way."""

from __future__ import annotations

import contextlib
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], Any]


def synchronise(device: torch.device) -> None:
    """Waits for a GPU; a CPU has nothing pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collects now, and not before the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds(work: Work, device: torch.device) -> float:
    """Of one call, garbage collection held back."""
    with no_garbage_collection():
        return _seconds(work, device)


def median_seconds(work: Work, device: torch.device, turns: int = 3, warm: int = 1) -> float:
    """Of several calls."""
    for _ in range(warm):
        work()
    with no_garbage_collection():
        return statistics.median(_seconds(work, device) for _ in range(turns))


def _seconds(work: Work, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches at most: matrix products, and copies of memory.

    Attributes:
        flops: floating-point operations a second.
        bytes: bytes read and written a second.
    """

    flops: float
    bytes: float

    @classmethod
    def of(cls, device: torch.device, size: int | None = None, dtype: torch.dtype = torch.float32) -> Ceilings:
        """Measured now: a square product, and a copy of an array far larger than the caches.

        Args:
            size: rows of the square matrices; the copied array grows with it.
            dtype: of the product.
        """
        size = size or (8192 if device.type == "cuda" else 2048)
        a = torch.randn(size, size, device=device, dtype=dtype)
        product = median_seconds(lambda: a @ a, device)
        source = torch.empty(size * (1 << 15), dtype=torch.float32, device=device)
        target = torch.empty_like(source)
        copy = median_seconds(lambda: target.copy_(source), device)
        return cls(2 * size**3 / product, 2 * source.nbytes / copy)

    def seconds(self, flops: float, nbytes: float) -> float:
        """The least that so much work takes."""
        return max(flops / self.flops, nbytes / self.bytes)

    def limit(self, flops: float, nbytes: float) -> str:
        """Which of the two is reached first."""
        return "arithmetic" if flops / self.flops > nbytes / self.bytes else "memory"


def machine(device: torch.device) -> dict[str, Any]:
    """Names and versions that belong beside every figure."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
