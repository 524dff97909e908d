"""The folder that a preparation writes: who may write there, what is done, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

SETTINGS_FILE = "prepare.json"
SEQUENCES_FILE = "prepare-sequences.jsonl"
REPORT_FILE = "prepare-report.json"
WORK_FOLDER = ".opengait-unpacked"
_UNFINISHED = ".opengait-unfinished-"


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one sequence; a line of SEQUENCES_FILE."""

    sequence: str
    """subject/type/view"""
    source: str
    """digest of the raw files' names and sizes"""
    found: int
    """frames in the raw folder"""
    frames: int
    """frames written; with none, there are no files"""
    shape: list[int] = field(default_factory=list)
    """of one frame of the first modality"""
    files: dict[str, list[int]] = field(default_factory=dict)
    """file name -> bytes, crc32"""
    dropped: list[list[str]] = field(default_factory=list)
    """file, reason, detail"""

    def whole(self, out: str) -> bool:
        """Whether its files lie there as they were written, by their sizes."""
        try:
            return all(
                os.path.getsize(os.path.join(out, self.sequence, name)) == size
                for name, (size, _) in self.files.items()
            )
        except OSError:
            return False


class Output:
    """An output folder, held by this process alone as long as it is open; a context manager.

    Args:
        out: the folder; made if absent.
        settings: what decides about the bytes written. A folder of other settings is refused.

    Attributes:
        entries: sequence -> what earlier calls made of it.

    Raises:
        ValueError: the folder holds something else, or another process is writing it.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self._changed = False
        marker = out / SETTINGS_FILE
        if not marker.is_file() and out.exists() and (not out.is_dir() or set(os.listdir(out)) - {WORK_FOLDER}):
            raise ValueError(f"{out} exists and holds something else; choose a new or empty folder")
        out.mkdir(parents=True, exist_ok=True)
        self._marker = os.open(marker, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            self._claim(dict(settings))
            self.entries = self._read_entries()
            remove_unfinished(out)
            self._journal = (out / SEQUENCES_FILE).open("ab")
        except BaseException:
            os.close(self._marker)
            raise

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        if not self._used():  # nothing came of it, so the folder is free for another data set
            for name in (SEQUENCES_FILE, REPORT_FILE, SETTINGS_FILE):
                (self.out / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # archives that were unpacked stay
                self.out.rmdir()
        os.close(self._marker)

    def add(self, entry: Entry) -> None:
        """Notes what became of a sequence, after its files have been written."""
        if not self._changed:
            (self.out / REPORT_FILE).unlink(missing_ok=True)
            self._changed = True
        self.entries[entry.sequence] = entry
        self._journal.write(_line(entry))
        self._journal.flush()

    def finish(self, report: Mapping[str, Any]) -> None:
        """Puts the list of sequences into the order of their names, and writes the report."""
        self._journal.close()
        lines = (_line(self.entries[sequence]) for sequence in sorted(self.entries))
        write_whole(self.out, self.out / SEQUENCES_FILE, b"".join(lines))
        write_whole(self.out, self.out / REPORT_FILE, json.dumps(report, indent=2).encode() + b"\n")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(self._marker), os.stat(self.out / SETTINGS_FILE))
        except (BlockingIOError, FileNotFoundError):
            held = False
        except OSError as error:  # some network file systems have no locks
            log.info("%s cannot be locked: %s", self.out, error)
            return
        if not held:
            raise ValueError(f"{self.out}: another process prepares a data set there; wait for it or end it")

    def _claim(self, wanted: dict[str, Any]) -> None:
        """Marks the folder with the settings, so that two different data sets never mix."""
        content = os.pread(self._marker, 1 << 20, 0)
        if content and self._used():
            check_settings(self.out, content, wanted)
            return
        os.ftruncate(self._marker, 0)
        os.pwrite(self._marker, json.dumps(wanted, indent=2).encode() + b"\n", 0)

    def _used(self) -> bool:
        """Whether a sequence was written, or begun."""
        journal = self.out / SEQUENCES_FILE
        return (journal.is_file() and journal.stat().st_size > 0) or any(
            path.is_dir() and path.name != WORK_FOLDER for path in self.out.iterdir()
        )

    def _read_entries(self) -> dict[str, Entry]:
        """What was done before; the last line may have been written in part, and is then taken off."""
        path = self.out / SEQUENCES_FILE
        if not path.exists():
            return {}
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        try:
            entries = [Entry(**json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not readable ({error}); remove {self.out} or choose another folder") from error
        return {entry.sequence: entry for entry in entries}


def check_settings(out: Path, content: bytes, wanted: Mapping[str, Any]) -> None:
    """Raises ValueError where the text of a folder's SETTINGS_FILE is not that of these settings."""
    try:
        found = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{out / SETTINGS_FILE}: not readable ({error}); choose another folder") from error
    differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if differing:
        was = ", ".join(f"{key} {found.get(key)}" for key in differing)
        now = ", ".join(f"{key} {wanted.get(key)}" for key in differing)
        raise ValueError(f"{out} was prepared otherwise ({was}; now {now}); choose another folder")


def write_sequence(out: str, folder: str, arrays: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Writes the pickles of a sequence, and removes others from its folder; file name -> bytes, crc32."""
    target = Path(out, folder)
    if arrays:
        target.mkdir(parents=True, exist_ok=True)
    elif not target.is_dir():
        return {}
    written = {}
    for name, array in arrays.items():
        content = pickle.dumps(array, protocol=4)
        write_whole(Path(out), target / name, content)
        written[name] = [len(content), zlib.crc32(content)]
    for path in sorted(target.iterdir()):
        if path.name not in written:
            path.unlink()
    if not written:
        target.rmdir()
    return written


def write_whole(out: Path, path: Path, content: bytes) -> None:
    """Under a temporary name first, in the top folder, where one that is left behind is in no sequence."""
    temporary = out / f"{_UNFINISHED}{os.getpid()}"
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk has use for the room
        raise


@contextlib.contextmanager
def full_disk_told(out: Path) -> Iterator[None]:
    """Where the disk is full, says so with the folder and what to do; what is whole by then stays.

    Raises:
        OSError: there is no room left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"{out}: {os.strerror(error.errno)}; make room and give the same command again, which goes on where this "
            "one stopped"
        ) from error


def remove_unfinished(out: Path) -> None:
    """Removes what a process that was killed was about to write."""
    for left_behind in out.glob(f"{_UNFINISHED}*"):
        left_behind.unlink()


def _line(entry: Entry) -> bytes:
    return json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n"


def sequences_of(entries: Iterable[Entry]) -> list[Entry]:
    """Those that were written, in the order of their names."""
    return sorted((entry for entry in entries if entry.frames), key=lambda entry: entry.sequence)
