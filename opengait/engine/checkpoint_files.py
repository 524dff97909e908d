"""Checkpoints as files: complete under their name or not there at all, and with a digest that shows any changed byte.

torch's archive ends in a zip comment, which is empty as torch writes it and which every reader passes over. Here it
holds the SHA-256 of the archive as torch wrote it, so that a single file carries its own digest and still loads with a
plain `torch.load(path, weights_only=True)` (which checks no sums of its own: a flipped bit loads as another number).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

LABEL = b"opengait sha256 "
_COMMENT = len(LABEL) + 64
# The last record of a zip archive, of which the last two bytes are the length of the comment that follows.
_END = b"PK\x05\x06"
_END_SIZE = 22
_FIRST = b"PK\x03\x04"
_CHUNK = 1 << 20


class DamagedFile(ValueError):
    """A file that was cut short or changed."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name only when all of it is on the disk; what had the name before stays till then.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # A rename is safe against power loss only once the folder itself is on the disk.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path, *, shared: bool = False) -> None:
    """Deletes what writers of this folder left behind that were killed before they had given a file its name.

    Args:
        shared: others may be writing there, such as a test of the same run; a living process's files stay.
    """
    for path in folder.glob(".*.tmp"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if match and not (shared and _lives(int(match[1]))):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it is another person's
    return True


class _Hashing:
    """Passes bytes on to a file and adds them to a digest; `failure` is why the file took none."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None
        self._file = file

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()


def write_archive(file: BinaryIO, state: Mapping[str, Any]) -> None:
    """torch's archive of `state`, and its digest as the comment.

    Raises:
        OSError: the file cannot be written.
    """
    hashing = _Hashing(file)
    try:
        torch.save(dict(state), cast(BinaryIO, hashing))  # which only writes to it
    except RuntimeError as error:
        if hashing.failure is None:
            raise
        raise hashing.failure from error  # torch only says that its count of bytes is wrong
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", _COMMENT) + LABEL + hashing.digest.hexdigest().encode())


def stored_digest(path: Path) -> str | None:
    """The SHA-256 that a file carries, not compared with its contents; None where it carries none.

    Raises:
        DamagedFile: it begins as an archive and does not end as one.
    """
    with path.open("rb") as file:
        first = file.read(len(_FIRST))
        file.seek(0, os.SEEK_END)
        file.seek(-min(file.tell(), _END_SIZE + _COMMENT), os.SEEK_END)
        end = file.read()
    own = end[:4] == _END and end[_END_SIZE - 2 :] == struct.pack("<H", _COMMENT) + LABEL + end[-64:]
    if own:
        return end[-64:].decode("ascii", errors="replace")
    without = end[-_END_SIZE:]
    if first != _FIRST or (without[:4] == _END and without[-2:] == b"\0\0"):
        return None
    raise DamagedFile("its end is missing or was changed")


def check_digest(path: Path) -> bool:
    """Whether the file carries a digest; its contents then agree.

    Raises:
        DamagedFile: they do not.
    """
    stored = stored_digest(path)
    if stored is None:
        return False
    digest = hashlib.sha256()
    left = path.stat().st_size - _COMMENT - 2
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")  # where the length of the comment now stands, torch had written none
    if digest.hexdigest() != stored:
        raise DamagedFile("its contents do not match the digest at its end")
    return True
