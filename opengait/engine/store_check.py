"""Checksums of a packed store: of a run's sequences, or of all, whatever partition their subjects are in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tqdm import tqdm

from opengait.data.packed import PackedStore, is_packed
from opengait.data.packed_index import PackedIndex
from opengait.data.store import Selection, SequenceStore
from opengait.engine.findings import Finding, Findings

SHOWN = 10  # of the damaged sequences


def check_store(root: str | os.PathLike[str]) -> list[Finding]:
    """Reads all of a packed store and compares it with its checksums: `opengait check STORE`. Changes nothing.

    Returns:
        An error for each damaged sequence, or for an index that cannot be used; else an info on what the store holds.
    """
    findings = Findings()
    with findings.catching():
        _check(Path(root), findings)
    return findings.found


def compare_checksums(store: SequenceStore, root: str | os.PathLike[str], findings: Findings) -> None:
    """An error for each sequence that is not what was stored. A folder tree has no checksums; its files are read."""
    with tqdm(total=len(store.subjects), desc="checksums", unit="sequence", disable=not sys.stderr.isatty()) as shown:
        damage = list(store.damage(shown.update))
    for message in damage[:SHOWN]:
        findings.error(message)
    if len(damage) > SHOWN:
        findings.error(f"{root}: {len(damage) - SHOWN} more sequences are damaged")


def _check(root: Path, findings: Findings) -> None:
    if not is_packed(root):
        raise ValueError(
            f"{root}: no packed store, in which index.json and sequences.npz were expected; to check a folder tree, "
            "give a config that names it"
        )
    index = PackedIndex(root)
    compare_checksums(PackedStore(index, index.subjects, Selection(None)), root, findings)
    if not findings.errors:
        held = f"{len(index.subjects)} subjects, {len(index)} sequences, {index.frames} frames"
        findings.info(f"{root}: {held}; all checksums match")
