"""Thirty frames of sequences of a hundred, warm cache: from the packed store, and by reading whole pickles.

Also a proof that exactly thirty frames are touched: with every other page of the mapped file made unreadable, the same
frames are read, and one frame more ends the process. Run from the project's root: `python benchmarks/reading.py`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import pickle
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measure import Ratio, compare, machine, table

from opengait.data.dataset import GaitDataset
from opengait.data.tree_packing import pack_tree

LENGTH, CHOSEN, SIZE = 100, 30, 64
TARGET = 3.5
CPU = torch.device("cpu")
PROT_NONE, PROT_READ = 0, 1


def write_tree(folder: Path, sequences: int) -> Path:
    """Sequences of random silhouettes, one a subject, and the partition beside the tree."""
    rng = np.random.default_rng(0)
    names = [f"{number:05d}" for number in range(sequences)]
    for name in names:
        view = folder / "tree" / name / "nm-01" / "090"
        view.mkdir(parents=True)
        frames = rng.integers(0, 256, (LENGTH, SIZE, SIZE), dtype=np.uint8)
        (view / "090.pkl").write_bytes(pickle.dumps(frames, protocol=4))
    (folder / "partition.json").write_text(json.dumps({"TRAIN_SET": names, "TEST_SET": []}))
    return folder / "tree"


def opened(root: Path) -> GaitDataset:
    return GaitDataset({"dataset_root": str(root), "dataset_partition": str(root.parent / "partition.json")}, True)


def only_these_are_touched(dataset: GaitDataset, index: int, chosen: np.ndarray) -> bool:
    """Whether the chosen frames can be read when nothing else of the store can, and no other frame can then."""
    [view] = dataset.open(index)
    expected = view[chosen]
    frame = SIZE * SIZE
    if frame % mmap.PAGESIZE or view.ctypes.data % mmap.PAGESIZE:
        raise RuntimeError(f"frames of {frame} bytes are not whole pages of {mmap.PAGESIZE}")
    other = int(np.setdiff1d(np.arange(LENGTH), chosen)[0])
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    results = []
    for frames in (chosen, np.append(chosen, other)):
        child = os.fork()
        if child == 0:
            start = ctypes.c_void_p(view.ctypes.data)
            failed = protect(start, ctypes.c_size_t(view.nbytes), PROT_NONE)
            for number in set(chosen.tolist()):
                place = ctypes.c_void_p(view.ctypes.data + number * frame)
                failed |= protect(place, ctypes.c_size_t(frame), PROT_READ)
            [read] = dataset.read(index, frames)
            os._exit(2 if failed else 0 if (read[: len(chosen)] == expected).all() else 1)
        results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return results == [0, -signal.SIGSEGV]


def run(sequences: int, turns: int) -> tuple[list[dict[str, str]], Ratio, bool]:
    """Table rows, the ratio of the packed store, and whether the proof held."""
    rng = np.random.default_rng(1)
    chosen = [rng.permutation(LENGTH)[:CHOSEN] for _ in range(sequences)]
    with tempfile.TemporaryDirectory() as folder:
        root = write_tree(Path(folder), sequences)
        packed = opened(pack_tree(root, progress=False).out)
        tree = opened(root)
        paths = [sorted(root.glob("*/*/*/*.pkl"))[index] for index in range(sequences)]

        # One sequence after the other, as frames that are copied into a batch; holding all would measure memory.
        def plain() -> Iterator[np.ndarray]:
            for path, frames in zip(paths, chosen, strict=True):
                with open(path, "rb") as file:
                    yield pickle.load(file)[frames]

        def ours(dataset: GaitDataset) -> Iterator[np.ndarray]:
            for index, frames in enumerate(chosen):
                yield dataset.read(index, frames)[0]

        def all_of(read: Callable[[], Iterator[np.ndarray]]) -> Callable[[], object]:
            return lambda: deque(read(), maxlen=0)

        for dataset in (packed, tree):
            if any((one != other).any() for one, other in zip(plain(), ours(dataset), strict=True)):
                raise RuntimeError("the forms give different frames")
        proof = only_these_are_touched(packed, 0, np.sort(chosen[0]))
        ratios = {
            "packed store": compare(all_of(plain), all_of(lambda: ours(packed)), CPU, turns),
            "pickle, mapped": compare(all_of(plain), all_of(lambda: ours(tree)), CPU, turns),
        }
    rows = [
        {
            "read from": name,
            "microseconds a sequence": f"{ratio.ours / sequences * 1e6:.0f}",
            "whole pickle": f"{ratio.plain / sequences * 1e6:.0f}",
            "times faster": f"{ratio.times:.1f}",
        }
        for name, ratio in ratios.items()
    ]
    return rows, ratios["packed store"], proof


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sequences", type=int, default=400)
    options.add_argument("--turns", type=int, default=7)
    given = options.parse_args()
    rows, ratio, proof = run(given.sequences, given.turns)
    print(", ".join(f"{key} {value}" for key, value in machine(CPU).items()))
    print(f"{CHOSEN} of {LENGTH} frames {SIZE}x{SIZE}, {given.sequences} sequences, medians of {given.turns} turns")
    print(table(rows))
    print(f"packed store: {ratio.times:.1f} times faster, target {TARGET}")
    print(f"exactly the {CHOSEN} frames are touched: {'yes' if proof else 'NO'}")


if __name__ == "__main__":
    main()
