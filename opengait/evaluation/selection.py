"""Which sequences of a test set a protocol means, by their labels, types and views."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

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


class Strict(BaseModel):
    """A part of a protocol file: unknown keys are mistakes, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Selector(Strict):
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
    first_of_subject: int | None = Field(default=None, ge=1)
    """One of the first so many of its subject among those that all other rules leave, by type and view."""
    after_first_of_subject: int | None = Field(default=None, ge=1)
    """None of them."""

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
        if self.first_of_subject is not None:
            mask &= _order_within_subject(names, mask) < self.first_of_subject
        if self.after_first_of_subject is not None:
            mask &= _order_within_subject(names, mask) >= self.after_first_of_subject
        return mask

    def describe(self) -> str:
        """For messages: `types nm-05, nm-06`."""
        rules = [(name.replace("_", " "), getattr(self, name)) for name in Selector.model_fields]
        said = [f"{name} {', '.join(value) if isinstance(value, list) else value}" for name, value in rules if value]
        return " and ".join(said) or "all sequences"


def _order_within_subject(names: SequenceNames, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Place from 0 of each sequence among those of its subject that the mask has; the others' means nothing."""
    order = np.lexsort((names.views, names.types, names.labels, ~mask))
    chosen = order[: int(mask.sum())]
    labels = names.labels[chosen]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]]) if len(chosen) else np.zeros(0, dtype=np.int64)
    place = np.zeros(len(mask), dtype=np.int64)
    place[chosen] = np.arange(len(chosen)) - np.repeat(starts, np.diff(np.r_[starts, len(chosen)]))
    return place


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
