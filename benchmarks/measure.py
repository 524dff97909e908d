"""How the benchmarks measure: both forms in one process, turn by turn, medians; and what the machine can do at most."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Ratio:
        """Of turns, each with the seconds of the plain form and of ours."""
        plain, ours = zip(*pairs, strict=True)
        return cls(statistics.median(plain), statistics.median(ours), max(ours) / min(ours))

    @property
    def times(self) -> float:
        """How many times faster ours is."""
        return self.plain / self.ours


def compare(plain: Work, ours: Work, device: torch.device, turns: int = 3, warm: int = 1) -> Ratio:
    """Runs the two in turn, so that whatever else the machine does falls on both."""
    for _ in range(warm):
        plain()
        ours()
    return Ratio.of([(seconds(plain, device), seconds(ours, device)) for _ in range(turns)])


def table(rows: list[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)
