"""A prepared tree becomes a packed store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opengait.prepare.output import REPORT_FILE, SEQUENCES_FILE, SETTINGS_FILE, write_whole

_NOTES = (SEQUENCES_FILE, REPORT_FILE, SETTINGS_FILE)  # the last one says that all is there


def tree_folder(out: Path) -> Path:
    """Where the tree lies until it is packed: hidden, beside the store."""
    return out.parent / f".{out.name}.preparing"


def finished_store(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the store of these settings is there and whole."""
    marker = out / SETTINGS_FILE
    return marker.is_file() and not tree_folder(out).exists() and json.loads(marker.read_text()) == dict(settings)


def pack(tree: Path, out: Path, workers: int, progress: bool) -> None:
    """Packs the tree to `out`, with the report beside it, and removes the tree."""
    from opengait.data.tree_packing import pack_tree

    if not (out / SETTINGS_FILE).is_file():
        # A call that was cut off may have packed it, with part of the notes beside it or none.
        for name in _NOTES:
            (out / name).unlink(missing_ok=True)
        pack_tree(tree, out, workers=workers, force=True, progress=progress)
        for name in _NOTES:
            write_whole(out, out / name, (tree / name).read_bytes())
    shutil.rmtree(tree)
