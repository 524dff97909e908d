"""The packed store: all frames of a modality in one file, and an index of the sequences. Here, the index.

    index.json              {"version": 1, "modalities": [{"name", "dtype", "shape"}, ...]}
    sequences.npz           columns subject, type, view, offset, length, crc32, ordered by subject, type, view
    frames-<modality>.bin   the frames one after another, C order, little-endian

`shape` is that of a frame. `offset` and `length` count frames, the same in all modalities; `crc32` runs over the bytes
of a sequence, modality after modality. Where frames hold unequal numbers of points, the first entry of `shape` is null,
frames-<modality>.bin holds the points, frames-<modality>.offsets.bin (int64 [frames + 1]) the first point of each frame
and the end, and the modality's entry `offsets_crc32` the checksum of that file.

The files are input like any other: everything in the index is checked before it is used.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opengait.data.errors import DataError
from opengait.data.npy import read_header
from opengait.data.store import is_folder_name, share_equal

VERSION = 1
INDEX = "index.json"
SEQUENCES = "sequences.npz"
DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
          "float16", "float32", "float64")  # fmt: skip
# Safe as part of a file name everywhere, and never the name of an offsets file.
MODALITY_NAME = re.compile(r"(?!.*\.offsets$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAMES = ("subject", "type", "view")
COLUMNS = {"offset": np.dtype(np.int64), "length": np.dtype(np.int64), "crc32": np.dtype(np.uint32)}
LARGEST_INDEX = 1 << 20


@dataclass(frozen=True)
class Modality:
    """What the frames of one modality are; a `shape` that begins with None has its own number of points a frame."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]
    offsets_crc32: int | None = None

    @property
    def ragged(self) -> bool:
        return bool(self.shape) and self.shape[0] is None

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of what the frames file holds one after another: a frame, or a point of one."""
        return tuple(size for size in self.shape if size is not None)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row) * self.dtype.itemsize

    @property
    def file(self) -> str:
        return f"frames-{self.name}.bin"

    @property
    def offsets_file(self) -> str:
        return f"frames-{self.name}.offsets.bin"


class PackedIndex:
    """What a packed store holds, checked against its files; no frame is read.

    Attributes:
        modalities: in the order that `data_in_use` counts.
        subject, type, view: string arrays [n]; offset, length: int64 [n] in frames; crc32: uint32 [n].
        subjects: the different subjects, sorted.
        frames: in the whole store.
        sizes: file name -> bytes.

    Raises:
        DataError: a file is absent, damaged, leads out of the folder, or contradicts the others.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self.modalities = _read_modalities(self._path(INDEX))
        path = self._path(SEQUENCES)
        columns = _read_columns(path)
        self.subject, self.type, self.view = (columns[name] for name in NAMES)
        self.offset, self.length, self.crc32 = (columns[name] for name in COLUMNS)
        self.sizes: dict[str, int] = {}
        self.frames = self._count_frames()
        self._check_ranges(path)
        changes = np.flatnonzero(self.subject[1:] != self.subject[:-1]) + 1
        # First and last row + 1 of each subject.
        self._borders = np.concatenate([[0], changes, [len(self.subject)]])
        self.subjects: list[str] = _strings(self.subject[self._borders[:-1]], path)

    def __len__(self) -> int:
        return len(self.subject)

    def rows(self, subjects: Iterable[str]) -> np.ndarray:
        """Rows of the subjects' sequences, subjects in the order given, int64 [n]."""
        place = {subject: number for number, subject in enumerate(self.subjects)}
        numbers = [place[subject] for subject in subjects]
        parts = [np.arange(self._borders[number], self._borders[number + 1]) for number in numbers]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def names(self, rows: np.ndarray) -> tuple[list[str], list[str], list[str]]:
        """Subject, type and view of rows."""
        path = os.path.join(self.root, SEQUENCES)
        subjects, types, views = (
            share_equal(_strings(column[rows], path)) for column in (self.subject, self.type, self.view)
        )
        for name in {*subjects, *types, *views}:
            if not is_folder_name(name):
                raise DataError(f"{path}: {name!r} is no name of a subject, type or view")
        return subjects, types, views

    def map(self, name: str) -> mmap.mmap | bytes:
        """The bytes of one of the store's files; the operating system fetches what is read."""
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size != self.sizes[name]:
                    raise DataError(f"{path}: has changed since the store was opened")
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.sizes[name] else b""
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error

    def _path(self, name: str) -> str:
        """Path of a file of the store, which is a regular one inside its folder."""
        path = os.path.join(self.root, name)
        if os.path.islink(path):
            folder, target = os.path.realpath(self.root), os.path.realpath(path)
            if os.path.dirname(target) != folder:
                raise DataError(f"{path}: the link leads out of the packed store, to {target}")
        if not os.path.isfile(path):
            kind = "is no regular file" if os.path.exists(path) else "no such file"
            raise DataError(f"{path}: {kind}; a packed store consists of {INDEX}, {SEQUENCES} and frames-*.bin")
        return path

    def _count_frames(self) -> int:
        """Frames in the store, the same for all modalities."""
        counts: dict[str, int] = {}
        for modality in self.modalities:
            name, unit = (modality.offsets_file, 8) if modality.ragged else (modality.file, modality.row_bytes)
            self.sizes |= {file: os.path.getsize(self._path(file)) for file in (modality.file, name)}
            size = self.sizes[name]
            count = size // unit - (1 if modality.ragged else 0)
            if size % unit or count < 1:
                raise DataError(f"{self._path(name)}: {size} bytes are no whole number of frames of {unit} bytes")
            counts[name] = count
            if modality.ragged:
                self._check_ends(modality)
        (first, frames), *others = counts.items()
        for name, count in others:
            if count != frames:
                raise DataError(f"{self._path(name)}: holds {count} frames, {first} holds {frames}")
        return frames

    def _check_ends(self, modality: Modality) -> None:
        size, path = self.sizes[modality.file], self._path(modality.offsets_file)
        with open(path, "rb") as file:
            first = int.from_bytes(file.read(8), "little", signed=True)
            file.seek(-8, os.SEEK_END)
            last = int.from_bytes(file.read(8), "little", signed=True)
        if first != 0 or last * modality.row_bytes != size:
            raise DataError(
                f"{path}: points {first} to {last} of {modality.row_bytes} bytes were expected to fill "
                f"{modality.file}, which has {size} bytes"
            )

    def _check_ranges(self, path: str) -> None:
        """Sequences fill the frames files without gap or overlap, and stand in order, each once."""
        bad = np.flatnonzero((self.length < 1) | (self.length > self.frames) | (self.offset < 0))
        if not len(bad):
            bad = np.flatnonzero(self.offset > self.frames - self.length)
        if len(bad):
            row = int(bad[0])
            raise DataError(
                f"{path}: row {row}: offset {self.offset[row]} and length {self.length[row]} are no place among "
                f"{self.frames} frames"
            )
        order = np.argsort(self.offset, kind="stable")
        starts = np.append(self.offset[order], self.frames)
        ends = np.insert(starts[:-1] + self.length[order], 0, 0)
        if (starts != ends).any():
            raise DataError(f"{path}: the sequences do not fill the {self.frames} frames without gap or overlap")
        above = np.zeros(len(self) - 1, dtype=bool)
        for column in (self.view, self.type, self.subject):
            above = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & above)
        if not above.all():
            row = int(np.flatnonzero(~above)[0]) + 1
            raise DataError(f"{path}: row {row} is not above the row before it by subject, type, view")


