"""CASIA-B: silhouettes in full frames of 320x240."""

from __future__ import annotations

import re
from typing import ClassVar

from opengait.prepare.dataset import Published, RawDataset, Sequence

_FOLDER = re.compile(r"(?:^|/)(\d{3})/((?:nm|bg|cl)-\d\d)/(\d{3})$")
_LAST_TRAIN = "074"


class CasiaB(RawDataset):
    """`id/type/view/id-type-view-frame.png`; the owners ship a zip with one .tar.gz a subject."""

    name = "CASIA-B"
    expected = "<id>/<type>/<view>/<frame>.png (001/nm-01/090/001-nm-01-090-001.png), or 001.tar.gz ... 124.tar.gz"
    published: ClassVar[tuple[Published, ...]] = (
        Published("total", "subjects", 124),
        Published("total", "sequences", 13_640, nominal=True),
        Published("train", "subjects", 74),
        Published("train", "sequences", 8_140, nominal=True),
        Published("test", "subjects", 50),
        Published("test", "sequences", 5_500, nominal=True),
    )

    def identify(self, path: str) -> Sequence | None:
        found = _FOLDER.search(path)
        return Sequence(*found.groups()) if found else None

    def part(self, subject: str, type: str, view: str) -> str:
        return "train" if subject <= _LAST_TRAIN else "test"
