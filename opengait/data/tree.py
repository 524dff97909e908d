"""The field's folder tree, `root/subject/type/view/*.pkl`, read as a store of sequences."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from opengait.data import pickles
from opengait.data.errors import DataError
from opengait.data.length_cache import cached_lengths

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """One sequence. `files` are the paths of its modalities in order; a store may name them by other means."""

    subject: str
    type: str
    view: str
    files: tuple[str, ...]


class SequenceStore(Protocol):
    """What a dataset needs of a place that holds sequences: a folder tree of pickles, or one packed file."""

    records: list[Record]

    def open(self, index: int) -> list[np.ndarray]:
        """One array a modality, first axis time, equal lengths of 1 or more; data may be fetched when it is indexed."""
        ...

    def lengths(self) -> np.ndarray:
        """Frames per sequence, int64 [n]."""
        ...


class Selection:
    """Which files of a sequence folder are used, in which order (`data_cfg.data_in_use`).

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


class PickleTree:
    """Sequences of the listed subjects, in the order given, types and views sorted.

    Args:
        root: folder with one folder a subject.
        subjects: names of subject folders, all present.
        selection: the files of a sequence folder that are used.

    Raises:
        DataError: a file in use that is no regular .pkl file, folders with unequal numbers of modalities, a link that
            leads out of the root.
    """

    def __init__(self, root: str | os.PathLike[str], subjects: Iterable[str], selection: Selection) -> None:
        self.root = os.fspath(root)
        self._real_root = os.path.realpath(root)
        self._selection = selection
        self.records: list[Record] = []
        self.empty: list[str] = []
        for subject in subjects:
            self._walk_subject(subject)
        if self.empty:
            log.warning("%d sequence folders are empty and left out, such as %s", len(self.empty), self.empty[0])

    def open(self, index: int) -> list[np.ndarray]:
        record = self.records[index]
        arrays = [as_frames(pickles.load(path), path) for path in record.files]
        first = len(arrays[0])
        for path, array in zip(record.files, arrays, strict=True):
            if len(array) != first:
                raise DataError(
                    f"{path}: holds {len(array)} frames, {os.path.basename(record.files[0])} beside it holds {first}; "
                    "all modalities of a sequence have one length"
                )
            if first == 0:
                raise DataError(f"{path}: holds no frames; a sequence has at least one")
        return arrays

    def lengths(self) -> np.ndarray:
        return cached_lengths(self._digest(), len(self.records), lambda index: len(self.open(index)[0]))

    def _digest(self) -> str:
        """Changes when any file does, by path, size or time of change."""
        digest = hashlib.sha256()
        for record in self.records:
            for path in record.files:
                try:
                    status = os.stat(path)
                except OSError as error:
                    raise DataError(f"{path}: cannot be read: {error.strerror}") from error
                digest.update(f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _walk_subject(self, subject: str) -> None:
        subject_path = os.path.join(self.root, subject)
        if os.path.islink(subject_path):
            self._check_link(subject_path)
        for type_name, type_path in self._folders(subject_path):
            for view, folder in self._folders(type_path):
                files = self._files(folder)
                if files:
                    self.records.append(Record(subject, type_name, view, files))

    def _files(self, folder: str) -> tuple[str, ...]:
        """The paths in use of a sequence folder; none where it is empty."""
        entries = {entry.name: entry for entry in self._entries(folder)}
        if not entries:
            self.empty.append(folder)
            return ()
        used = [entries[name] for name in self._selection.apply(sorted(entries), folder)]
        for entry in used:
            if not entry.name.endswith(".pkl") or not entry.is_file():
                what = "a folder" if entry.is_dir() else "not a .pkl file"
                raise DataError(
                    f"{entry.path}: is {what}; the tree is subject/type/view/*.pkl. "
                    "Remove it or leave it out with data_cfg.data_in_use"
                )
        expected = len(self.records[0].files) if self.records else len(used)
        if len(used) != expected:
            raise DataError(
                f"{folder}: holds {len(used)} modalities, {os.path.dirname(self.records[0].files[0])} holds "
                f"{expected}; every sequence needs the same number (choose with data_cfg.data_in_use)"
            )
        return tuple(entry.path for entry in used)

    def _folders(self, path: str) -> list[tuple[str, str]]:
        """(name, path) of the folders in a folder, sorted; stray files beside them are no sequences."""
        return sorted((entry.name, entry.path) for entry in self._entries(path) if entry.is_dir())

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(path) as found:
                entries = list(found)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        for entry in entries:
            if entry.is_symlink():
                self._check_link(entry.path)
        return entries

    def _check_link(self, path: str) -> None:
        target = os.path.realpath(path)
        if os.path.commonpath([target, self._real_root]) != self._real_root:
            raise DataError(f"{path}: the link leads out of the dataset root, to {target}")


def as_frames(value: Any, path: str) -> np.ndarray:
    """The content of a data file as one numeric array, first axis time.

    Raises:
        DataError: neither an array nor lists of numbers or of arrays with equal shapes.
    """
    if isinstance(value, list | tuple):
        value = _stack(value, path)
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        raise DataError(f"{path}: an array with time as its first axis was expected, found {type(value).__name__}")
    if value.dtype.kind not in "biuf":
        raise DataError(f"{path}: an array of numbers was expected, found dtype {value.dtype}")
    return value


def _stack(items: list | tuple, path: str) -> np.ndarray:
    # A list may be named many times inside another, so it is counted before it is spread out.
    room = os.stat(path).st_size if os.path.exists(path) else 0
    pending: list[Any] = [items]
    while pending:
        item = pending.pop()
        room -= item.nbytes if isinstance(item, np.ndarray) else 1
        if room < 0:
            raise DataError(f"{path}: the lists hold more than the file does")
        if isinstance(item, list | tuple):
            pending.extend(item)
    try:
        return np.asarray(items)
    except ValueError:
        raise DataError(f"{path}: the frames differ in shape; one array of equal frames was expected") from None


def subject_folders(root: Path) -> list[str]:
    """Names of the folders in the dataset root, sorted.

    Raises:
        DataError: there is no such folder.
    """
    try:
        with os.scandir(root) as found:
            return sorted(entry.name for entry in found if entry.is_dir())
    except OSError as error:
        reason = "is a file" if root.is_file() else "no such folder" if not root.exists() else error.strerror
        raise DataError(
            f"{root}: {reason}; data_cfg.dataset_root is the folder that holds subject/type/view/*.pkl"
        ) from error
