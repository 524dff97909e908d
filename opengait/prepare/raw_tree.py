"""The folders of a raw distribution, as if every archive in it were unpacked where it lies."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from opengait.prepare.archives import suffix_of
from opengait.prepare.folders import RawFolder
from opengait.prepare.unpack import Contents, contents

_DEEPEST = 4  # archives in archives

Ignored = Callable[[str], str | None]
Map = Callable[[Callable[[str], Contents], list[str]], Iterable[tuple[str, Contents]]]


class Skipped(NamedTuple):
    """A folder or archive that was not looked into."""

    path: str
    reason: str


class _Found(NamedTuple):
    folders: list[RawFolder]
    archives: list[tuple[str, str]]
    """path on disk, folder of the tree"""
    skipped: list[Skipped]


def scan(
    raw: str, work: str, *, password: str | None, ignored: Ignored, run: Map
) -> tuple[list[RawFolder], list[Skipped]]:
    """Every folder that holds files, or nothing at all, in the order of their paths.

    Args:
        raw: folder on disk.
        work: folder for what has to be unpacked.
        password: of encrypted archives.
        ignored: says why a folder or archive is not looked into, by its place in the tree.
        run: calls a function with each path, in any order, and gives (path, result).

    Raises:
        ValueError: an archive that cannot be read.
    """
    found = _walk(raw, "", ignored)
    folders, skipped, archives = found.folders, found.skipped, found.archives
    copies: dict[str, str] = {}
    for _ in range(_DEEPEST):
        following: list[tuple[str, str]] = []
        places = dict(archives)
        with _named_as_downloaded(copies):
            for path, listed in run(partial(contents, work=work, password=password), sorted(places)):
                inner = _placed(path, places[path], listed, ignored)
                folders += inner.folders
                skipped += inner.skipped
                following += inner.archives
                for copy, folder in listed.nested:
                    name = posixpath.join(folder, os.path.basename(copy))
                    copies[copy] = f"{copies.get(path, path)}: {name}"
        archives = following
        if not archives:
            return sorted(folders), sorted(skipped)
    name = copies.get(archives[0][0], archives[0][0])
    raise ValueError(f"{name}: archives in archives more than {_DEEPEST} deep; unpack the outer ones by hand")


@contextmanager
def _named_as_downloaded(copies: Mapping[str, str]) -> Iterator[None]:
    """An archive in an archive is read from a copy; errors name it by where it lies in the download."""
    try:
        yield
    except ValueError as error:
        path, colon, said = str(error).partition(": ")
        if path not in copies:
            raise
        raise ValueError(f"{copies[path]}{colon}{said}") from error


def _placed(path: str, place: str, listed: Contents, ignored: Ignored) -> _Found:
    """The folders of an archive, in a folder of its name unless it brings that itself."""
    name = os.path.basename(path)
    stem = name[: len(name) - len(suffix_of(name))]
    tops = set(os.listdir(listed.unpacked)) if listed.unpacked else listed.tops()
    base = place if stem in tops or PurePosixPath(place).name == stem else posixpath.join(place, stem)
    if listed.unpacked:
        return _walk(listed.unpacked, base, ignored)
    found = _Found([], [], [])
    for folder, count in listed.folders.items():
        inside = posixpath.join(base, folder) if folder else base
        reason = next((ignored(part) for part in _with_parents(inside) if ignored(part)), None)
        if reason:
            found.skipped.append(Skipped(inside, reason))
        elif not _hidden(inside):
            found.folders.append(RawFolder(inside, count, folder, listed.archive))
    for inner, folder in listed.nested:
        inside = posixpath.join(base, folder) if folder else base
        reason = ignored(posixpath.join(inside, os.path.basename(inner)))
        if reason:
            found.skipped.append(Skipped(posixpath.join(inside, os.path.basename(inner)), reason))
        else:
            found.archives.append((inner, inside))
    return found


def _walk(root: str, base: str, ignored: Ignored) -> _Found:
    """Folders and archives below a folder on disk."""
    found = _Found([], [], [])
    pending = [(root, base)]
    while pending:
        path, place = pending.pop()
        with os.scandir(path) as listing:
            entries = sorted((entry for entry in listing if not _hidden(entry.name)), key=lambda entry: entry.name)
        folders = {entry.name for entry in entries if entry.is_dir() and not _leads_back(entry)}
        files = 0
        for entry in entries:
            inside = posixpath.join(place, entry.name)
            is_folder, suffix = entry.name in folders, suffix_of(entry.name)
            reason = ignored(inside) if is_folder or suffix else None
            if reason:
                found.skipped.append(Skipped(inside, reason))
            elif is_folder:
                pending.append((entry.path, inside))
            elif suffix and entry.name[: -len(suffix)] in folders:
                found.skipped.append(Skipped(inside, "unpacked beside it"))
            elif suffix and entry.is_file():
                found.archives.append((entry.path, place))
            elif not entry.is_dir():
                files += 1
        if files or not entries:
            found.folders.append(RawFolder(place, files, path))
    return found


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder that it lies in."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(entry.path))]) == target


def _with_parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _hidden(path: str) -> bool:
    """What operating systems leave behind."""
    return any(part.startswith((".", "@")) or part == "__MACOSX" for part in path.split("/"))
