"""What torchrun starts on each machine: `opengait/main.py`, in whose first life one process comes to an end."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path

import engine_tiny  # noqa: F401 - registers its networks
import torch
from fault_life import End, end_at

from opengait.main import main


def write_job(path: Path, arguments: list[str], end: End | None = None) -> Path:
    """The file that this program is given."""
    path.write_text(json.dumps({"arguments": arguments, "end": None if end is None else vars(end)}))
    return path


def run(path: Path) -> int:
    """The status of `opengait/main.py` with the job's arguments."""
    job = json.loads(path.read_text())
    end = None if job["end"] is None else End(**job["end"])
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    begun = path.with_suffix(".begun")
    if end is not None and int(os.environ["RANK"]) == end.rank and not begun.exists():
        begun.touch()
        end_at(end)
    return main(job["arguments"])


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
