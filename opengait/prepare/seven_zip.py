"""Archives that the standard library cannot read: 7z, and zips with strong encryption. A program has to be there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from opengait.prepare.archives import check_room, split_name

PROGRAMS = ("7zz", "7z", "7za", "bsdtar")


def unpack_with_tool(path: str, target: Path, password: str | None) -> str:
    """Unpacks all of an archive into a new folder, with the first program of PROGRAMS that is installed.

    The members' names are looked at before, and what was unpacked after: links are removed, not followed.

    Raises:
        ValueError: no such program, or it cannot unpack the archive.
    """
    tool = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if tool is None or (password is not None and tool.endswith("bsdtar")):
        raise ValueError(
            f"{path}: needs the program 7z (or 7zz, 7za; bsdtar where there is no password), which is not installed. "
            f"Install it (Debian and Ubuntu: apt install 7zip or p7zip-full), or unpack the archive by hand into a "
            f"folder of its own name beside it ({Path(path).stem}/): the folder is then read in its place"
        )
    plain = tool.endswith("bsdtar")
    listing = (
        [tool, "-tf", path] if plain else [tool, "l", "-ba", "-slt", "-sccUTF-8", f"-p{password or ''}", "--", path]
    )
    size = 0
    for line in _run(listing, path).splitlines():
        if plain or line.startswith("Path = "):
            split_name(line if plain else line.removeprefix("Path = "), path)
        elif line.startswith("Size = "):
            size += int(line.removeprefix("Size = ") or 0)
    target.mkdir(parents=True)
    check_room(size, target, path)
    extraction = (
        [tool, "-xf", path, "-C", str(target)]
        if plain
        else [tool, "x", "-y", "-bd", f"-p{password or ''}", f"-o{target}", "--", path]
    )
    _run(extraction, path)
    _remove_links(target)
    return str(target)


def _run(command: list[str], path: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise ValueError(
            f"{path}: {Path(command[0]).name} cannot unpack it (status {done.returncode}: {said}); is the password "
            "right (--password), is the file whole?"
        )
    return done.stdout


def _remove_links(target: Path) -> None:
    for folder, folders, files in os.walk(target):
        for name in [*folders, *files]:
            entry = Path(folder, name)
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                entry.unlink()
