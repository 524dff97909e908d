"""Zip and tar files as folders of members; no member's name or link leads anywhere else.

Nothing is unpacked to read a member: zips and plain tars are read where they lie, a compressed tar is decompressed in
memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

LARGEST_FILE = 1 << 26
"""bytes of a frame's file; more is no frame"""
LARGEST_IN_MEMORY = 1 << 28
"""bytes of a compressed tar's content that are held in memory; one with more is decompressed to disk"""
SPARE_DISK = 1 << 30
"""bytes of the disk that are never used"""
SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar", ".zip", ".7z")
_AES = 99  # a zip's method for members that the standard library cannot decrypt
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError,
    NotImplementedError, struct.error, OverflowError, MemoryError,
)  # fmt: skip


class UnreadableFile(OSError):
    """One file of a raw distribution that cannot be read; the others can."""


class Member(NamedTuple):
    """A regular file in an archive; the handle is the library's own."""

    size: int
    handle: Any


class Archive(Protocol):
    """An open archive: folder -> file name -> member. Folders without files are there too."""

    folders: dict[str, dict[str, Member]]

    def read(self, member: Member) -> bytes:
        """The content of a frame's file; `UnreadableFile` where there is none to be had."""
        ...

    def open(self, member: Member) -> IO[bytes]:
        """A stream of the content, of any size."""
        ...

    def close(self) -> None: ...


def suffix_of(name: str) -> str:
    """The ending that makes a file an archive; empty where it is none."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def open_archive(path: str, password: str | None = None) -> Archive:
    """Opens a zip or tar file and lists it.

    Raises:
        ValueError: it is damaged, encrypted and the password does not fit, or a member leads out of it.
    """
    with damage_named(path):
        return Zip(path, password) if suffix_of(path) == ".zip" else Tar(path)


@contextmanager
def damage_named(path: str) -> Iterator[None]:
    """What libraries raise for broken archives, as one line that names the file."""
    try:
        yield
    except (*_DAMAGE, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's fault, and said so
            raise
        if isinstance(error, ValueError) and str(error).startswith(path):  # said here already, not by a library
            raise
        raise ValueError(f"{path}: cut off or damaged ({error or 'it ends early'}); fetch or copy it again") from error


def decompressed(path: str) -> IO[bytes]:
    """The stream of a compressed tar."""
    suffix = suffix_of(path)
    if suffix in (".tar.gz", ".tgz"):
        return cast(IO[bytes], gzip.open(path))
    return bz2.open(path) if suffix in (".tar.bz2", ".tbz2") else lzma.open(path)


def split_name(name: str, archive: str) -> tuple[str, str]:
    """Folder and file name of a member.

    Raises:
        ValueError: the name leads out of the folder that the archive is unpacked to.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or ".." in parts or "\0" in plain or re.match(r"[A-Za-z]:", plain):
        raise ValueError(f"{archive}: member {name!r} leads out of the archive's own folder; the archive is refused")
    return "/".join(parts[:-1]), parts[-1] if parts else ""


class _Listing:
    """folder -> file name -> member, filled from an archive's table of contents."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.folders: dict[str, dict[str, Member]] = {}

    def add_folder(self, name: str) -> None:
        self.folders.setdefault(posixpath.join(*split_name(name, self.path)), {})

    def add_file(self, name: str, member: Member) -> None:
        folder, last = split_name(name, self.path)
        if last:
            self.folders.setdefault(folder, {})[last] = member

    def refuse(self, name: str, what: str) -> None:
        raise ValueError(f"{self.path}: member {name!r} is {what}; the archive is refused")

    def check_link(self, name: str, target: str, start: str) -> None:
        """Raises ValueError where a link's target, seen from the folder `start`, is not in the archive."""
        reached = posixpath.normpath(posixpath.join(start, target.replace("\\", "/")))
        if reached.startswith(("/", "../")) or reached == ".." or re.match(r"[A-Za-z]:", reached):
            self.refuse(name, f"a link out of the archive, to {target!r}")


