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
from opengait.data.pack_journal import Journal, Key
from opengait.data.packed import DTYPES, INDEX, MODALITY_NAME, SEQUENCES, VERSION, Modality, is_packed
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
        _check_names(self.names)
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
        arrays = [_stacked(frames) for frames in arrays]
        self._check(key, arrays)
        kinds = [self._kind_of(place, frames, key) for place, frames in enumerate(arrays)]
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

    def _check(self, key: Key, arrays: Sequence[Frames]) -> None:
        self._check_open()
        name = "/".join(key)
        if not all(is_folder_name(part) for part in key):
            raise DataError(f"{self.out}: sequence {name!r}: subject, type and view are names of folders")
        if key in self.done:
            raise DataError(f"{self.out}: sequence {name} comes twice")
        if len(arrays) != len(self.names):
            raise DataError(
                f"{self.out}: sequence {name} has {len(arrays)} modalities; {len(self.names)} were expected: "
                f"{', '.join(self.names)}"
            )
        counts = [len(frames) for frames in arrays]
        if min(counts) < 1 or len(set(counts)) > 1:
            raise DataError(
                f"{self.out}: sequence {name}: its modalities hold {', '.join(map(str, counts))} frames; "
                "one number, 1 or more, was expected"
            )

    def _kind_of(self, place: int, frames: Frames, key: Key) -> Modality:
        """What a modality is with these frames, which are as those before."""
        known = self._kinds[place] if self._kinds else None
        where = f"{self.out}: sequence {'/'.join(key)}, modality {self.names[place]}"
        dtype, shape = _kind_of_points(frames, where) if isinstance(frames, list) else (frames.dtype, frames.shape[1:])
        dtype = dtype.newbyteorder("=")
        if dtype.name not in DTYPES:
            raise DataError(f"{where}: dtype {dtype}; expected one of {', '.join(DTYPES)}")
        if known is not None and dtype != known.dtype:
            raise DataError(f"{where}: frames of dtype {dtype}, those before have {known.dtype}")
        if known is not None and shape != known.shape:
            if not shape or not known.shape or shape[1:] != known.shape[1:] or None not in (shape[0], known.shape[0]):
                raise DataError(f"{where}: frames of shape {_sizes(shape)}, those before have {_sizes(known.shape)}")
            shape = (None, *shape[1:])  # equal numbers of points by chance, here or in all sequences before
        if 0 in shape:
            raise DataError(f"{where}: frames of shape {_sizes(shape)} hold nothing")
        return Modality(self.names[place], dtype.newbyteorder("<"), shape)

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


def check_free(out: Path, force: bool) -> None:
    """Whether a store may be put at `out`.

    Raises:
        DataError: there is something else than an empty folder, or, with `force`, than a packed store.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise DataError(f"{out}: is a file; a packed store is a folder")
    found = sorted(os.listdir(out))
    if not found:
        return
    if not is_packed(out):
        raise DataError(f"{out}: holds {found[0]} and is no packed store; choose another folder")
    if not force:
        raise DataError(f"{out}: holds a packed store already; force replaces it (--force)")
    others = [name for name in found if name not in (INDEX, SEQUENCES) and not _is_frames_file(name)]
    if others:
        raise DataError(f"{out}: holds {others[0]} beside the packed store; move it before the store is replaced")


def _is_frames_file(name: str) -> bool:
    return name.startswith("frames-") and name.endswith(".bin")


def _check_names(names: list[str]) -> None:
    if not names:
        raise DataError("a packed store has one modality or more")
    for name in names:
        if not MODALITY_NAME.fullmatch(name):
            raise DataError(
                f"{name!r} is no name of a modality: letters, digits, '.', '_', '-', no '.offsets' at the end"
            )
    if len({name.casefold() for name in names}) < len(names):
        raise DataError(f"the modalities {', '.join(names)} need different names")


def _stacked(frames: Frames) -> Frames:
    """A list of equal frames is an array of them."""
    if isinstance(frames, list) and len({(frame.shape, frame.dtype) for frame in frames}) == 1:
        return np.stack(frames)
    return frames


def _kind_of_points(frames: list[np.ndarray], where: str) -> tuple[np.dtype, tuple[int | None, ...]]:
    """Dtype and shape of frames [points, ...] that differ in their number of points."""
    shapes, dtypes = {frame.shape[1:] for frame in frames}, {frame.dtype for frame in frames}
    if len(shapes) > 1 or len(dtypes) > 1 or any(frame.ndim < 1 or frame.dtype.kind != "f" for frame in frames):
        raise DataError(f"{where}: frames differ; only point clouds (floats) may, in their number of points")
    return dtypes.pop(), (None, *shapes.pop())


def _sizes(shape: tuple[int | None, ...]) -> str:
    return str(["any" if size is None else size for size in shape]).replace("'", "")


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
