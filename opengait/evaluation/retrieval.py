"""Figures of a protocol: probes and gallery selected, ranked, and averaged as the protocol says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opengait.evaluation import protocol as declared
from opengait.evaluation.chunks import Source
from opengait.evaluation.ranking import rank
from opengait.evaluation.selection import SequenceNames
from opengait.evaluation.tables import Table

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
# Ranks of the cumulative match curve that are kept.
_CURVE = 50
Ranker = Callable[["Task"], "Ranked"]


@dataclass(frozen=True)
class Task:
    """Probes that meet one gallery, whatever their condition, so that each is ranked once.

    `probes` and `gallery` are indices of sequences; `labels` and `exclusion` numbers for all sequences; `segments` a
    number for each gallery sequence, or None.
    """

    probes: IntArray
    gallery: IntArray
    labels: IntArray
    segments: IntArray | None
    exclusion: IntArray | None
    nearest_only: bool


class Ranked(Protocol):
    """The gallery of a task ranked for each probe: measures and number of positives, `[n_probes, n_segments]`."""

    @property
    def positives(self) -> IntArray: ...

    def measure(self, name: str) -> FloatArray: ...


@dataclass
class Figures:
    """What a protocol gives: by tag as published (rounded) and exact, tables of each measure, the first ranks of the
    cumulative match curve by condition, and what was missing."""

    published: dict[str, float] = field(default_factory=dict)
    exact: dict[str, float] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def by_distance(distances: Source) -> Ranker:
    """Ranks tasks by the distances of embeddings; a task that comes again is not ranked again."""
    found: dict[tuple[bytes, ...], Ranked] = {}

    def ranked(task: Task) -> Ranked:
        arrays = task.probes, task.gallery, task.segments, task.exclusion
        key = *(b"" if array is None else array.tobytes() for array in arrays), bytes(task.nearest_only)
        if key not in found:
            found[key] = rank(
                distances,
                task.probes,
                task.gallery,
                task.labels,
                segments=task.segments,
                exclusion=task.exclusion,
                nearest_only=task.nearest_only,
            )
        return found[key]

    return ranked


class Retrieval:
    """Selects the sequences of a protocol and averages their measures.

    Args:
        protocol: one with figures.
        names: label, type and view of every test sequence.

    Raises:
        ValueError: no probe of any condition, no gallery, or nothing left to compare under the view rule.
    """

    def __init__(self, protocol: declared.Protocol, names: SequenceNames) -> None:
        self.protocol = protocol
        self.names = names
        self.notes: list[str] = []
        views = names.views
        if protocol.view_until is not None:
            views = np.array([view.split(protocol.view_until)[0] for view in views], dtype=np.str_)
        kept = ~np.isin(views, protocol.views_dropped)
        self.views, self.view_codes = _codes(views, kept)
        self.label_codes = np.unique(names.labels, return_inverse=True)[1].reshape(-1).astype(np.int64)
        self.probes: dict[str, IntArray] = {}
        self.galleries: dict[str, IntArray] = {}
        self._select(names, kept)

    @property
    def by_pairs(self) -> bool:
        """Whether each pair of views is a gallery of its own."""
        return self.protocol.by_pairs

    def _select(self, names: SequenceNames, kept: NDArray[np.bool_]) -> None:
        found = f"types {_some(np.unique(names.types))}, {len(names.labels)} sequences"
        for condition, selector in self.protocol.conditions.items():
            gallery_selector = self.protocol.gallery_of(condition)
            probes = np.flatnonzero(selector.mask(names) & kept)
            gallery = np.flatnonzero(gallery_selector.mask(names) & kept)
            if not len(probes):
                self.notes.append(f"{condition}: no probe ({selector.describe()}); left out")
            elif not len(gallery):
                self.notes.append(f"{condition}: no gallery ({gallery_selector.describe()}); left out")
            else:
                self.probes[condition], self.galleries[condition] = probes, gallery
        if not self.probes:
            raise ValueError(f"nothing to test: {'; '.join(self.notes)}. Found {found}")
        if self.protocol.view_rule == "each-pair-of-views" and len(self.views) < 2:
            raise ValueError(
                f"the protocol excludes identical views and all test sequences have one, '{self.views[0]}'; "
                "expected at least two views"
            )

    def tasks(self) -> Iterator[tuple[list[str], Task]]:
        """Conditions of one gallery together, with what is to be ranked for them."""
        groups: dict[bytes, list[str]] = {}
        for condition, gallery in self.galleries.items():
            groups.setdefault(gallery.tobytes(), []).append(condition)
        exclusion = self.exclusion
        nearest_only = all(figure.measure.startswith("Rank-") for figure in self.protocol.figures)
        for conditions in groups.values():
            gallery = self.galleries[conditions[0]]
            probes = np.unique(np.concatenate([self.probes[condition] for condition in conditions]))
            segments = self.view_codes[gallery] if self.by_pairs else None
            yield conditions, Task(probes, gallery, self.label_codes, segments, exclusion, nearest_only)

    @property
    def exclusion(self) -> IntArray | None:
        """A number for each sequence where those of one subject at one view are kept apart, else None."""
        if self.protocol.view_rule not in ("all-views-but-own", "own-view-excluded"):
            return None
        return self.label_codes * (len(self.views) + 1) + self.view_codes

    def figures(self, ranker: Ranker) -> Figures:
        """All figures of the protocol, in percent.

        Args:
            ranker: ranks the gallery of a task for its probes; `by_distance` makes one from embeddings.

        Raises:
            ValueError: nothing left to compare under the view rule.
        """
        result = Figures(notes=list(self.notes))
        rows: dict[str, dict[str, tuple[FloatArray, float]]] = {f.measure: {} for f in self.protocol.figures}
        for conditions, task in self.tasks():
            ranking = ranker(task)
            for condition in conditions:
                probes = self.probes[condition]
                chosen = np.searchsorted(task.probes, probes)
                result.notes += self._missing(condition, probes, ranking.positives[chosen])
                result.curves[condition] = self._curve(ranking, condition, chosen)
                for figure in self.protocol.figures:
                    values = self._measure(ranking, figure.measure)[chosen]
                    published = self._average(values, condition, self.protocol.decimals)
                    exact = self._average(values, condition, None)
                    if published is None or exact is None:
                        result.notes.append(f"{condition}: {figure.measure} has no probe with a positive; left out")
                        continue
                    rows[figure.measure][condition] = published
                    if figure.tag is not None:
                        tag = figure.full_tag(condition)
                        result.published[tag], result.exact[tag] = published[1], exact[1]
        if not any(rows.values()):
            raise ValueError(f"nothing to compare under the view rule: {'; '.join(result.notes)}")
        result.tables = self._tables(rows)
        return result

    def _curve(self, ranking: Ranked, condition: str, chosen: IntArray) -> list[float]:
        """Cumulative match characteristic: Rank-1, Rank-2, ..., in percent, not rounded."""
        longest = min(_CURVE, len(self.galleries[condition]))
        means = (
            self._average(self._measure(ranking, f"Rank-{k}")[chosen], condition, None) for k in range(1, longest + 1)
        )
        return [mean[1] for mean in means if mean is not None]

    def _measure(self, ranking: Ranked, measure: str) -> FloatArray:
        """Values of the probes, `[n_probes, n_segments]`, 0 to 1; NaN where a probe is not to be counted."""
        values = ranking.measure(measure)
        if measure.startswith("Rank-") and self.protocol.without_positive == "skip":
            return np.where(ranking.positives > 0, values, np.nan)
        return values

    def _average(self, values: FloatArray, condition: str, decimals: int | None) -> tuple[FloatArray, float] | None:
        """Values by probe view (one value where views play no part), and their mean; None if nothing counts."""
        if not self.protocol.by_view:
            cells = _percent(values, decimals)[None]
        else:
            probe_views = self.view_codes[self.probes[condition]]
            cells = np.stack([_percent(values[probe_views == view], decimals) for view in range(len(self.views))])
        if self.by_pairs:
            cells = np.where(self._compared(condition), cells, np.nan)
        by_view = _mean(cells)
        if np.isnan(by_view).all():
            return None
        return by_view, float(_mean(by_view))

    def _compared(self, condition: str) -> NDArray[np.bool_]:
        """Which pairs of probe view and gallery view count, bool `[v, gallery views ranked]`."""
        ranked = self.view_codes[self.galleries[condition]]
        compared = np.isin(np.arange(int(ranked.max()) + 1), ranked)[None].repeat(len(self.views), axis=0)
        if self.protocol.view_rule == "each-pair-of-views":
            np.fill_diagonal(compared, False)
        return compared

    def _missing(self, condition: str, probes: IntArray, positives: IntArray) -> list[str]:
        notes = []
        if self.protocol.by_view:
            absent = sorted(set(range(len(self.views))) - set(self.view_codes[probes].tolist()))
            if absent:
                notes.append(f"{condition}: no probe at view {_some([self.views[v] for v in absent])}")
        gallery = self.galleries[condition]
        if self.by_pairs:
            absent = sorted(set(range(len(self.views))) - set(self.view_codes[gallery].tolist()))
            if absent:
                notes.append(f"{condition}: no gallery at view {_some([self.views[v] for v in absent])}")
        return notes + self._lonely(condition, probes, positives)

    def _lonely(self, condition: str, probes: IntArray, positives: IntArray) -> list[str]:
        """Probes whose subject is missing where the gallery has other subjects, and what becomes of them."""
        lonely = positives == 0
        if self.by_pairs:
            lonely = lonely & self._compared(condition)[self.view_codes[probes]]
        count = int(lonely.sum())
        if not count:
            return []
        fate = "count as misses" if self.protocol.without_positive == "miss" else "are left out"
        what = "pairs of a probe and a gallery view" if self.by_pairs else "probes"
        return [
            f"{condition}: {count} of {lonely.size} {what} have no gallery sequence of the subject and {fate} in Rank-k"
        ]

    def _tables(self, rows: dict[str, dict[str, tuple[FloatArray, float]]]) -> list[Table]:
        """One table a measure, by probe view; where views play no part one table of all measures."""
        if not self.protocol.by_view:
            names = dict.fromkeys(name for found in rows.values() for name in found)
            lines = [(n, tuple(found[n][1] if n in found else None for found in rows.values()), None) for n in names]
            return [Table("percent", tuple(rows), tuple(lines))]
        tables = []
        for measure, found in rows.items():
            by_view = [
                (name, tuple(None if np.isnan(value) else float(value) for value in values), mean)
                for name, (values, mean) in found.items()
            ]
            if by_view:
                tables.append(Table(f"{measure} by probe view, percent", tuple(self.views), tuple(by_view)))
        return tables


def _codes(views: NDArray[np.str_], kept: NDArray[np.bool_]) -> tuple[list[str], IntArray]:
    """Sorted views that take part, and the number of each sequence's view; dropped ones: the number after the last."""
    known = np.unique(views[kept]) if kept.any() else np.unique(views)
    codes = np.searchsorted(known, views).astype(np.int64)
    codes[~kept] = len(known)
    return [str(view) for view in known], codes


def _percent(values: FloatArray, decimals: int | None) -> FloatArray:
    """Mean over probes of each column in percent, NaN left out, rounded: `[n_segments]`."""
    counted = ~np.isnan(values)
    counts = counted.sum(axis=0)
    percent = np.where(counted, values, 0.0).sum(axis=0) * 100 / np.maximum(counts, 1)
    if decimals is not None:
        percent = np.round(percent, decimals)
    return np.where(counts > 0, percent, np.nan)


def _mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is there; NaN where nothing is."""
    counted = ~np.isnan(values)
    counts = counted.sum(axis=-1)
    return np.where(counts > 0, np.where(counted, values, 0.0).sum(axis=-1) / np.maximum(counts, 1), np.nan)


def _some(names: list[str] | NDArray[np.str_]) -> str:
    shown = ", ".join(str(name) for name in names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)} in all)"
