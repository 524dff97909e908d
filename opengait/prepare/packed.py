"""A prepared tree becomes a packed store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opengait.prepare.output import (
    REPORT_FILE,
    SEQUENCES_FILE,
    SETTINGS_FILE,
    check_settings,
    remove_unfinished,
    write_whole,
)

_NOTES = (SEQUENCES_FILE, REPORT_FILE, SETTINGS_FILE)  # written beside the store; the last says that all is there


def tree_folder(out: Path) -> Path:
    """Where the tree lies until it is packed: hidden, beside the store."""
    return out.parent / f".{out.name}.preparing"


def is_finished(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the store of these settings is there and whole.

    Raises:
        ValueError: there is something else, which a store must not replace.
    """
    from opengait.data.packing import check_free

    if (out / SETTINGS_FILE).is_file():
        check_settings(out, (out / SETTINGS_FILE).read_bytes(), settings)
        return True
    if not tree_folder(out).is_dir():  # else it may be the store of a call that was cut off
        check_free(out, force=False)
    return False


def pack(tree: Path, out: Path, workers: int, progress: bool) -> None:
    """Packs the tree to `out`, with the report beside it."""
    from opengait.data.tree_packing import pack_tree

    # A call that was cut off may have left the store, with some of the notes.
    remove_unfinished(out)
    for name in _NOTES:
        (out / name).unlink(missing_ok=True)
    pack_tree(tree, out, workers=workers, force=True, progress=progress)
    for name in _NOTES:
        write_whole(out, out / name, (tree / name).read_bytes())
