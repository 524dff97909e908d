"""The outcome of a test: figures, each with the full name of its protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opengait.evaluation.tables import Table


@dataclass(frozen=True)
class FiguresBeside:
    """Further figures from the same embeddings that are not the protocol's own: filtered, re-ranked, other view rules.

    Attributes:
        label: what is different, in few words.
        protocol, figures, exact, tables, notes: as of `Evaluation`.
    """

    label: str
    protocol: str
    figures: dict[str, float]
    exact: dict[str, float]
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "label": self.label,
            "protocol": self.protocol,
            "figures": self.figures,
            "exact": self.exact,
            "tables": [table.to_dict() for table in self.tables],
            "notes": self.notes,
        }


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one test.

    Attributes:
        figures: percent (`mIOU` and those of classes: a fraction) by the reference implementation's tags, rounded where
            published ones are; never re-ranked.
        exact: the same without rounding.
        tables: each measure by condition and probe view, rounded as `figures`.
        protocol: full name: data set, gallery, view rule, metric, re-ranked or not, official or not.
        probes, gallery: number of sequences by condition.
        notes: what was missing in the data and what became of it.
        submission: the file written, where the truth is hidden.
        beside: further figures, each under its own full name.
        curves: cumulative match characteristic by condition: Rank-1, Rank-2, ... Rank-50, percent.
        verification: by condition, as `verification.verification` gives it, where it was asked for.
    """

    figures: dict[str, float]
    exact: dict[str, float]
    protocol: str
    tables: list[Table] = field(default_factory=list)
    probes: dict[str, int] = field(default_factory=dict)
    gallery: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    submission: Path | None = None
    beside: list[FiguresBeside] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    verification: dict[str, dict[str, Any]] = field(default_factory=dict)

    def named_figures(self) -> Iterator[tuple[str, float, str]]:
        """Every figure: tag, value, full name of its protocol; those beside have their label in the tag."""
        for tag, value in self.figures.items():
            yield tag, value, self.protocol
        for other in self.beside:
            label = re.sub(r"\W+", "-", other.label)
            for tag, value in other.figures.items():
                first, _, last = tag.rpartition("/")
                yield f"{first}/{label}/{last}", value, other.protocol

    def sections(self) -> Iterator[tuple[str, dict[str, float], list[Table]]]:
        """Full name, figures and tables: of the protocol first, then of what stands beside."""
        yield self.protocol, self.figures, self.tables
        for other in self.beside:
            yield other.protocol, other.figures, other.tables

    def renamed(self, addition: str) -> Evaluation:
        """The same with more in the full name of every figure."""
        beside = [replace(other, protocol=f"{other.protocol}; {addition}") for other in self.beside]
        return replace(self, protocol=f"{self.protocol}; {addition}", beside=beside)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "protocol": self.protocol,
            "figures": self.figures,
            "exact": self.exact,
            "tables": [table.to_dict() for table in self.tables],
            "probes": self.probes,
            "gallery": self.gallery,
            "notes": self.notes,
            "submission": None if self.submission is None else str(self.submission),
            "beside": [other.to_dict() for other in self.beside],
            "cmc": self.curves,
            "verification": self.verification,
        }

    def to_json(self) -> str:
        """Everything as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
