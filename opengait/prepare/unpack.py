"""What an archive holds: its folders, and the archives in it, which are brought to disk.

Owners ship archives in archives in archives (GREW: a zip, in it a tgz, in it one tgz a subject). Only the inner
archives are copied out, to the work folder below the output; frames stay where they are until they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
from pathlib import Path
from typing import IO, NamedTuple

from opengait.prepare.archives import (
    Archive,
    TooLarge,
    Zip,
    check_room,
    damage_named,
    decompressed,
    open_archive,
    suffix_of,
)
from opengait.prepare.seven_zip import unpack_with_tool

_AT_ONCE = 1 << 22


class Contents(NamedTuple):
    """One archive, listed."""

    archive: str
    """what the folders are read from: the archive itself, or its decompressed copy in the work folder"""
    folders: dict[str, int]
    """folder in the archive -> files in it; folders that hold neither files nor folders have 0"""
    nested: list[tuple[str, str]]
    """archives in it: path on disk, and the folder in the archive where each lay"""
    unpacked: str = ""
    """folder on disk that all of it was unpacked to, where that was the only way to read it"""

    def tops(self) -> set[str]:
        """Names at the top of the archive; empty text where there are files."""
        folders = [folder for folder, count in self.folders.items() if folder or count]
        return {folder.split("/")[0] for folder in [*folders, *(folder for _, folder in self.nested)]}


def contents(path: str, work: str, password: str | None) -> Contents:
    """Lists an archive, and copies the archives in it to the work folder. What was done before is not done again.

    Raises:
        ValueError: the archive is damaged or encrypted, would lead out of its folder or fill the disk, or needs a tool
            that is not there.
    """
    status = os.stat(path)
    identity = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
    folder = Path(work) / hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    listed = folder / "contents.json"
    if listed.is_file():
        fields = json.loads(listed.read_text())
        return Contents(fields[0], fields[1], [(item[0], item[1]) for item in fields[2]], fields[3])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = _list(path, folder, password)
    unfinished = folder / "contents.unfinished"
    unfinished.write_text(json.dumps(found))
    unfinished.replace(listed)
    return found


def _list(path: str, folder: Path, password: str | None) -> Contents:
    if suffix_of(path) == ".7z":
        return Contents("", {}, [], unpack_with_tool(path, folder / "unpacked", password))
    try:
        archive = open_archive(path, password)
    except TooLarge:
        plain = str(folder / "decompressed.tar")
        with damage_named(path), decompressed(path) as source, open(plain, "wb") as target:
            _copy(source, target, path)
        path, archive = plain, open_archive(plain)
    try:
        if isinstance(archive, Zip) and archive.needs_tool:
            return Contents("", {}, [], unpack_with_tool(path, folder / "unpacked", password))
        with damage_named(path):
            nested = _copy_nested(archive, path, folder)
    finally:
        archive.close()
    folders = _folders(archive)
    if nested and not any(folders.values()) and path.startswith(str(folder)):
        os.unlink(path)  # nothing but archives was in it, and these lie beside it now
    return Contents(path, folders, nested)


def _copy_nested(archive: Archive, path: str, folder: Path) -> list[tuple[str, str]]:
    nested: list[tuple[str, str]] = []
    for place, members in sorted(archive.folders.items()):
        for name in sorted(members):
            if suffix_of(name) and not name.startswith("."):
                # A folder each: the name stays, since it says whose frames are in it.
                target = folder / str(len(nested)) / name
                target.parent.mkdir()
                check_room(members[name].size, folder, f"{path}: {name}")
                with archive.open(members[name]) as source, target.open("wb") as copy:
                    _copy(source, copy, path)
                nested.append((str(target), place))
    return nested


def _folders(archive: Archive) -> dict[str, int]:
    """Folders with files, archives not counted, and folders that hold nothing at all."""
    parents = {posixpath.dirname(folder) for folder in archive.folders if folder}
    for parent in list(parents):
        while parent:
            parent = posixpath.dirname(parent)
            parents.add(parent)
    counts = {}
    for folder, members in archive.folders.items():
        count = sum(not suffix_of(name) and not name.startswith(".") for name in members)
        if count or (not members and folder not in parents):
            counts[folder] = count
    return counts


def _copy(source: IO[bytes], target: IO[bytes], name: str) -> None:
    """Copies a stream as far as the disk has room: what an archive says of its size need not be true."""
    folder = Path(target.name).parent
    while content := source.read(_AT_ONCE):
        check_room(len(content), folder, name)
        target.write(content)
