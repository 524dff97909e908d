"""OUMVLP: silhouettes in full frames of 1280x980, a folder for each view and walk."""

from __future__ import annotations

import re
from typing import ClassVar

from opengait.prepare.dataset import Published, RawDataset, Sequence

_FOLDER = re.compile(r"(?:^|/)Silhouette_(?P<view>\d{3})-(?P<type>\d\d)/(?P<subject>\d{5})$")
_REARRANGED = re.compile(r"(?:^|/)(?P<subject>\d{5})/(?P<type>\d\d)/(?P<view>\d{3})$")
_LAST = "10307"


class Oumvlp(RawDataset):
    """`Silhouette_<view>-<type>/<id>/<frame>.png`; the owners ship 28 encrypted 7z files.

    Folders that were rearranged to `<id>/<type>/<view>` already are taken too.
    """

    name = "OUMVLP"
    expected = (
        "Silhouette_<view>-<type>/<id>/<frame>.png (Silhouette_000-00/00001/0001.png), or Silhouette_000-00.7z ... "
        "Silhouette_270-01.7z with --password"
    )
    published: ClassVar[tuple[Published, ...]] = (
        Published("total", "subjects", 10_307),
        Published("total", "sequences", 288_596, nominal=True),
        Published("train", "subjects", 5_153),
        Published("train", "sequences", 144_284, nominal=True),
        Published("test", "subjects", 5_154),
        Published("test", "sequences", 144_312, nominal=True),
    )

    def identify(self, path: str) -> Sequence | None:
        found = _FOLDER.search(path) or _REARRANGED.search(path)
        return Sequence(**found.groupdict()) if found else None

    def part(self, subject: str, type: str, view: str) -> str:
        return "train" if int(subject) % 2 and subject != _LAST else "test"
