"""Writes packed stores (opengait.data.packed), a sequence at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from opengait.data.errors import DataError
from opengait.data.pack_checks import check_free, check_names, kind_of, stacked
from opengait.data.pack_journal import Journal, Key
from opengait.data.packed_index import INDEX, SEQUENCES, VERSION, Modality
from opengait.data.store import Frames, is_folder_name

log = logging.getLogger(__name__)

COPIED_AT_ONCE = 16 << 20  # bytes


@dataclass(frozen=True)
class PackReport:
    """What a packed store holds: counts, and the bytes of each modality's frames."""

    out: Path
    subjects: int
    sequences: int
    frames: int
    bytes: dict[str, int]

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in self.bytes.items())
        return f"{self.out}: {self.subjects} subjects, {self.sequences} sequences, {self.frames} frames; {sizes}"


class PackedWriter:
    """Writes a packed store; sequences may come in any order, and the store is the same, byte for byte.

    Everything is written to a hidden folder beside `out`, which becomes `out` in `close`, so that a writer that is
    stopped at any moment leaves nothing that could be opened. With `source`, the next writer takes up what is there:
    `done` names the sequences that are written already, and whole. (Point clouds are written anew.) As a context
    manager it closes at the end of the block, and stops on an error in it.

    Memory: the index and one sequence. Disk: where sequences do not come in order, `close` needs the store's size once
    more.

    Args:
        out: folder of the store; may be absent or empty.
        modalities: their names, in the order that `data_in_use` counts; letters, digits, `.`, `_` and `-`.
        source: says what the sequences are made of (a digest, settings); a stopped writer is taken up only where its
            source was the same. None starts afresh.
        force: replace a packed store that is at `out`.

    Attributes:
        done: (subject, type, view) of the sequences written so far.

    Raises:
        DataError: `out` holds something, another process is writing this store, or a name that cannot be used.
    """

    def __init__(
        self, out: str | os.PathLike[str], modalities: Sequence[str], *, source: str | None = None, force: bool = False
    ) -> None:
        self.out = Path(os.path.realpath(out))
        self.names = list(modalities)
        check_names(self.names)
        check_free(self.out, force)
        self._force = force
        self.done: set[Key] = set()
        self._keys: list[Key] = []
        self._lengths: list[int] = []
        self._checksums: list[int] = []
        self._kinds: list[Modality] = []
        self._counts: list[list[np.ndarray]] = [[] for _ in self.names]  # of ragged modalities: points a frame
        self._files: list[IO[bytes]] = []
        self._work = self.out.parent / f".{self.out.name}.packing"
        self._work.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._work, os.O_RDONLY)
        try:
            self._take_lock()
            self._journal = None if source is None else Journal(self._work, source, self.names)
            self._take_up()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._lock >= 0:
            self.close()
        else:
            self.stop()

    def add(self, subject: str, type: str, view: str, arrays: Sequence[Frames]) -> None:
        """Writes a sequence: one array [frames, ...] a modality, or a list of one array [points, ...] a frame.

        Raises:
            DataError: frames of another shape or dtype than those of earlier sequences, unequal numbers of frames, no
                frames, or a sequence that is there already. Nothing is written.
        """
        key = (subject, type, view)
        arrays = [stacked(frames) for frames in arrays]
        self._check(key, arrays)
        kinds = [
            kind_of(self.names[place], frames, self._kinds[place] if self._kinds else None, self._where(key))
            for place, frames in enumerate(arrays)
        ]
        self._settle_kinds(kinds)
        checksum = 0
        try:
            for place, frames in enumerate(arrays):
                rows = np.ascontiguousarray(
                    np.concatenate(frames) if isinstance(frames, list) else frames, dtype=kinds[place].dtype
                )
                checksum = zlib.crc32(rows.data, checksum) if rows.size else checksum
                self._files[place].write(rows.data)
                self._files[place].flush()
                if kinds[place].ragged:
                    self._counts[place].append(np.array([len(frame) for frame in frames], dtype=np.int64))
            self._remember(key, len(arrays[0]), checksum)
            if self._journal is not None:  # after the frames, so that what it names is there
                self._journal.write(key, len(arrays[0]), checksum)
        except BaseException:  # part of a sequence may be in the files
            self.stop()
            raise

    def close(self) -> PackReport:
        """Brings the sequences into order, writes the index and puts the store in place.

        Raises:
            DataError: no sequence was added, or something has come to lie at `out`.
        """
        self._check_open()
        finished = False
        try:
            if not self._keys:
                raise DataError(f"{self.out}: there is no sequence to pack")
            self._close_files()
            store = self._work / "store"
            shutil.rmtree(store, ignore_errors=True)
            store.mkdir()
            order = sorted(range(len(self._keys)), key=self._keys.__getitem__)
            modalities = [self._write_frames(place, store, order) for place in range(len(self.names))]
            self._write_index(store, order, modalities)
            sizes = {modality.name: (store / modality.file).stat().st_size for modality in modalities}
            self._put_in_place(store)
            finished = True
        finally:
            self.stop(keep=not finished)
        subjects = {subject for subject, _, _ in self._keys}
        return PackReport(self.out, len(subjects), len(self._keys), sum(self._lengths), sizes)

    def stop(self, keep: bool = True) -> None:
        """Ends without a store. What was written stays for the next writer of the same source, if `keep`."""
        if self._lock < 0:
            return
        self._close_files()
        if not (keep and self._journal is not None):
            shutil.rmtree(self._work, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1

    def _check_open(self) -> None:
        if self._lock < 0:
            raise DataError(f"{self.out}: this writer has been closed")

    def _close_files(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):  # a full disk again; what is missing shows in the checksums
                file.close()
        if self._journal is not None:
            self._journal.close()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{self.out}: another process is writing this store") from None
        except OSError as error:  # some network file systems have no locks
            log.info("%s cannot be locked: %s", self._work, error)

    def _take_up(self) -> None:
        """Opens the files behind the sequences of a stopped writer, or empty ones."""
        if self._journal is not None:
            self._kinds, entries = self._journal.read()
            for key, length, checksum in entries:
                self._remember(key, length, checksum)
            if entries:
                log.info("%s: %d sequences were written before", self.out, len(entries))
        frames = sum(self._lengths)
        kept = {f"frames-{name}.bin" for name in self.names} if frames else set()
        for entry in self._work.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for place, name in enumerate(self.names):
            file = (self._work / f"frames-{name}.bin").open("r+b" if kept else "wb")
            self._files.append(file)
            if kept:
                file.truncate(frames * self._kinds[place].row_bytes)
                file.seek(0, os.SEEK_END)
        if self._journal is not None:
            self._journal.start(self._kinds, zip(self._keys, self._lengths, self._checksums, strict=True))

    def _where(self, key: Key) -> str:
        return f"{self.out}: sequence {'/'.join(key)}"

    def _check(self, key: Key, arrays: Sequence[Frames]) -> None:
        self._check_open()
        if not all(is_folder_name(part) for part in key):
            raise DataError(f"{self._where(key)}: subject, type and view are names of folders")
        if key in self.done:
            raise DataError(f"{self._where(key)} comes twice")
        if len(arrays) != len(self.names):
            raise DataError(
                f"{self._where(key)} has {len(arrays)} modalities; {len(self.names)} were expected: "
                f"{', '.join(self.names)}"
            )
        counts = [len(frames) for frames in arrays]
        if min(counts) < 1 or len(set(counts)) > 1:
            raise DataError(
                f"{self._where(key)}: its modalities hold {', '.join(map(str, counts))} frames; one number, 1 or more, "
                "was expected"
            )

    def _settle_kinds(self, kinds: list[Modality]) -> None:
        """Takes note of what the modalities are, at the first sequence and where one turns out to be ragged."""
        if kinds == self._kinds:
            return
        for place, kind in enumerate(kinds):
            if kind.ragged and self._kinds and not self._kinds[place].ragged:
                points = self._kinds[place].shape[0]
                self._counts[place] = [np.full(length, points, dtype=np.int64) for length in self._lengths]
        self._kinds = kinds
        if self._journal is not None and any(kind.ragged for kind in kinds):
            self._journal.remove()  # the numbers of points are not on disk
            self._journal = None
        elif self._journal is not None:
            self._journal.start(kinds, ())

    def _remember(self, key: Key, length: int, checksum: int) -> None:
        self.done.add(key)
        self._keys.append(key)
        self._lengths.append(length)
        self._checksums.append(checksum)

    def _write_frames(self, place: int, store: Path, order: list[int]) -> Modality:
        """Puts a modality's frames in order into the store's folder."""
        kind = self._kinds[place]
        counts = self._counts[place] if kind.ragged else self._lengths
        rows = [int(np.sum(count)) for count in counts]
        if order == list(range(len(order))):
            os.replace(self._work / kind.file, store / kind.file)
        else:
            starts = np.cumsum([0, *rows], dtype=np.int64)
            with (self._work / kind.file).open("rb") as unordered, (store / kind.file).open("wb") as file:
                for number in order:
                    unordered.seek(int(starts[number]) * kind.row_bytes)
                    _copy(unordered, file, rows[number] * kind.row_bytes)
        _sync(store / kind.file)
        if not kind.ragged:
            return kind
        points = np.concatenate([self._counts[place][number] for number in order])
        offsets = np.concatenate([[0], np.cumsum(points)]).astype("<i8").tobytes()
        (store / kind.offsets_file).write_bytes(offsets)
        _sync(store / kind.offsets_file)
        return replace(kind, offsets_crc32=zlib.crc32(offsets))

    def _write_index(self, store: Path, order: list[int], modalities: list[Modality]) -> None:
        subjects, types, views = zip(*(self._keys[number] for number in order), strict=True)
        lengths = np.array([self._lengths[number] for number in order], dtype=np.int64)
        with (store / SEQUENCES).open("wb") as file:
            np.savez(
                file,
                subject=np.array(subjects),
                type=np.array(types),
                view=np.array(views),
                offset=np.cumsum(lengths) - lengths,
                length=lengths,
                crc32=np.array([self._checksums[number] for number in order], dtype=np.uint32),
            )
        entries = [
            {"name": modality.name, "dtype": modality.dtype.name, "shape": list(modality.shape)}
            | ({"offsets_crc32": modality.offsets_crc32} if modality.ragged else {})
            for modality in modalities
        ]
        (store / INDEX).write_text(json.dumps({"version": VERSION, "modalities": entries}, indent=2) + "\n")
        for path in (store / SEQUENCES, store / INDEX, store):
            _sync(path)

    def _put_in_place(self, store: Path) -> None:
        check_free(self.out, self._force)
        replaced = self.out.parent / f".{self.out.name}.replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if self.out.exists():
            os.rename(self.out, replaced)
        os.rename(store, self.out)
        _sync(self.out.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _copy(source: IO[bytes], target: IO[bytes], count: int) -> None:
    while count:
        content = source.read(min(count, COPIED_AT_ONCE))
        if not content:
            raise DataError(f"{source.name}: has been cut short by something else")
        target.write(content)
        count -= len(content)


def _sync(path: Path) -> None:
    """Has a file or folder written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
