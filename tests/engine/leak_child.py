"""Memory of a process over many rounds of loading, training, logging and testing; a program for the tests of leaks.

`python leak_child.py ROOT ROUNDS KIND...` goes through so many rounds of each kind and prints as JSON the bytes that
were in use after every sixth of them. The kind `larger`, which has to be the last, reads a store that does not fit into
memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_tiny import tiny_config
from memory_child import Lines

from opengait.data.dataset import GaitDataset
from opengait.data.loader import test_loader as loader_for_tests
from opengait.data.loader import train_loader
from opengait.engine.evaluator import Evaluator
from opengait.engine.logs import logging_to
from opengait.engine.trainer import Trainer
from opengait.modeling.build import build_model

READINGS = 6
CPU = torch.device("cpu")
# What is in use of the C library's memory: all that Python (with PYTHONMALLOC=malloc), NumPy and torch have taken.
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class MallInfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


def in_use() -> int:
    """Bytes that were allocated and not given back."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def loading(root: Path, workers: int = 0) -> Iterator[None]:
    """Training batches."""
    config = tiny_config(root)
    dataset = GaitDataset(config["data_cfg"], training=True)
    loader = train_loader(dataset, config["trainer_cfg"]["sampler"], seed=0, num_workers=workers)
    for _ in loader:
        yield
    raise AssertionError("training goes on without end")


def training(root: Path) -> Iterator[None]:
    """Iterations of a run that writes log and scalars every other time, and images and a checkpoint at times."""
    often = {"trainer_cfg__log_iter": 2, "trainer_cfg__image_iter": 4, "trainer_cfg__save_iter": 5}
    config = tiny_config(root, trainer_cfg__total_iter=10**6, trainer_cfg__keep_last=2, **often)
    trainer = Trainer(config, root / "run", device=CPU)
    with logging_to(root / "run", log_to_file=True):
        trainer.call("start")
        for batch in trainer.batches():
            trainer.call("after_step", trainer.train_step(batch))
            yield


def testing(root: Path) -> Iterator[None]:
    """Whole tests: embedding, ranking, telling, writing."""
    config = tiny_config(root)
    evaluator, model = Evaluator(config, root / "run", device=CPU), build_model(config["model_cfg"])
    with logging_to(root / "run", log_to_file=True):
        while True:
            evaluator.run(model, 1)
            yield


def passes(root: Path) -> Iterator[None]:
    """Passes over the test set."""
    config = tiny_config(root)
    loader = loader_for_tests(
        GaitDataset(config["data_cfg"], training=False), config["evaluator_cfg"]["sampler"], frames_per_batch=8
    )
    while True:
        for _ in loader:
            continue
        yield


KINDS: dict[str, Callable[[Path], Iterator[None]]] = {
    "loader": loading,
    "workers": lambda root: loading(root, workers=2),
    "trainer": training,
    "evaluator": testing,
    "passes": passes,
}


def measure(kind: str, root: Path, rounds: int) -> dict[str, list[int]]:
    going = KINDS[kind](root)
    each = max(rounds // READINGS, 1)
    for _ in range(each):  # what is made once
        next(going)
    found: dict[str, list[int]] = {"bytes": [], "descriptors": []}
    for _ in range(READINGS):
        for _ in range(each):
            next(going)
        found["bytes"].append(in_use())
        found["descriptors"].append(descriptors())
    going.close()  # type: ignore[attr-defined]
    return found


def larger_than_memory(root: Path) -> dict[str, Any]:
    """Training batches and a test of a store that is larger than what the process may allocate."""
    given = json.loads((root / "larger.json").read_text())
    config, spare = given["config"], given["spare"]
    handler = Lines()
    logging.getLogger("opengait").addHandler(handler)
    # Of what the process has for itself; files that it maps are the system's, which takes their pages back at need.
    [data] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
    limit = (int(data.split()[1]) << 10) + spare
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    dataset = GaitDataset(config["data_cfg"], training=True)
    evaluator, model = Evaluator(config, root / "run", device=CPU), build_model(config["model_cfg"])
    loader = train_loader(dataset, config["trainer_cfg"]["sampler"], seed=0, end_iteration=100)
    trained = sum(batch.total_frames for batch in loader)
    features = (evaluator.embed(model) or {})["embeddings"]
    try:
        holds = not np.ones(spare, dtype=np.uint8).all()
    except MemoryError:
        holds = True
    return {"trained": trained, "tested": features.shape[:2], "said": handler.lines, "limit_holds": holds}


def main(root: Path, rounds: int, kinds: list[str]) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        result = {kind: larger_than_memory(root) if kind == "larger" else measure(kind, root, rounds) for kind in kinds}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
