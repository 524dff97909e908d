"""What a protocol is: which sequences are probes and gallery, which are kept apart, which figures come out.

A protocol is data: a YAML file in `protocols/` for each data set, read and checked here. Selecting sequences needs
labels, types and views only.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opengait.evaluation.distances import METRICS
from opengait.registry import nearest

FOLDER = Path(__file__).parent / "protocols"
TAG_PREFIX = "scalar/test_accuracy/"
Strings = NDArray[np.str_]


@dataclass(frozen=True)
class SequenceNames:
    """Subject label, type and view of every test sequence, `[n]` each, and the lists that some protocols need."""

    labels: Strings
    types: Strings
    views: Strings
    probe_set: frozenset[str] | None = None
    gallery_set: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        types: Sequence[str],
        views: Sequence[str],
        probe_set: Collection[str] | None = None,
        gallery_set: Collection[str] | None = None,
    ) -> SequenceNames:
        """From lists; the sets hold `label-type-view`.

        Raises:
            ValueError: lists of unequal length.
        """
        if not len(labels) == len(types) == len(views):
            raise ValueError(
                f"{len(labels)} labels, {len(types)} types and {len(views)} views; expected one each a sequence"
            )
        label_array, type_array, view_array = (
            np.array([str(name) for name in names], dtype=np.str_) for names in (labels, types, views)
        )
        return cls(
            label_array,
            type_array,
            view_array,
            probe_set=None if probe_set is None else frozenset(map(str, probe_set)),
            gallery_set=None if gallery_set is None else frozenset(map(str, gallery_set)),
        )

    def keys(self) -> Strings:
        """`label-type-view` of every sequence."""
        return np.array(
            [f"{a}-{b}-{c}" for a, b, c in zip(self.labels, self.types, self.views, strict=True)], dtype=np.str_
        )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Selector(_Strict):
    """Which sequences; every rule that is given must hold, none given means all."""

    types: list[str] | None = None
    """Exactly one of these types."""
    types_containing: list[str] | None = None
    """One of these texts somewhere in the type."""
    labels: list[str] | None = None
    """One of these labels."""
    labels_except: list[str] | None = None
    """None of these labels."""
    in_list: Literal["probe_set", "gallery_set"] | None = None
    """`label-type-view` stands in the list that comes with the data set."""
    not_in_list: Literal["probe_set", "gallery_set"] | None = None
    """It does not."""

    def mask(self, names: SequenceNames) -> NDArray[np.bool_]:
        """bool `[n]`.

        Raises:
            ValueError: the list that is needed was not given, or names nothing that is there.
        """
        mask = np.ones(len(names.labels), dtype=bool)
        if self.types is not None:
            mask &= np.isin(names.types, self.types)
        if self.types_containing is not None:
            mask &= np.any([np.char.find(names.types, text) >= 0 for text in self.types_containing], axis=0)
        if self.labels is not None:
            mask &= np.isin(names.labels, self.labels)
        if self.labels_except is not None:
            mask &= ~np.isin(names.labels, self.labels_except)
        if self.in_list is not None:
            mask &= _listed(names, self.in_list)
        if self.not_in_list is not None:
            mask &= ~_listed(names, self.not_in_list)
        return mask

    def describe(self) -> str:
        """For messages: `types nm-05, nm-06`."""
        rules = [(name.replace("_", " "), getattr(self, name)) for name in Selector.model_fields]
        said = [f"{name} {', '.join([value] if isinstance(value, str) else value)}" for name, value in rules if value]
        return " and ".join(said) or "all sequences"


def _listed(names: SequenceNames, which: Literal["probe_set", "gallery_set"]) -> NDArray[np.bool_]:
    listed = getattr(names, which)
    if listed is None:
        raise ValueError(
            f"this protocol needs {which}: the 'label-type-view' names that come with the data set "
            f"({which.upper()} in its partition file)"
        )
    mask = np.isin(names.keys(), sorted(listed))
    if not mask.any():
        example = f"such as '{min(listed)}'" if listed else "(it is empty)"
        raise ValueError(
            f"none of the {len(listed)} names in {which} {example} is a test sequence; expected 'label-type-view' "
            f"such as '{names.keys()[0]}'"
        )
    return mask


class Condition(Selector):
    """Probes of one condition; `gallery` if it has one of its own."""

    gallery: Selector | None = None


class Figure(_Strict):
    measure: str = Field(pattern=r"^(Rank-[1-9]\d*|mAP|mINP|mIoU)$")
    """Rank-k, mAP or mINP; mIoU of masks, which no other figure stands beside."""
    tag: str | None = None
    """Name of the returned figure without `scalar/test_accuracy/`, with `{condition}`; None: shown only."""


class Submission(_Strict):
    """A file to hand in where the truth is hidden: a row for each probe, its view and the nearest gallery labels."""

    folder: str
    header: list[str]
    """First the probe, then one column for each of the nearest gallery sequences."""
    integer_labels: bool
    """Write labels as integers, without leading zeros."""


class Protocol(_Strict):
    """One way to test on one data set."""

    eval_func: str
    name: str
    """Gallery and view rule in words; part of the full name of every figure."""
    official: bool
    """The published protocol of this data set."""
    cross_view_gallery: bool = False
    """Chosen by `cross_view_gallery` of the evaluator settings."""
    gallery: Selector | None = None
    conditions: dict[str, Condition] = {}
    view_rule: Literal["none", "each-pair-of-views", "each-pair-with-identical", "all-views-but-own"] = "none"
    """none: views play no part. each-pair-of-views: every probe view against the gallery of every other view, averaged.
    each-pair-with-identical: the same with the probe's own view. all-views-but-own: gallery of all views without
    the probe subject's sequences at the probe's view, averaged over probe views."""
    views_dropped: list[str] = []
    """Views that take no part."""
    view_until: str | None = None
    """The view is the text before this mark."""
    without_positive: Literal["miss", "skip"] = "miss"
    """What Rank-k makes of a probe whose subject is not in its gallery; mAP and mINP always skip it."""
    figures: list[Figure] = []
    decimals: int | None = None
    """Decimals to which each cell (view pairs) or each view, or each figure, is rounded before averaging, as published;
    None: no rounding."""
    rerank: bool = False
    """k-reciprocal re-ranking unless asked otherwise."""
    submission: Submission | None = None

    @model_validator(mode="after")
    def _whole(self) -> Protocol:
        for condition, selector in self.conditions.items():
            if selector.gallery is None and self.gallery is None:
                raise ValueError(f"condition {condition} has no gallery, and the protocol has none either")
        if bool(self.figures) == (self.submission is not None):
            raise ValueError("a protocol has either figures or a submission")
        if self.compares_masks and (len(self.figures) > 1 or self.conditions):
            raise ValueError("mIoU stands alone: no other figure, and no conditions")
        if not self.compares_masks and not self.conditions:
            raise ValueError("a protocol needs at least one condition, which says what the probes are")
        return self

    @property
    def compares_masks(self) -> bool:
        """Whether pixels are compared and not embeddings."""
        return any(figure.measure == "mIoU" for figure in self.figures)

    def gallery_of(self, condition: str) -> Selector:
        own = self.conditions[condition].gallery or self.gallery
        if own is None:
            raise ValueError(f"condition {condition} has no gallery")
        return own


class DatasetProtocols(_Strict):
    """A file of `protocols/`."""

    datasets: list[str]
    """Names of the data set that the file serves."""
    title: str | None = None
    """The data set's name in results, if not the name it was asked by."""
    protocols: list[Protocol]


