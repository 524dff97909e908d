"""Raw folders, on disk or in archives, read alike."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from opengait.prepare.archives import LARGEST_FILE, Archive, UnreadableFile, open_archive

__all__ = ["FolderReader", "OpenFolders", "RawFolder", "UnreadableFile"]


class RawFolder(NamedTuple):
    """One folder of a raw distribution, with its place in the tree as if every archive were unpacked where it lies."""

    path: str
    """place below the raw folder, with `/`"""
    files: int
    folder: str
    """path on disk, or the folder in the archive"""
    archive: str = ""
    """path of the archive on disk; empty for a folder on disk"""


class FolderReader(Protocol):
    """The files of one raw folder."""

    def names(self) -> list[str]:
        """Names of the regular files, sorted as text."""
        ...

    def size(self, name: str) -> int:
        """Bytes."""
        ...

    def read(self, name: str) -> bytes:
        """The whole content; `UnreadableFile` where there is none to be had."""
        ...


def listing_digest(reader: FolderReader) -> str:
    """Changes when a file is added, removed, renamed or of another size."""
    digest = hashlib.sha256()
    for name in reader.names():
        digest.update(f"{name}\0{reader.size(name)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


class DiskFolder:
    """A folder on disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._sizes: dict[str, int] = {}
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError:  # a link to nowhere: its name counts, and reading it says what is wrong
                    self._sizes[entry.name] = -1
                    continue
                if stat.S_ISREG(status.st_mode):
                    self._sizes[entry.name] = status.st_size

    def names(self) -> list[str]:
        return sorted(self._sizes)

    def size(self, name: str) -> int:
        return self._sizes[name]

    def read(self, name: str) -> bytes:
        if self._sizes[name] > LARGEST_FILE:
            raise UnreadableFile(f"{self._sizes[name]} bytes, a frame has at most {LARGEST_FILE}")
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                return file.read(LARGEST_FILE)
        except OSError as error:
            raise UnreadableFile(error.strerror or str(error)) from error


class ArchiveFolder:
    """A folder of an open archive."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self.archive = archive
        self._members = archive.folders.get(folder, {})

    def names(self) -> list[str]:
        return sorted(self._members)

    def size(self, name: str) -> int:
        return self._members[name].size

    def read(self, name: str) -> bytes:
        return self.archive.read(self._members[name])


class OpenFolders(ExitStack):
    """Opens folders; an archive is opened once, and closed at the end of the `with` block."""

    def __init__(self, password: str | None = None) -> None:
        super().__init__()
        self._password = password
        self._archives: dict[str, Archive] = {}

    def open(self, folder: RawFolder) -> FolderReader:
        if not folder.archive:
            return DiskFolder(folder.folder)
        if folder.archive not in self._archives:
            archive = open_archive(folder.archive, self._password)
            self.callback(archive.close)
            self._archives[folder.archive] = archive
        return ArchiveFolder(self._archives[folder.archive], folder.folder)
