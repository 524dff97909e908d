"""The field's folder tree, `root/subject/type/view/*.pkl`, read as a store of sequences."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from opengait.data import pickles
from opengait.data.errors import DataError
from opengait.data.length_cache import cached_lengths
from opengait.data.store import Frames, Selection, share_equal
from opengait.data.tree_index import LARGE, TreeIndex, TreeMemory, now_ns

log = logging.getLogger(__name__)

CHECKED_AT_ONCE = 1000


class PickleTree:
    """Sequences of the listed subjects, in the order given, types and views sorted.

    Attributes:
        subjects, types, views: one string a sequence.
        modalities: files in use per sequence.

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
        subjects = list(subjects)
        self._memory = TreeMemory(self.root, subjects, selection)
        self._index = self._memory.recall() or self._walk(subjects)
        self.subjects, self.types, self.views = self._index.subjects, self._index.types, self._index.views
        self._lengths: np.ndarray | None = None
        empty = self._index.empty
        if empty:
            log.warning("%d sequence folders are empty and left out, such as %s", len(empty), empty[0])

    @property
    def modalities(self) -> int:
        return len(self._index.names[0]) if self._index.names else 0

    def folder(self, index: int) -> str:
        """The folder of a sequence."""
        return os.path.join(self.root, self.subjects[index], self.types[index], self.views[index])

    def files(self, index: int) -> list[str]:
        """The paths in use of a sequence, one a modality."""
        folder = self.folder(index)
        return [os.path.join(folder, name) for name in self._index.names[index]]

    def open(self, index: int) -> list[Frames]:
        files = self.files(index)
        arrays = [as_frames(pickles.load(path), path) for path in files]
        first = len(arrays[0])
        for path, array in zip(files, arrays, strict=True):
            if len(array) != first:
                raise DataError(
                    f"{path}: holds {len(array)} frames, {os.path.basename(files[0])} beside it holds {first}; "
                    "all modalities of a sequence have one length"
                )
            if first == 0:
                raise DataError(f"{path}: holds no frames; a sequence has at least one")
        if self._lengths is not None and first != self._lengths[index]:
            self._memory.forget()
            raise DataError(
                f"{files[0]}: holds {first} frames, and held {self._lengths[index]} when they were counted; it has "
                "been changed since. Start again: the frames will be counted anew"
            )
        return arrays

    def lengths(self) -> np.ndarray:
        if self._lengths is None:
            self._lengths = self._count()
        return self._lengths

    def damage(self, done: Callable[[int], object]) -> Iterator[str]:
        """Pickles have no checksums, and whether they can be read is found out with their lengths; but an index that
        was remembered may be that of an earlier tree."""
        if self._index.stamps is not None:
            for start in range(0, len(self.subjects), CHECKED_AT_ONCE):
                rows = range(start, min(start + CHECKED_AT_ONCE, len(self.subjects)))
                if self._memory.changed(self._index, rows):
                    self._memory.forget()
                    yield (
                        f"{self.root}: sequences have changed since the tree was indexed, between "
                        f"{self.folder(rows[0])} and {self.folder(rows[-1])}. Start again: it will be indexed anew"
                    )
                    return
                done(len(rows))
        else:
            done(len(self.subjects))

    def digest(self) -> str:
        """Changes when any file does, by path, size or time of change."""
        digest = hashlib.sha256()
        for index in range(len(self.subjects)):
            for path in self.files(index):
                try:
                    status = os.stat(path)
                except OSError as error:
                    raise DataError(f"{path}: cannot be read: {error.strerror}") from error
                digest.update(f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _count(self) -> np.ndarray:
        index = self._index
        if index.lengths is None and index.stamps is None:
            return cached_lengths(self.digest(), len(index), self._length)
        if index.lengths is None:
            log.info("counting the frames of %d sequences (done once, then cached)", len(index))
            index.lengths = np.fromiter(map(self._length, range(len(index))), dtype=np.int64, count=len(index))
            self._memory.remember(index, 0)
        return index.lengths

    def _length(self, index: int) -> int:
        return len(self.open(index)[0])

    def _walk(self, subjects: list[str]) -> TreeIndex:
        """The sequences as they are on disk."""
        begun_ns = now_ns()
        index = TreeIndex(folders=[""])
        for subject in subjects:
            path = os.path.join(self.root, subject)
            if os.path.islink(path):
                self._check_link(path)
            index.folders.append(subject)
            for type_name, type_path in self._folders(path):
                index.folders.append(f"{subject}/{type_name}")
                for view, folder in self._folders(type_path):
                    names = self._files(folder)
                    if not names:
                        index.empty.append(folder)
                        continue
                    self._check_number(folder, names, index)
                    index.subjects.append(subject)
                    index.types.append(type_name)
                    index.views.append(view)
                    index.names.append(names)
        index.types, index.views = share_equal(index.types), share_equal(index.views)
        if len(index) >= LARGE:
            self._memory.remember(index, begun_ns)
        return index

    def _files(self, folder: str) -> tuple[str, ...]:
        """The names of the files in use of a sequence folder; none where it is empty."""
        entries = {entry.name: entry for entry in self._entries(folder)}
        if not entries:
            return ()
        used = [entries[name] for name in self._selection.apply(sorted(entries), folder)]
        for entry in used:
            if not entry.name.endswith(".pkl") or not entry.is_file():
                what = "a folder" if entry.is_dir() else "not a .pkl file"
                raise DataError(
                    f"{entry.path}: is {what}; the tree is subject/type/view/*.pkl. "
                    "Remove it or leave it out with data_cfg.data_in_use"
                )
        return tuple(entry.name for entry in used)

    def _check_number(self, folder: str, names: tuple[str, ...], index: TreeIndex) -> None:
        if index.names and len(names) != len(index.names[0]):
            first = os.path.join(self.root, index.subjects[0], index.types[0], index.views[0])
            raise DataError(
                f"{folder}: holds {len(names)} modalities, {first} holds {len(index.names[0])}; every sequence "
                "needs the same number (choose with data_cfg.data_in_use)"
            )

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


def as_frames(value: Any, path: str) -> Frames:
    """The content of a data file as one numeric array, first axis time; where the frames are point clouds of unequal
    size, as the list of their arrays [points, values].

    Raises:
        DataError: neither an array nor lists of numbers or of arrays with equal shapes.
    """
    if isinstance(value, list | tuple):
        if _is_ragged(value):
            return [_numeric(frame, path) for frame in value]
        value = _stack(value, path)
    return _numeric(value, path)


def _numeric(value: Any, path: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        raise DataError(f"{path}: an array with time as its first axis was expected, found {type(value).__name__}")
    if value.dtype.kind not in "biuf":
        raise DataError(f"{path}: an array of numbers was expected, found dtype {value.dtype}")
    return value


def _is_ragged(items: list | tuple) -> bool:
    """Whether these are point clouds [points, values] that differ in the number of points alone."""
    if not all(isinstance(item, np.ndarray) and item.ndim == 2 and item.dtype.kind == "f" for item in items):
        return False
    return len({len(item) for item in items}) > 1 and len({(item.shape[1], item.dtype) for item in items}) == 1


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