def read_protocols(path: Path) -> DatasetProtocols:
    """Reads and checks one protocol file.

    Raises:
        ValueError: no such file, no YAML, or not of this schema; every fault is listed.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such protocol file")
    try:
        return DatasetProtocols.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no YAML: {error}") from error
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise ValueError("\n".join([f"{path.name}: not a protocol file:", *faults])) from error


@functools.cache
def shipped_protocols() -> tuple[DatasetProtocols, ...]:
    """All shipped protocol files, by file name."""
    return tuple(read_protocols(path) for path in sorted(FOLDER.glob("*.yaml")))


_REGISTERED: dict[Path, DatasetProtocols] = {}


def register_protocols(path: str | Path) -> None:
    """Adds the protocols of a file to those that `eval_func` and the data set's name choose from; a plugin's way.

    Raises:
        ValueError: not a protocol file, or a protocol of its function, data set and gallery is there already.
    """
    path = Path(path).resolve()
    file = read_protocols(path)
    others = [*shipped_protocols(), *(other for known, other in _REGISTERED.items() if known != path)]
    taken = {choice for other in others for choice in _choices(other)}
    for choice in _choices(file):
        if choice in taken:
            eval_func, dataset, _ = choice
            raise ValueError(
                f"{path.name}: {eval_func} for '{dataset}' is there already; give the function another name"
            )
    _REGISTERED[path] = file


def _choices(file: DatasetProtocols) -> list[tuple[str, str, bool]]:
    return [(one.eval_func, name, one.cross_view_gallery) for one in file.protocols for name in file.datasets]


def known_protocols() -> tuple[DatasetProtocols, ...]:
    """The shipped protocol files and those that plugins have added."""
    return (*shipped_protocols(), *_REGISTERED.values())


def protocol_functions() -> list[str]:
    """The evaluation functions that a shipped or added protocol stands for, sorted."""
    return sorted({protocol.eval_func for file in known_protocols() for protocol in file.protocols})


def find_protocol(
    eval_func: str, dataset: str | None, cross_view_gallery: bool = False, file: str | Path | None = None
) -> tuple[str, Protocol]:
    """The data set's name as results show it, and the protocol.

    Args:
        dataset: may be None where the function serves one protocol file only.
        file: a protocol file to take it from, whatever data sets the file names; where it has one protocol for the kind
            of gallery, that is taken, else the one of `eval_func`.

    Raises:
        ValueError: unknown function or data set, or no cross-view protocol for it; the message gives the nearest name.
    """
    if file is not None:
        return _from_file(Path(file), eval_func, dataset, cross_view_gallery)
    if eval_func not in protocol_functions():
        raise ValueError(_unknown("evaluation function", eval_func, protocol_functions()))
    serving = [one for one in known_protocols() if any(p.eval_func == eval_func for p in one.protocols)]
    if dataset is None:
        if len(serving) > 1:
            known = sorted(name for one in serving for name in one.datasets)
            raise ValueError(f"{eval_func} needs the name of the data set: one of {', '.join(known)}")
        dataset = serving[0].datasets[0]
    for one in serving:
        if dataset in one.datasets:
            for protocol in one.protocols:
                if protocol.eval_func == eval_func and protocol.cross_view_gallery == cross_view_gallery:
                    return one.title or dataset, protocol
            kind = "cross-view" if cross_view_gallery else "single-view"
            raise ValueError(
                f"{eval_func} has no {kind} gallery protocol for '{dataset}'; turn cross_view_gallery the other way"
            )
    known = sorted(name for one in serving for name in one.datasets)
    raise ValueError(_unknown(f"data set for {eval_func}", dataset, known))


def _from_file(path: Path, eval_func: str, dataset: str | None, cross_view_gallery: bool) -> tuple[str, Protocol]:
    found = read_protocols(path)
    fitting = [one for one in found.protocols if one.cross_view_gallery == cross_view_gallery]
    named = [one for one in fitting if one.eval_func == eval_func]
    chosen = named if len(fitting) > 1 else fitting
    if len(chosen) != 1:
        there = ", ".join(
            f"{one.eval_func} ({'cross' if one.cross_view_gallery else 'single'}-view gallery)"
            for one in found.protocols
        )
        kind = "cross-view" if cross_view_gallery else "single-view"
        raise ValueError(
            f"{path}: {len(chosen)} protocols of eval_func '{eval_func}' with a {kind} gallery, expected one; "
            f"it has {there}"
        )
    return found.title or dataset or found.datasets[0], chosen[0]


def full_name(title: str, protocol: Protocol, metric: str, rerank: bool = False) -> str:
    """Everything that a figure depends on: data set, gallery, view rule, metric, re-ranked or not, official or not."""
    ranking = (
        [] if protocol.compares_masks else [f"{METRICS[metric]} distance", "re-ranked" if rerank else "not re-ranked"]
    )
    official = "official protocol" if protocol.official else "not an official protocol"
    return "; ".join([title, protocol.name, *ranking, official])


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = nearest(str(name), known)
    hint = f" (did you mean '{near}'?)" if near else ""
    return f"unknown {kind} '{name}'{hint}; known: {', '.join(known)}"
