"""The packed store as a store of sequences; opengait.data.packed_index says how it is laid out."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from opengait.data.errors import DataError
from opengait.data.packed_index import INDEX, SEQUENCES, Modality, PackedIndex
from opengait.data.store import Frames, Selection

CHECKED_AT_ONCE = 256  # sequences


def is_packed(root: str | os.PathLike[str]) -> bool:
    """Whether a dataset root is a packed store, whole or not, rather than a folder tree."""
    return any(os.path.lexists(os.path.join(root, name)) for name in (INDEX, SEQUENCES))


class PackedStore:
    """Sequences of the listed subjects of a packed store, in the order given, types and views sorted.

    Files are mapped by the process that first reads them, so a store travels to any number of workers at no cost.

    Args:
        index: of the store.
        subjects: ids that the index has.
        selection: the modalities that are used.
    """

    def __init__(self, index: PackedIndex, subjects: Iterable[str], selection: Selection) -> None:
        self.index = index
        by_name = {modality.name: modality for modality in index.modalities}
        self.used = [by_name[name] for name in selection.apply(list(by_name), index.root)]
        self.rows = index.rows(subjects)
        self.subjects, self.types, self.views = index.names(self.rows)
        self._arrays: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": {}}  # a mapped file cannot be sent to another process; it maps its own

    @property
    def modalities(self) -> int:
        return len(self.used)

    def open(self, index: int) -> list[Frames]:
        row = self.rows[index]
        start = int(self.index.offset[row])
        return [self._frames(modality, start, start + int(self.index.length[row])) for modality in self.used]

    def lengths(self) -> np.ndarray:
        return self.index.length[self.rows]

    def stretches(self, most_bytes: int) -> Iterator[list[np.ndarray]]:
        """The frames of all sequences in their order, one array [frames, ...] a modality: as many as lie one after
        another in the files and do not exceed a size; of a longer sequence, part after part.

        No modality may have its own number of points a frame.
        """
        starts, lengths = self.index.offset[self.rows], self.index.length[self.rows]
        ends = starts + lengths
        most = max(1, most_bytes // max(1, sum(modality.row_bytes for modality in self.used)))
        borders = np.flatnonzero(starts[1:] != ends[:-1]) + 1
        for first, last in zip([0, *borders.tolist()], [*borders.tolist(), len(starts)], strict=True):
            start, end = int(starts[first]), int(ends[last - 1])
            for place in range(start, end, most):
                yield [self._rows(modality)[place : min(place + most, end)] for modality in self.used]

    def damage(self, done: Callable[[int], object]) -> Iterator[str]:
        """Compares every sequence with its checksum, all modalities whether in use or not."""
        for modality in self.index.modalities:
            if modality.ragged and zlib.crc32(self.index.map(modality.offsets_file)) != modality.offsets_crc32:
                yield f"{os.path.join(self.index.root, modality.offsets_file)}: does not match its checksum"
                return
        # Checksums are computed without the interpreter's lock.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            size = CHECKED_AT_ONCE
            blocks = [self.rows[start : start + size] for start in range(0, len(self.rows), size)]
            place = 0
            for wrong in pool.map(self._mismatches, blocks):
                for number in wrong:
                    index = place + number
                    name = f"{self.subjects[index]}/{self.types[index]}/{self.views[index]}"
                    yield f"{self.index.root}: sequence {name} is damaged: it does not match its checksum"
                done(min(size, len(self.rows) - place))
                place += size

    def _mismatches(self, rows: np.ndarray) -> list[int]:
        return [number for number, row in enumerate(rows) if self._checksum(int(row)) != self.index.crc32[row]]

    def _checksum(self, row: int) -> int:
        start = int(self.index.offset[row])
        stop = start + int(self.index.length[row])
        checksum = 0
        for modality in self.index.modalities:
            first, last = start, stop
            if modality.ragged:
                borders = self._array(modality.offsets_file, np.dtype("<i8"), ())
                first, last = int(borders[start]), int(borders[stop])
            checksum = zlib.crc32(self._rows(modality)[first:last].data, checksum)
        return checksum

    def _frames(self, modality: Modality, start: int, stop: int) -> Frames:
        rows = self._rows(modality)
        if not modality.ragged:
            return rows[start:stop]
        borders = self._array(modality.offsets_file, np.dtype("<i8"), ())[start : stop + 1]
        if borders[0] < 0 or borders[-1] > len(rows) or (np.diff(borders) < 0).any():
            path = os.path.join(self.index.root, modality.offsets_file)
            raise DataError(f"{path}: frames {start} to {stop - 1} have impossible offsets")
        return [rows[first:last] for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)]

    def _rows(self, modality: Modality) -> np.ndarray:
        return self._array(modality.file, modality.dtype, modality.row)

    def _array(self, name: str, dtype: np.dtype, row: tuple[int, ...]) -> np.ndarray:
        """All rows of a file as a read-only view of it, [rows, ...]."""
        if name not in self._arrays:
            content = self.index.map(name)
            self._arrays[name] = np.frombuffer(content, dtype=dtype).reshape(-1, *row)
        return self._arrays[name]
