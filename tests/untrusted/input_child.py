"""A process that reads damaged inputs, one after another, under a limit of memory; what became of each goes back.

Started by `input_process.py`; a request is a line `kind folder`, an answer a line of JSON.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_tiny import TinyNet, tiny_config

from opengait.config import load_config
from opengait.data import pickles
from opengait.data.dataset import GaitDataset
from opengait.data.partition import read_partition
from opengait.data.tree import as_frames
from opengait.engine.checkpoint import load_checkpoint, restore_weights
from opengait.engine.inspection import convert_checkpoint
from opengait.engine.preflight import preflight
from opengait.engine.trainer import Trainer
from opengait.evaluation.protocol import find_protocol
from opengait.prepare.archives import open_archive
from opengait.prepare.npz import read_npz

SPARE = 1 << 30  # bytes that a case may take beyond what the process has when it starts


def read_all(data_cfg: dict[str, Any]) -> None:
    for training in (True, False):
        dataset = GaitDataset(data_cfg, training=training)
        dataset.lengths()
        for index in range(len(dataset)):
            dataset.read(index)
        list(dataset.store.damage(lambda _: None))


def data_cfg_of(folder: Path, root: str = "tree") -> dict[str, Any]:
    return {"dataset_root": str(folder / root), "dataset_partition": str(folder / "partition.json")}


def one_pickle(folder: Path) -> None:
    path = folder / "case.pkl"
    frames = as_frames(pickles.load(path), str(path))
    for one in frames if isinstance(frames, list) else [frames]:
        assert one.dtype.kind in "biuf"
        np.array(one)


def partition(folder: Path) -> None:
    read_partition(str(folder / "partition.json"))
    read_all(data_cfg_of(folder))


def packed(folder: Path) -> None:
    read_all(data_cfg_of(folder, "store"))


def config(folder: Path) -> None:
    settings = load_config(folder / "case.yaml")
    findings = preflight(settings, run_batch=False, output=folder / "output")
    assert all(str(finding) for finding in findings)


def protocol(folder: Path) -> None:
    find_protocol("evaluate_indoor_dataset", "CASIA-B", False, str(folder / "case.yaml"))


@functools.cache
def _settings(root: Path, hint: str | int) -> Any:
    return tiny_config(root, trainer_cfg__restore_hint=hint, optimizer_cfg={"solver": "Adam", "lr": 0.01})


def _train(folder: Path, hint: str | int = 0) -> None:
    """Starts where the file says, resuming without a hint, and takes a step."""
    settings = _settings(folder.parent, hint)
    trainer = Trainer(settings, folder, device=torch.device("cpu"), resume="no" if hint else "auto")
    trainer.train_step(next(trainer.batches()))


def checkpoint(folder: Path) -> None:
    path = folder / "checkpoints" / "tiny-00003.pt"
    state = load_checkpoint(path)
    model = TinyNet({"model_cfg": {"model": "TinyNet"}}, training=False)
    restore_weights(model, state, path, model_cfg={"model": "TinyNet"})
    converted = folder / "case.safetensors"
    converted.unlink(missing_ok=True)
    convert_checkpoint(path, converted)
    load_checkpoint(converted)
    _train(folder)
    _train(folder, str(path))


def safetensors(folder: Path) -> None:
    path = folder / "case.safetensors"
    load_checkpoint(path)
    _train(folder, str(path))


def npz(folder: Path) -> None:
    path = folder / "case.npz"
    read_npz(path.read_bytes(), str(path))


def archive(folder: Path) -> None:
    [path] = folder.glob("case.*")
    opened = open_archive(str(path))
    try:
        for members in opened.folders.values():
            for member in members.values():
                with contextlib.suppress(OSError):  # of one frame, which is reported and left out
                    opened.read(member)
    finally:
        opened.close()


CASES: dict[str, Callable[[Path], None]] = {
    "pickle": one_pickle,
    "partition": partition,
    "packed": packed,
    "config": config,
    "protocol": protocol,
    "checkpoint": checkpoint,
    "safetensors": safetensors,
    "npz": npz,
    "archive": archive,
}


def attempt(kind: str, folder: Path) -> dict[str, Any]:
    before = time.process_time()
    outcome: dict[str, Any] = {"type": "", "message": ""}
    try:
        CASES[kind](folder)
    except Exception as error:  # noqa: BLE001 - which it is, the test judges
        where = "".join(traceback.format_exception(error)[-6:])
        outcome = {"type": type(error).__name__, "message": str(error), "mistake": isinstance(error, ValueError)}
        outcome["where"] = where
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**outcome, "seconds": time.process_time() - before, "peak": peak}


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    answers, sys.stdout = sys.stdout, io.StringIO()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPARE, size + SPARE))
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        kind, folder = line.rstrip("\n").split(" ", 1)
        answers.write(json.dumps(attempt(kind, Path(folder))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
