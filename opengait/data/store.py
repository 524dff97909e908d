"""What a dataset needs of a place that holds sequences, and which of their modalities are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from opengait.data.errors import DataError

# One modality of a sequence: [frames, ...], or a list of one array [points, ...] a frame where their numbers differ.
Frames = np.ndarray | list[np.ndarray]


class SequenceStore(Protocol):
    """The sequences of some subjects, in a folder tree of pickles or in a packed store.

    Attributes:
        subjects, types, views: one string a sequence.
    """

    subjects: list[str]
    types: list[str]
    views: list[str]

    @property
    def modalities(self) -> int:
        """Arrays per sequence."""
        ...

    def open(self, index: int) -> list[Frames]:
        """One entry a modality, first axis time, equal lengths of 1 or more; data may be fetched when it is indexed."""
        ...

    def lengths(self) -> np.ndarray:
        """Frames per sequence, int64 [n]."""
        ...

    def damage(self, done: Callable[[int], object]) -> Iterator[str]:
        """Looks at everything that is stored, tells `done` how many more sequences it has been through, and yields what
        is wrong."""
        ...


class Selection:
    """Which modalities of a sequence are used, in which order (`data_cfg.data_in_use`).

    A list of booleans is a mask over the sorted files, and files beyond it are left out; a list of integers names
    positions, negative ones from the end, and gives the order. None takes every file.

    Raises:
        DataError: not such a list, or nothing selected.
    """

    def __init__(self, data_in_use: Sequence[bool | int] | None) -> None:
        self.setting = data_in_use
        self.positions: list[int] | None = None
        if data_in_use is None:
            return
        if not isinstance(data_in_use, list | tuple) or not data_in_use:
            raise DataError(f"data_cfg.data_in_use: a list of booleans or integers was expected, found {data_in_use!r}")
        if all(isinstance(item, bool) for item in data_in_use):
            self.positions = [position for position, used in enumerate(data_in_use) if used]
        elif all(type(item) is int for item in data_in_use):
            self.positions = list(data_in_use)
        else:
            raise DataError(f"data_cfg.data_in_use: booleans or integers, not both or others; found {data_in_use!r}")
        if not self.positions:
            raise DataError(f"data_cfg.data_in_use: {data_in_use!r} selects no file")

    def apply(self, names: list[str], folder: str) -> list[str]:
        """The used ones of the sorted file names of a folder."""
        if self.positions is None:
            return names
        count = len(names)
        missing = [position for position in self.positions if not -count <= position < count]
        if missing:
            raise DataError(
                f"{folder}: data_cfg.data_in_use {self.setting!r} asks for file number {missing[0]} (from 0), "
                f"the folder holds {count}: {', '.join(names[:5])}"
            )
        return [names[position] for position in self.positions]


def is_folder_name(name: str) -> bool:
    """Whether a subject, type or view can be the name of one folder, here and on other systems."""
    return name not in ("", ".", "..") and not any(mark in name for mark in "/\\\0")


def share_equal(names: list[str]) -> list[str]:
    """The same list with one object for equal strings: a tree names few types and views, many times."""
    seen: dict[str, str] = {}
    return list(map(seen.setdefault, names, names))