class Zip(_Listing):
    """A zip file; members are read one by one, wherever they are in it."""

    def __init__(self, path: str, password: str | None) -> None:
        super().__init__(path)
        self._password = None if password is None else password.encode()
        with ExitStack() as opening:
            self._file = opening.enter_context(zipfile.ZipFile(path))
            self.needs_tool = any(info.compress_type == _AES for info in self._file.infolist())
            """members are encrypted in a way that the standard library cannot read"""
            for info in self._file.infolist():
                self._add(info)
            if not self.needs_tool:
                self._check_password()
            opening.pop_all()

    def read(self, member: Member) -> bytes:
        _check_size(member)
        try:
            return self._file.read(member.handle, pwd=self._password)
        except (*_DAMAGE, RuntimeError, ValueError) as error:
            raise UnreadableFile(str(error)) from error

    def open(self, member: Member) -> IO[bytes]:
        return self._file.open(member.handle, pwd=self._password)

    def close(self) -> None:
        self._file.close()

    def _add(self, info: zipfile.ZipInfo) -> None:
        mode = info.external_attr >> 16
        if info.is_dir():
            self.add_folder(info.filename)
        elif stat.S_ISLNK(mode):
            # Not followed: the target is looked at only to see whether the archive means harm.
            target = b"" if info.flag_bits & 1 or info.file_size > 4096 else self._file.read(info)
            self.check_link(info.filename, target.decode(errors="replace"), split_name(info.filename, self.path)[0])
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            self.refuse(info.filename, "a device or pipe")
        else:
            self.add_file(info.filename, Member(info.file_size, info))

    def _check_password(self) -> None:
        """Raises ValueError where a password is needed and the one given, if any, does not open the smallest member."""
        encrypted = [info for info in self._file.infolist() if info.flag_bits & 1 and not info.is_dir()]
        if not encrypted:
            return
        if self._password is None:
            raise ValueError(f"{self.path}: encrypted; give the owners' password (--password)")
        try:
            with self._file.open(min(encrypted, key=lambda info: info.file_size), pwd=self._password) as source:
                while source.read(1 << 20):  # to the end, where its checksum is looked at
                    pass
        except (RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.path}: the password does not open it ({error})") from error


class Tar(_Listing):
    """A tar file; a compressed one is decompressed in memory.

    Raises:
        TooLarge: its content is more than is held in memory.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        with ExitStack() as opening:
            self._source = opening.enter_context(_plain(path))
            self._file = opening.enter_context(tarfile.open(fileobj=self._source, mode="r:"))
            for info in self._file:
                self._add(info)
            # tarfile takes a cut or damaged header for the end; a whole archive ends with a block of zeros.
            self._source.seek(self._file.offset)
            if self._source.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end of the archive where one was expected")
            opening.pop_all()

    def read(self, member: Member) -> bytes:
        _check_size(member)
        try:
            content = self.open(member).read(LARGEST_FILE + 1)
        except (*_DAMAGE, LookupError, ValueError) as error:
            raise UnreadableFile(str(error)) from error
        if len(content) > LARGEST_FILE:  # a link has no size of its own
            raise UnreadableFile(f"a frame has at most {LARGEST_FILE} bytes")
        return content

    def open(self, member: Member) -> IO[bytes]:
        stream = self._file.extractfile(member.handle)
        if stream is None:
            raise UnreadableFile("a link to something that is no file")
        return stream

    def close(self) -> None:
        self._file.close()
        self._source.close()

    def _add(self, info: tarfile.TarInfo) -> None:
        if info.isdir():
            self.add_folder(info.name)
        elif info.isreg():
            self.add_file(info.name, Member(info.size, info))
        elif info.issym() or info.islnk():
            self.check_link(info.name, info.linkname, "" if info.islnk() else split_name(info.name, self.path)[0])
            self.add_file(info.name, Member(info.size, info))
        else:
            self.refuse(info.name, "a device or pipe")


def check_room(size: int, folder: Path, name: str) -> None:
    """Raises ValueError where the disk of a folder has no room for so many bytes."""
    free = shutil.disk_usage(folder).free - SPARE_DISK
    if size > free:
        raise ValueError(
            f"{name}: needs {size / 1e9:.1f} GB below {folder}, {max(free, 0) / 1e9:.1f} GB can be used there; "
            "unpack the archive by hand elsewhere, or choose another output folder"
        )


class TooLarge(ValueError):
    """A compressed tar that is not held in memory."""


def _plain(path: str) -> IO[bytes]:
    """A tar without compression: the file, or what it holds in memory."""
    if suffix_of(path) == ".tar":
        return open(path, "rb")
    with decompressed(path) as stream:
        content = stream.read(LARGEST_IN_MEMORY + 1)
    if len(content) > LARGEST_IN_MEMORY:
        raise TooLarge(f"{path}: more than {LARGEST_IN_MEMORY} bytes; decompress it to a .tar first")
    return io.BytesIO(content)


def _check_size(member: Member) -> None:
    if member.size > LARGEST_FILE:
        raise UnreadableFile(f"{member.size} bytes, a frame has at most {LARGEST_FILE}")
