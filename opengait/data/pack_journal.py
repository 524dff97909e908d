"""What a stopped writer of a packed store had written, so that the next one can go on."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from opengait.data.packed_index import DTYPES, VERSION, Modality

Key = tuple[str, str, str]  # subject, type, view
Entry = tuple[Key, int, int]  # with length and checksum


class Journal:
    """A line for every sequence, written after its frames; beside the frames files, in a folder of the writer's own.

    Args:
        folder: where the frames files are.
        source: what the sequences are made of; a journal of another source is not read.
        names: of the modalities.
    """

    def __init__(self, folder: Path, source: str, names: list[str]) -> None:
        self.folder = folder
        self.path = folder / "journal"
        self.names = names
        self._head = {"version": VERSION, "source": source, "modalities": names}
        self._file: IO[bytes] | None = None

    def read(self) -> tuple[list[Modality], list[Entry]]:
        """The modalities and sequences of the writer before, as far as the frames have the checksums noted."""
        try:
            head, *lines = [json.loads(line) for line in _whole_lines(self.path.read_bytes())]
            if head != self._head or not lines:
                return [], []
            kinds = [_modality(name, *kind) for name, kind in zip(self.names, lines[0], strict=True)]
            return kinds, self._whole(kinds, lines[1:])
        except (OSError, ValueError, TypeError, KeyError):  # none, or damaged: then all is written anew
            return [], []

    def start(self, kinds: list[Modality], entries: Iterable[Entry]) -> None:
        """A journal with these sequences, open for more; without modalities, one that only says what it is for."""
        self.close()
        self._file = self.path.open("wb")
        self._write(self._head)
        if kinds:
            self._write([[kind.dtype.name, list(kind.shape)] for kind in kinds])
        for key, length, checksum in entries:
            self._write([*key, length, checksum])
        self._file.flush()

    def write(self, key: Key, length: int, checksum: int) -> None:
        self._write([*key, length, checksum])
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def _write(self, content: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(content).encode() + b"\n")

    def _whole(self, kinds: list[Modality], lines: list[Any]) -> list[Entry]:
        """The sequences up to the first whose frames are not whole."""
        files = [(self.folder / kind.file).open("rb") for kind in kinds]
        try:
            entries: list[Entry] = []
            for subject, type_name, view, length, checksum in lines:
                found = 0
                for kind, file in zip(kinds, files, strict=True):
                    found = zlib.crc32(file.read(length * kind.row_bytes), found)
                if found != checksum:
                    break
                entries.append(((subject, type_name, view), length, checksum))
            return entries
        finally:
            for file in files:
                file.close()


def _modality(name: str, dtype: str, shape: list[int]) -> Modality:
    if dtype not in DTYPES or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"{dtype} {shape} is no modality")
    return Modality(name, np.dtype(dtype).newbyteorder("<"), tuple(shape))


def _whole_lines(content: bytes) -> list[bytes]:
    """The last line may have been written in part."""
    return content.split(b"\n")[:-1]
