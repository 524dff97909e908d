"""Raw look-alikes for tests of the preparation, each written once."""

from __future__ import annotations

import functools
import os
import tempfile
import weakref
from pathlib import Path

from opengait.synthetic.raw import RawReport, write

# Few sequences, and room for every fault.
SMALL = {
    "CASIA-B": {"types": ("nm-01", "nm-02", "cl-01"), "views": ("000", "090")},
    "CASIA-B*": {"types": ("nm-01", "nm-02"), "views": ("000", "090")},
    "OUMVLP": {"views": ("000", "090", "180")},
}
IN_ARCHIVES = ("CASIA-B", "GREW", "HID2022", "HID2023")


@functools.cache
def look_alike(dataset: str, archives: bool = False) -> RawReport:
    """The report on a look-alike in a temporary folder; nothing may be changed there."""
    folder = tempfile.TemporaryDirectory(prefix="opengait-raw-")
    report = write(dataset, Path(folder.name) / "raw", 4, archives=archives, frames=(6, 7), **SMALL.get(dataset, {}))
    weakref.finalize(report, folder.cleanup)
    return report


def content(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file below a folder, hidden ones too; and its empty folders."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in files:
            found[os.path.relpath(os.path.join(path, name), folder)] = Path(path, name).read_bytes()
        if not folders and not files:
            found[os.path.relpath(path, folder) + "/"] = b""
    return found
