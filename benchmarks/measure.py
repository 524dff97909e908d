"""How the benchmarks measure: both forms in one process, turn by turn, medians; and what the machine can do at most."""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[], Any]


@dataclass(frozen=True)
class Ratio:
    """Seconds of the plain form and of ours, medians of several turns.

    Attributes:
        spread: largest over smallest time of ours; a machine that does something else shows here.
    """

    plain: float
    ours: float
    spread: float

    @property
    def times(self) -> float:
        """How many times faster ours is."""
        return self.plain / self.ours


def synchronise(device: torch.device) -> None:
    """Waits for a GPU; a CPU has nothing pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Work, device: torch.device) -> float:
    """Of one call, garbage collection held back."""
    gc.collect()
    gc.disable()
    try:
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        return time.perf_counter() - began
    finally:
        gc.enable()


def compare(plain: Work, ours: Work, device: torch.device, turns: int = 3, warm: int = 1) -> Ratio:
    """Runs the two in turn, so that whatever else the machine does falls on both."""
    for _ in range(warm):
        plain()
        ours()
    pairs = [(seconds(plain, device), seconds(ours, device)) for _ in range(turns)]
    of_plain, of_ours = zip(*pairs, strict=True)
    return Ratio(statistics.median(of_plain), statistics.median(of_ours), max(of_ours) / min(of_ours))


def median_seconds(work: Work, device: torch.device, turns: int = 3, warm: int = 1) -> float:
    """Of several calls."""
    for _ in range(warm):
        work()
    return statistics.median(seconds(work, device) for _ in range(turns))


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches with nothing in the way: float32 matrix products and copies of memory."""

    flops: float
    bytes: float

    @classmethod
    def of(cls, device: torch.device, size: int | None = None) -> Ceilings:
        """Measured now: a square product, and a copy of an array far larger than the caches."""
        size = size or (8192 if device.type == "cuda" else 2048)
        a = torch.randn(size, size, device=device)
        product = median_seconds(lambda: a @ a, device)
        source = torch.empty((256 if device.type == "cuda" else 64) * (1 << 20), dtype=torch.float32, device=device)
        target = torch.empty_like(source)
        copy = median_seconds(lambda: target.copy_(source), device)
        return cls(2 * size**3 / product, 2 * source.nbytes / copy)


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


def table(rows: list[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)
