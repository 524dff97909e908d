"""How the benchmarks measure: both forms in one process, turn by turn, medians; and what the machine can do at most."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from opengait.engine.bench.ceilings import Ceilings, Work, machine, median_seconds, seconds

__all__ = ["Ceilings", "Ratio", "Work", "compare", "machine", "median_seconds", "seconds", "table"]


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


def compare(plain: Work, ours: Work, device: torch.device, turns: int = 3, warm: int = 1) -> Ratio:
    """Runs the two in turn, so that whatever else the machine does falls on both."""
    for _ in range(warm):
        plain()
        ours()
    pairs = [(seconds(plain, device), seconds(ours, device)) for _ in range(turns)]
    of_plain, of_ours = zip(*pairs, strict=True)
    return Ratio(statistics.median(of_plain), statistics.median(of_ours), max(of_ours) / min(of_ours))


def table(rows: list[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)
