"""Opening a data set of 270,000 sequences: a folder tree the second time and a packed store, against walking the tree.

Each opening is that of a process of its own, after its imports; memory is its highest, less what the imports took.
The tree lies in a file system in memory where there is one with room for it: a second opening finds folders in the
system's caches in any case, and making and removing 540,000 names on a disk takes minutes. Run from the project's root:
`python benchmarks/opening.py`, with `--folder` for another place.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, table

from opengait.data.packing import PackedWriter

TYPES, VIEWS = ("00", "01"), tuple(f"{angle:03d}" for angle in range(0, 195, 15))  # 26 sequences a subject
SECONDS, MEGABYTES = 1.0, 300.0
LINKS = 30_000
IN_MEMORY, BYTES, NAMES = Path("/dev/shm"), 2 << 30, 600_000

MEASURE = """
import json, os, sys, time

def memory(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

def begin():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest memory from here on
    return memory("VmRSS:"), time.perf_counter(), time.process_time()

def end(began, count):
    now = {"seconds": time.perf_counter() - began[1], "processor": time.process_time() - began[2]}
    print(json.dumps(now | {"megabytes": memory("VmHWM:") - began[0], "sequences": count}))
"""
OPEN = """
from opengait.data.dataset import GaitDataset
cfg = {"dataset_root": sys.argv[1], "dataset_partition": sys.argv[2]}
began = begin()
dataset = GaitDataset(cfg, training=True)
end(began, len(dataset.lengths()))
"""
# As the reference implementation does it: a listing of every folder, sorted.
WALK = """
began = begin()
with open(sys.argv[2]) as file:
    listed = json.load(file)["TRAIN_SET"]
present = set(os.listdir(sys.argv[1]))
records = []
for subject in listed:
    if subject in present:
        for kind in sorted(os.listdir(os.path.join(sys.argv[1], subject))):
            for view in sorted(os.listdir(os.path.join(sys.argv[1], subject, kind))):
                folder = os.path.join(sys.argv[1], subject, kind, view)
                files = sorted(os.listdir(folder))
                if files:
                    records.append([subject, kind, view, [os.path.join(folder, name) for name in files]])
end(began, len(records))
"""


def write(folder: Path, sequences: int) -> None:
    """A tree and a packed store of the same sequences of two small frames, and their partition."""
    frames = np.zeros((2, 4, 4), np.uint8)
    content = pickle.dumps(frames, protocol=4)
    subjects: list[str] = []
    source = folder / "source.pkl"
    with PackedWriter(folder / "packed", ["silhouettes"]) as writer:
        for number in range(sequences):
            subject, rest = divmod(number, len(TYPES) * len(VIEWS))
            kind, view = divmod(rest, len(VIEWS))
            if rest == 0:
                subjects.append(f"{subject:05d}")
            path = folder / "tree" / subjects[-1] / TYPES[kind] / VIEWS[view]
            path.mkdir(parents=True)
            if number % LINKS == 0:  # of one file; file systems allow some ten thousand names for it
                source.unlink(missing_ok=True)
                source.write_bytes(content)
            os.link(source, path / f"{VIEWS[view]}.pkl")
            writer.add(subjects[-1], TYPES[kind], VIEWS[view], [frames])
    (folder / "partition.json").write_text(json.dumps({"TRAIN_SET": subjects, "TEST_SET": []}))


def place() -> str | None:
    """A folder in memory with room for the data, or None: the system's for temporary files."""
    if not IN_MEMORY.is_dir() or not os.access(IN_MEMORY, os.W_OK):
        return None
    there = os.statvfs(IN_MEMORY)
    return str(IN_MEMORY) if there.f_bavail * there.f_frsize > BYTES and there.f_favail > NAMES else None


def measured(program: str, folder: Path, root: str) -> dict[str, Any]:
    """What one process says of its opening."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE + program, str(folder / root), str(folder / "partition.json")],
        env=os.environ | {"OPENGAIT_CACHE": str(folder / "cache")},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(ended.stdout)


def run(sequences: int, turns: int, where: str | None) -> list[dict[str, str]]:
    """Table rows; the forms take turns."""
    forms = {"walking the tree": (WALK, "tree"), "tree, second time": (OPEN, "tree"), "packed store": (OPEN, "packed")}
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        write(folder, sequences)
        time.sleep(3)  # a tree that is still being written is not indexed
        first = measured(OPEN, folder, "tree")
        found: dict[str, list[dict[str, Any]]] = {form: [] for form in forms}
        for _ in range(turns):
            for form, (program, root) in forms.items():
                found[form].append(measured(program, folder, root))
    medians = {
        form: {key: statistics.median(one[key] for one in results) for key in results[0]}
        for form, results in found.items()
    }
    medians = {"tree, first time, frames counted": first} | medians
    plain = medians["walking the tree"]["seconds"]
    return [
        {
            "opening": form,
            "sequences": f"{result['sequences']:,.0f}",
            "seconds": f"{result['seconds']:.2f}",
            "of processor": f"{result['processor']:.2f}",
            "MB more": f"{result['megabytes']:.0f}",
            "against walking": f"{plain / result['seconds']:.1f}",
        }
        for form, result in medians.items()
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sequences", type=int, default=270_000)
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--folder", help="where the tree is written and removed again")
    given = options.parse_args()
    rows = run(given.sequences, given.turns, given.folder or place())
    print(", ".join(f"{key} {value}" for key, value in machine(torch.device("cpu")).items()))
    print(table(rows))
    print(f"target: under {SECONDS:.0f} s and {MEGABYTES:.0f} MB")


if __name__ == "__main__":
    main()