def _read_modalities(path: str) -> tuple[Modality, ...]:
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_INDEX + 1)
        content = json.loads(text) if len(text) <= LARGEST_INDEX else None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict) or "version" not in content:
        raise DataError(f"{path}: is no index of a packed store; a folder tree has no file of this name at its root")
    if content["version"] != VERSION:
        raise DataError(f"{path}: version {content['version']!r} of the packed store; this program reads {VERSION}")
    entries = content.get("modalities")
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: modalities: a list of one or more was expected")
    modalities = tuple(_modality(entry, path) for entry in entries)
    if len({modality.name.casefold() for modality in modalities}) < len(modalities):
        raise DataError(f"{path}: modalities: a name comes twice")
    return modalities


def _modality(entry: Any, path: str) -> Modality:
    if not isinstance(entry, dict):
        raise DataError(f"{path}: modalities: entries with name, dtype and shape were expected")
    name, dtype, shape = (entry.get(key) for key in ("name", "dtype", "shape"))
    if not isinstance(name, str) or not MODALITY_NAME.fullmatch(name):
        raise DataError(f"{path}: modalities: {str(name)[:100]!r} is no name of a modality")
    if dtype not in DTYPES:
        raise DataError(f"{path}: modality {name}: dtype {str(dtype)[:100]!r}; expected one of {', '.join(DTYPES)}")
    ragged = isinstance(shape, list) and shape[:1] == [None]
    sizes = shape[1:] if isinstance(shape, list) and ragged else shape
    if not isinstance(sizes, list) or len(sizes) > 16 or any(type(size) is not int or size < 1 for size in sizes):
        raise DataError(f"{path}: modality {name}: shape {str(shape)[:100]} is not that of a frame")
    checksum = entry.get("offsets_crc32")
    if ragged and type(checksum) is not int:
        raise DataError(f"{path}: modality {name}: offsets_crc32, the checksum of its offsets file, was expected")
    little = np.dtype(dtype).newbyteorder("<")
    return Modality(name, little, (None, *sizes) if ragged else tuple(sizes), checksum if ragged else None)


def _read_columns(path: str) -> dict[str, np.ndarray]:
    """The arrays of sequences.npz. It is read without NumPy's own loader, which takes any size that a header claims."""
    expected = [f"{name}.npy" for name in (*NAMES, *COLUMNS)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != sorted(expected):
                raise DataError(f"the columns {', '.join((*NAMES, *COLUMNS))} were expected")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise DataError("is compressed; the columns are stored as they are")
            columns = {member.filename[:-4]: _read_column(archive.read(member)) for member in members}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise DataError("columns of one length, 1 or more, were expected")
        for name, column in columns.items():
            if column.dtype.kind != "U" if name in NAMES else column.dtype != COLUMNS[name]:
                raise DataError(f"column {name} has dtype {column.dtype}, {COLUMNS.get(name, 'text')} was expected")
    except (OSError, ValueError, LookupError, EOFError, RuntimeError, OverflowError, MemoryError, zipfile.BadZipFile,
            zlib.error, struct.error, SyntaxError) as error:  # fmt: skip
        raise DataError(f"{path}: no index of sequences: {str(error) or type(error).__name__}") from error
    return columns


def _read_column(content: bytes) -> np.ndarray:
    shape, _, dtype, start = read_header(content)
    if len(shape) != 1 or dtype.kind not in "Uiu" or len(content) - start != shape[0] * dtype.itemsize:
        raise DataError("a column of text or whole numbers was expected")
    if dtype.itemsize == 0:
        raise DataError("a column of empty names")
    return np.frombuffer(content, dtype=dtype, offset=start)


def _strings(column: np.ndarray, path: str) -> list[str]:
    try:
        return column.tolist()
    except (ValueError, OverflowError, SystemError) as error:
        raise DataError(f"{path}: a name is no text: {error}") from error
