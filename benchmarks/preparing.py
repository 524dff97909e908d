"""What `opengait prepare` takes of one processor for a frame of each data set, on look-alikes of their downloads.

Processor time, so that other programs count for little; the disk is not measured, and the files are small enough to be
in memory. Run from the project's root: `python benchmarks/preparing.py`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import machine, table

from opengait.prepare import prepare
from opengait.synthetic.raw import write

WALKS = {"types": ["nm-01", "nm-02"], "views": ["000", "054", "090"]}
# Data set -> the part of it that is made.
PARTS: dict[str, dict[str, Any]] = {
    "CASIA-B": WALKS,
    "CASIA-B*": WALKS,
    "OUMVLP": {"views": ["000", "090"]},
    "GREW": {},
    "HID2022": {},
    "HID2023": {},
    "Gait3D": {},
}
SUBJECTS, FRAMES, TURNS = 4, 30, 2


def milliseconds(dataset: str, part: dict[str, Any], folder: Path) -> tuple[float, float]:
    """For a frame and for a sequence; the best of TURNS."""
    raw = write(dataset, folder / "raw", SUBJECTS, frames=(FRAMES, FRAMES), faults=(), **part)
    best = float("inf")
    for turn in range(TURNS):
        begun = time.process_time()
        report = prepare(dataset, raw.out, folder / f"out-{turn}", workers=1, progress=False)
        best = min(best, time.process_time() - begun)
    return 1000 * best / report.frames, 1000 * best / report.sequences


def main() -> None:
    rows = []
    for dataset, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            frame, sequence = milliseconds(dataset, part, Path(folder))
        rows.append({"data set": dataset, "ms a frame": f"{frame:.2f}", "ms a sequence of 30": f"{sequence:.1f}"})
    print(", ".join(f"{key} {value}" for key, value in machine(torch.device("cpu")).items()))
    print(table(rows))


if __name__ == "__main__":
    main()
