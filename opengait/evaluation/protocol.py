"""What a protocol is: which sequences are probes and gallery, which are kept apart, which figures come out.

A protocol is data: a YAML file in `protocols/` for each data set, read and checked here. Selecting sequences needs
labels, types and views only.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from opengait.evaluation.distances import METRICS
from opengait.evaluation.selection import Condition, Selector, Strict
from opengait.registry import nearest

FOLDER = Path(__file__).parent / "protocols"
TAG_PREFIX = "scalar/test_accuracy/"


class Figure(Strict):
    """A measure that a protocol gives, and the name under which it is returned."""

    measure: str = Field(pattern=r"^(Rank-[1-9]\d*|mAP|mINP|mIoU|accuracy|precision|recall|F1)$")
    """Rank-k, mAP or mINP; mIoU of masks, which no other figure stands beside; those of `classes`."""
    tag: str | None = None
    """Name of the returned figure, with `{condition}`; without `scalar/...` it stands below `scalar/test_accuracy/`.
    None: shown only."""

    def full_tag(self, condition: str = "") -> str:
        """The tag as returned."""
        tag = str(self.tag).format(condition=condition)
        return tag if tag.startswith("scalar/") else TAG_PREFIX + tag


class Submission(Strict):
    """A file to hand in where the truth is hidden: a row for each probe, its view and the nearest gallery labels."""

    folder: str
    header: list[str]
    """First the probe, then one column for each of the nearest gallery sequences."""
    integer_labels: bool
    """Write labels as integers, without leading zeros."""


ViewRule = Literal["none", "each-pair-of-views", "each-pair-with-identical", "all-views-but-own", "own-view-excluded"]


class Beside(Strict):
    """Other figures of the same probes and galleries, shown beside its own; what is not given is the same."""

    label: str
    """What is different, in few words: part of their tags in TensorBoard."""
    name: str
    """As a protocol's."""
    official: bool = False
    view_rule: ViewRule | None = None
    without_positive: Literal["miss", "skip"] | None = None
    figures: list[Figure] | None = None


class Protocol(Strict):
    """One way to test on one data set."""

    eval_func: str
    name: str
    """Gallery and view rule in words; part of the full name of every figure."""
    official: bool
    """The published protocol of this data set."""
    cross_view_gallery: bool = False
    """Chosen by `cross_view_gallery` of the evaluator settings."""
    gallery: Selector | None = None
    conditions: dict[str, Condition] = Field(default_factory=dict)
    view_rule: ViewRule = "none"
    """none: views play no part. each-pair-of-views: every probe view against the gallery of every other view, averaged.
    each-pair-with-identical: the same with the probe's own view. all-views-but-own: gallery of all views without
    the probe subject's sequences at the probe's view, averaged over probe views. own-view-excluded: the same, averaged
    over probes."""
    views_dropped: list[str] = Field(default_factory=list)
    """Views that take no part."""
    view_until: str | None = None
    """The view is the text before this mark."""
    without_positive: Literal["miss", "skip"] = "miss"
    """What Rank-k makes of a probe whose subject is not in its gallery; mAP and mINP always skip it."""
    figures: list[Figure] = Field(default_factory=list)
    decimals: int | None = None
    """Decimals to which each cell (view pairs) or each view, or each figure, is rounded before averaging, as published;
    None: no rounding."""
    rerank: bool = False
    """k-reciprocal re-ranking unless asked otherwise."""
    submission: Submission | None = None
    classes: dict[str, int] | None = None
    """For classification: number of each class by the type that names it, in small letters."""
    refuses_trained: bool = False
    """Subjects that the network was trained on are an error: this tests on some held out of a training set."""
    beside: list[Beside] = Field(default_factory=list)
    """Further figures from the same distances."""

    @model_validator(mode="after")
    def _whole(self) -> Protocol:
        for condition, selector in self.conditions.items():
            if selector.gallery is None and self.gallery is None:
                raise ValueError(f"condition {condition} has no gallery, and the protocol has none either")
        if bool(self.figures) == (self.submission is not None):
            raise ValueError("a protocol has either figures or a submission")
        if self.compares_masks and (len(self.figures) > 1 or self.conditions):
            raise ValueError("mIoU stands alone: no other figure, and no conditions")
        told = {figure.measure for figure in self.figures} & {"accuracy", "precision", "recall", "F1"}
        if bool(told) != (self.classes is not None) or (self.classes and self.conditions):
            raise ValueError("classification needs classes and its own figures, and has no conditions")
        if not self.compares_masks and not self.classes and not self.conditions:
            raise ValueError("a protocol needs at least one condition, which says what the probes are")
        return self

    @property
    def compares_masks(self) -> bool:
        """Whether pixels are compared and not embeddings."""
        return any(figure.measure == "mIoU" for figure in self.figures)

    @property
    def by_pairs(self) -> bool:
        """Whether each pair of views is a gallery of its own."""
        return self.view_rule in ("each-pair-of-views", "each-pair-with-identical")

    @property
    def by_view(self) -> bool:
        """Whether figures are means over probe views."""
        return self.view_rule not in ("none", "own-view-excluded")

    def with_beside(self, other: Beside) -> Protocol:
        """The protocol that the figures beside stand for."""
        changes = {name: getattr(other, name) for name in Beside.model_fields if name != "label"}
        return self.model_copy(update={name: value for name, value in changes.items() if value is not None})

    def gallery_of(self, condition: str) -> Selector:
        own = self.conditions[condition].gallery or self.gallery
        if own is None:
            raise ValueError(f"condition {condition} has no gallery")
        return own


class DatasetProtocols(Strict):
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
        []
        if protocol.compares_masks or protocol.classes
        else [f"{METRICS[metric]} distance", "re-ranked" if rerank else "not re-ranked"]
    )
    official = "official protocol" if protocol.official else "not an official protocol"
    return "; ".join([title, protocol.name, *ranking, official])


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = nearest(str(name), known)
    hint = f" (did you mean '{near}'?)" if near else ""
    return f"unknown {kind} '{name}'{hint}; known: {', '.join(known)}"
