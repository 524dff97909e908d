"""A folder tree of pickles -> a packed store."""

from __future__ import annotations

import os
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from opengait.data.errors import DataError
from opengait.data.pack_checks import check_free
from opengait.data.packed import is_packed
from opengait.data.packed_index import MODALITY_NAME
from opengait.data.packing import PackedWriter, PackReport
from opengait.data.store import Frames, Selection
from opengait.data.tree import PickleTree, subject_folders

READ_AHEAD = 4  # sequences a thread


def pack_tree(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    data_in_use: Sequence[bool | int] | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> PackReport:
    """Packs all subjects of a folder tree. Stopped, and called again for an unchanged tree, it goes on where it was.

    Args:
        root: the tree, `subject/type/view/*.pkl`.
        out: folder of the store; default is the tree's name with `-packed` behind it.
        data_in_use: the modalities to pack, in the order of the store; default all, sorted.
        workers: threads that read ahead; default one a processor.
        force: replace a packed store at `out`.

    Raises:
        DataError: the tree has a fault, sequences are unlike one another, or `out` holds something.
    """
    root = Path(root)
    out = Path(f"{os.path.normpath(root)}-packed") if out is None else Path(out)
    if is_packed(root):
        raise DataError(f"{root}: is a packed store already")
    if workers is not None and workers < 1:
        raise DataError(f"workers: 1 or more were expected, found {workers}")
    subjects = subject_folders(root)
    inside, outside = Path(os.path.realpath(out)), Path(os.path.realpath(root))
    if inside == outside or outside in inside.parents:
        raise DataError(f"{out}: is inside the tree {root}; give a folder of its own (--out)")
    check_free(out, force)
    tree = PickleTree(root, subjects, Selection(data_in_use))
    names = modality_names(tree)
    with PackedWriter(out, names, source=tree.digest(), force=force) as writer:
        waiting = [
            index
            for index, key in enumerate(zip(tree.subjects, tree.types, tree.views, strict=True))
            if key not in writer.done
        ]
        shown = tqdm(total=len(tree.subjects), initial=len(tree.subjects) - len(waiting), desc="pack", unit="sequence",
                     disable=not (progress and sys.stderr.isatty()))  # fmt: skip
        with shown:
            for index, arrays in _read_ahead(tree, waiting, workers or os.cpu_count() or 1):
                try:
                    writer.add(tree.subjects[index], tree.types[index], tree.views[index], arrays)
                except DataError as error:
                    raise DataError(f"{tree.folder(index)}: {error}") from None
                shown.update()
        return writer.close()


def modality_names(tree: PickleTree) -> list[str]:
    """Names of a tree's modalities, from those of its files without the view: `090.pkl` holds silhouettes,
    `090-aligned-sils.pkl` aligned-sils, `sils-090.pkl` sils, `0-depth.pkl` 0-depth. Where sequences name theirs
    differently, or not by letters, digits and `._-`, they are modality-0, modality-1, ...

    Raises:
        DataError: there is no sequence.
    """
    if not tree.subjects:
        raise DataError(f"{tree.root}: no sequence found; subject/type/view/*.pkl was expected")
    found = {
        tuple(_without_view(os.path.basename(path).removesuffix(".pkl"), view) for path in tree.files(index))
        for index, view in enumerate(tree.views)
    }
    names = found.pop()
    if found or len({name.casefold() for name in names}) < len(names) or not all(map(MODALITY_NAME.fullmatch, names)):
        return [f"modality-{number}" for number in range(tree.modalities)]
    return list(names)


def _without_view(name: str, view: str) -> str:
    if name == view:
        return "silhouettes"
    for mark in "-_":
        name = name.removeprefix(f"{view}{mark}").removesuffix(f"{mark}{view}")
    return name


def _read_ahead(tree: PickleTree, indices: Sequence[int], threads: int) -> Iterator[tuple[int, list[Frames]]]:
    """The sequences in order, brought into memory by threads, a few at a time."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[tuple[int, Future[list[Frames]]]] = deque()
        following = iter(indices)
        try:
            while True:
                for index in following:
                    pending.append((index, pool.submit(_read, tree, index)))
                    if len(pending) >= threads * READ_AHEAD:
                        break
                if not pending:
                    return
                index, future = pending.popleft()
                yield index, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def _read(tree: PickleTree, index: int) -> list[Frames]:
    """A sequence whose bytes have been fetched; what is opened is only mapped."""
    opened = tree.open(index)
    for frames in opened:
        for array in frames if isinstance(frames, list) else [frames]:
            zlib.crc32(np.ascontiguousarray(array).data)  # reads it all, and without the interpreter's lock
    return opened
