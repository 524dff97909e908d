"""What a large folder tree holds, remembered between runs: walking it takes a second for every 25,000 sequences.

The index is checked before it is used. A sequence, type or subject that comes or goes changes the folder above it, and
every such folder is looked at. Of the sequences themselves, some are looked at: their folders and files may not have
changed either. A change of a few of very many may be missed by that; so whoever opens a file compares its length with
the one remembered.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from opengait.data.length_cache import cache_folder
from opengait.data.store import Selection

log = logging.getLogger(__name__)

LARGE = 10_000  # sequences; a smaller tree is walked every time
LOOKED_AT = 5_000
# A folder that changed this shortly before the walk could change again without a new time of change.
SETTLED_NS = 2_000_000_000
VERSION = 1


@dataclass
class TreeIndex:
    """The sequences of a tree, one entry each in all lists.

    Attributes:
        names: of the files in use.
        folders: of the subjects and types, relative to the root; '' is the root.
        empty: sequence folders without files.
        lengths: frames per sequence, int64 [n], once they are known.
        stamps: int64 [folders], [n]: change whenever a folder, or a sequence's folder or files do; once it is kept.
    """

    subjects: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    names: list[tuple[str, ...]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    lengths: np.ndarray | None = None
    stamps: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.subjects)


class TreeMemory:
    """Keeps the index of one tree, subjects and selection in the cache folder.

    A cache that cannot be read or written costs time and nothing else.
    """

    def __init__(self, root: str, subjects: Iterable[str], selection: Selection) -> None:
        self.root = root
        key = "\0".join([str(VERSION), os.path.abspath(root), repr(selection.setting), *subjects])
        self.path = cache_folder() / f"tree-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.npz"

    def recall(self) -> TreeIndex | None:
        """The index, unless there is none or the tree has changed."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                index = _decode({name: found[name] for name in found.files})
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error):
            return None
        # Others every time, so that a change that was missed once is found in the end.
        rows = np.random.default_rng().permutation(len(index))[:LOOKED_AT]
        return None if self.changed(index, rows) or self._folders_changed(index) else index

    def remember(self, index: TreeIndex, walked_ns: int) -> None:
        """Keeps an index that was made by a walk begun at that time, unless the tree was still being written."""
        try:
            if index.stamps is None:
                folders = self._folder_stamps(index)
                if folders.max() > walked_ns - SETTLED_NS:
                    log.info("%s has just been written; it is indexed the next time", self.root)
                    return
                index.stamps = folders, self._sequence_stamps(index, range(len(index)))
            _write(self.path, _encode(index))
        except OSError as error:
            log.info("the index of %s is not cached: %s", self.root, error)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def changed(self, index: TreeIndex, rows: Iterable[int]) -> bool:
        """Whether one of these sequences is not as it was."""
        rows = np.asarray(rows, dtype=np.int64)
        try:
            return index.stamps is None or bool((self._sequence_stamps(index, rows) != index.stamps[1][rows]).any())
        except OSError:
            return True

    def _folders_changed(self, index: TreeIndex) -> bool:
        try:
            return index.stamps is None or bool((self._folder_stamps(index) != index.stamps[0]).any())
        except OSError:
            return True

    def _folder_stamps(self, index: TreeIndex) -> np.ndarray:
        paths = [f"{self.root}/{folder}" for folder in index.folders]
        return np.array([status.st_ctime_ns for status in map(os.stat, paths)], dtype=np.int64)

    def _sequence_stamps(self, index: TreeIndex, rows: Iterable[int]) -> np.ndarray:
        stamps = []
        for row in rows:
            folder = f"{self.root}/{index.subjects[row]}/{index.types[row]}/{index.views[row]}"
            times = [os.stat(folder).st_ctime_ns]
            for name in index.names[row]:
                status = os.stat(f"{folder}/{name}")
                times += [status.st_size, status.st_mtime_ns]
            stamps.append(hash(tuple(times)))  # of whole numbers, so it is the same in every process
        return np.array(stamps, dtype=np.int64)


def now_ns() -> int:
    """The clock that files are stamped by."""
    return time.time_ns()


def _encode(index: TreeIndex) -> dict[str, np.ndarray]:
    arrays = {"folders": np.array(index.folders), "empty": np.array(index.empty, dtype=str)}
    names = ["/".join(one) for one in index.names]
    for name, column in (
        ("subjects", index.subjects),
        ("types", index.types),
        ("views", index.views),
        ("names", names),
    ):
        table, codes = np.unique(np.array(column), return_inverse=True)
        arrays |= {name: table, f"{name}_codes": codes.astype(np.int32)}
    if index.stamps is not None:
        arrays |= {"folder_stamps": index.stamps[0], "sequence_stamps": index.stamps[1]}
    if index.lengths is not None:
        arrays["lengths"] = index.lengths
    return arrays


def _decode(arrays: dict[str, np.ndarray]) -> TreeIndex:
    """Raises ValueError or LookupError where the arrays do not belong together."""
    columns = []
    for name in ("subjects", "types", "views", "names"):
        table, codes = arrays[name].tolist(), arrays[f"{name}_codes"]
        if codes.dtype != np.int32 or codes.ndim != 1 or (codes < 0).any():
            raise ValueError(f"column {name}")
        columns.append([table, codes.tolist()])
    columns[3][0] = [tuple(names.split("/")) for names in columns[3][0]]
    subjects, types, views, names = (list(map(table.__getitem__, codes)) for table, codes in columns)
    lengths, stamps = arrays.get("lengths"), (arrays["folder_stamps"], arrays["sequence_stamps"])
    index = TreeIndex(
        subjects, types, views, names, arrays["folders"].tolist(), arrays["empty"].tolist(), lengths, stamps
    )
    count = len(index)
    shapes = [
        (len(types),),
        (len(views),),
        (len(names),),
        stamps[1].shape,
        (count,) if lengths is None else lengths.shape,
    ]
    if not count or any(shape != (count,) for shape in shapes) or stamps[0].shape != (len(index.folders),):
        raise ValueError("columns of unequal length")
    if lengths is not None and (lengths.dtype != np.int64 or (lengths < 1).any()):
        raise ValueError("lengths")
    return index


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(file.name, path)
