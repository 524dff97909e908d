"""A test and a training run in a process whose address space, or whose GPU, is limited; importable and a program.

`python memory_child.py ROOT DEVICE` prints what became of each as JSON.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_tiny import TinyNet, tiny_config

from opengait.engine.evaluator import Evaluator
from opengait.engine.randomness import seed_everything
from opengait.engine.trainer import Trainer
from opengait.modeling.build import build_model
from opengait.modeling.inputs import Inputs
from opengait.registry import MODELS

MIB = 1 << 20
PER_FRAME = 4 * MIB


class Hungry(TinyNet):
    """Needs four MiB a frame beside what it computes."""

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        frames = inputs.ipts[0].shape[0] * inputs.ipts[0].shape[1]
        room = torch.ones(frames * PER_FRAME, dtype=torch.uint8, device=inputs.ipts[0].device)
        output = super().forward(inputs)
        del room
        return output


if "Hungry" not in MODELS:
    MODELS.register(Hungry)


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def limit(device: torch.device, spare: int) -> Callable[[], None]:
    """Lets this process take so many bytes more; gives what lifts the limit again."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + spare) / total, device)
        return lambda: torch.cuda.set_per_process_memory_fraction(1.0, device)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def embedded(root: Path, device: torch.device, spare: int | None, frames: int) -> tuple[Any, list[str], str]:
    """Embeddings (or an error's text) of the test set with a limit, what was logged, and the kind of error."""
    config = tiny_config(root, model_cfg__model="Hungry", evaluator_cfg__frames_per_batch=frames)
    seed_everything(3)
    model = build_model(config["model_cfg"]).to(device)
    evaluator = Evaluator(config, root / "test", device=device)
    handler = Lines()
    logger = logging.getLogger("opengait.engine.memory")
    logger.addHandler(handler)
    lift = limit(device, spare) if spare is not None else lambda: None
    try:
        features = evaluator.embed(model) or {}
        again = evaluator.embed(model) or {}
        np.testing.assert_array_equal(again["embeddings"], features["embeddings"])
        return features["embeddings"], handler.lines, ""
    except ValueError as error:
        return str(error), handler.lines, type(error).__name__
    finally:
        lift()
        logger.removeHandler(handler)


def trained(root: Path, device: torch.device, spare: int) -> tuple[str, str]:
    config = tiny_config(root, model_cfg__model="Hungry", trainer_cfg__total_iter=2)
    trainer = Trainer(config, root / "train", device=device)
    lift = limit(device, spare)
    try:
        trainer.fit()
        return "", ""
    except ValueError as error:
        return str(error), type(error).__name__
    finally:
        lift()


def main(root: Path, device: torch.device) -> None:
    torch.set_num_threads(1)
    free, _, _ = embedded(root, device, None, 8)
    halved, lines, _ = embedded(root, device, 150 * MIB, 64)  # 256 MiB are asked for, half of that is there
    alone, alone_lines, alone_kind = embedded(root, device, 10 * MIB, 64)
    said, kind = trained(root, device, 50 * MIB)
    result = {
        "difference": float(np.abs(halved - free).max()),
        "scale": float(np.abs(free).max()),
        "lines": lines,
        "alone": alone,
        "alone_kind": alone_kind,
        "alone_lines": alone_lines,
        "trained": said,
        "trained_kind": kind,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), torch.device(sys.argv[2]))
