"""Archives in memory, with the same bytes whenever they are written."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Literal

# Zip files know no earlier year.
_DATE = (1980, 1, 1, 0, 0, 0)


def tar(tree: Mapping[str, bytes | None], compression: Literal["", "gz"] = "") -> bytes:
    """A tar file of path -> content; None stands for a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in tree.items():
            member = tarfile.TarInfo(path)
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b""))
    content = buffer.getvalue()
    return gzip.compress(content, compresslevel=1, mtime=0) if compression == "gz" else content


def zipped(tree: Mapping[str, bytes | None]) -> bytes:
    """A zip file of path -> content; None stands for a folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in tree.items():
            member = zipfile.ZipInfo(path if content is not None else f"{path}/", _DATE)
            archive.writestr(member, content or b"")
    return buffer.getvalue()


def by_top_folder(tree: Mapping[str, bytes | None]) -> dict[str, dict[str, bytes | None]]:
    """Top folder -> its part of the tree, with the whole paths."""
    parts: dict[str, dict[str, bytes | None]] = {}
    for path, content in tree.items():
        parts.setdefault(path.split("/")[0], {})[path] = content
    return parts


def below(tree: Mapping[str, bytes | None], folder: str) -> dict[str, bytes | None]:
    """The part of the tree below a folder, with paths from there."""
    return {path[len(folder) + 1 :]: content for path, content in tree.items() if path.startswith(f"{folder}/")}
