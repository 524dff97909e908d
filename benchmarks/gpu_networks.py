"""Training and testing of one network on a device, at the batch size of its recipe: what `gpu_check.py` measures."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from testing import stir

from opengait import build_model, load_config
from opengait.config import Config
from opengait.data.batch import Batch
from opengait.data.packing import PackedWriter
from opengait.engine.bench.ceilings import Ceilings, median_seconds, synchronise
from opengait.engine.bench.counting import Counter
from opengait.engine.bench.iteration import take_apart
from opengait.engine.deferred import steps
from opengait.engine.evaluator import Evaluator
from opengait.engine.trainer import Trainer

RECIPES = {
    "GaitSet": "configs/gaitset/gaitset.yaml",
    "GaitPart": "configs/gaitpart/gaitpart.yaml",
    "GaitGL": "configs/gaitgl/gaitgl.yaml",
    "GaitBase": "configs/gaitbase/gaitbase_da_casiab.yaml",
    "DeepGaitV2": "configs/deepgaitv2/DeepGaitV2_casiab.yaml",
}
TESTING_TARGETS = {"GaitSet": 5.0, "GaitPart": 5.0, "GaitGL": 5.0, "GaitBase": 1.5, "DeepGaitV2": 1.5}
TRAINING_TARGET = 1.05
ROUNDS = 3

CeilingsOf = Callable[[str], Ceilings]


@dataclass(frozen=True)
class Size:
    """Of the data: subjects and sequences each for training, sequences for testing, and frames of each.

    Attributes:
        sampler: what a recipe's sampler is changed to; nothing, for the published batch.
    """

    subjects: int = 74
    each: int = 16
    tested: int = 200
    frames: tuple[int, int] = (20, 120)
    sampler: tuple[tuple[str, Any], ...] = ()


PUBLISHED = Size()
TINY = Size(4, 2, 4, (5, 8), (("batch_size", [2, 2]), ("frames_num_fixed", 4), ("frames_skip_num", 1)))


def write(folder: Path, size: Size) -> dict[str, Any]:
    """A packed store of blobs that swing as legs do; `data_cfg` entries."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64].astype(np.float32)
    train = [f"{number:03d}" for number in range(size.subjects)]
    test = [f"t{number:03d}" for number in range(-(-size.tested // 4))]
    names = [(subject, f"{number:02d}") for subject in train for number in range(size.each)]
    names += [(test[number // 4], f"{number % 4:02d}") for number in range(size.tested)]
    with PackedWriter(folder / "packed", ["silhouettes"]) as writer:
        for subject, kind in names:
            length = int(rng.integers(size.frames[0], size.frames[1] + 1))
            phase = np.sin(np.arange(length, dtype=np.float32) * rng.uniform(0.3, 0.5))[:, None, None]
            wide = rng.uniform(6, 9) + 4 * np.abs(phase) * (y / 64)
            frames = np.where(((x - 32) / wide) ** 2 + ((y - 32) / 30) ** 2 < 1, 255, 0).astype(np.uint8)
            writer.add(subject, kind, "090", [frames])
    partition = {"train": train, "test": test}
    return {"dataset_root": str(folder / "packed"), "dataset_partition": partition, "cache": False}


def config_of(network: str, data_cfg: dict[str, Any], size: Size, resident: bool, workers: int) -> Config:
    """The recipe, on this data."""
    tree = load_config(RECIPES[network]).to_dict()
    tree["data_cfg"] |= data_cfg | {"resident": resident, "num_workers": workers}
    tree["trainer_cfg"] |= {"with_test": False, "restore_hint": 0}
    tree["trainer_cfg"]["sampler"] |= dict(size.sampler)
    return Config.from_dict(tree)


def iterations(trainer: Trainer, batches: Iterator[Batch], seconds: float, most: int) -> float:
    """Seconds of an iteration as training does it: the mean over as many as fit into a time, at least one."""
    done = steps(trainer, batches)
    next(done)  # from here on one batch begins for each that is done
    synchronise(trainer.device)
    began, count = time.perf_counter(), 0
    while not count or (time.perf_counter() - began < seconds and count < most):
        next(done)
        count += 1
    synchronise(trainer.device)
    return (time.perf_counter() - began) / count


def again(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def train(
    network: str, data_cfg: dict[str, Any], size: Size, device: torch.device, seconds: float, ceilings_of: CeilingsOf
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A table row, and where the time of an iteration goes.

    Alone: the same batch again and again, on the device already. With data: as training does it, the packed store
    resident in the device's memory, or read by a loader's workers. The three take turns.
    """
    workers = max(1, min(4, (os.cpu_count() or 1) - 1))
    trainer = Trainer(config_of(network, data_cfg, size, True, workers), Path("output"), device=device)
    resident = trainer.batches()
    kept, trainer.resident = trainer.resident, None
    loader = trainer.batches()
    first = next(loader)  # from now on it reads frames, whatever the trainer has
    trainer.resident = kept
    batch = next(resident).to(device)
    # Of a loader frames come cut already.
    inputs = trainer.transforms(batch), trainer.transforms(first.to(device))
    if not all(torch.equal(*pair) for pair in zip(*inputs, strict=True)):
        raise ArithmeticError(f"{network}: the resident batch is not that of the loader")
    forms = {"alone": again(batch), "resident": resident, "loader": loader}
    share, most = seconds / 2 / (ROUNDS * len(forms)), 1 if size is TINY else 100
    for batches in forms.values():  # algorithms are chosen, memory is taken
        iterations(trainer, batches, min(share, 2.0), min(most, 5))
    rounds = [
        {name: iterations(trainer, batches, share, most) for name, batches in forms.items()} for _ in range(ROUNDS)
    ]
    found = {name: statistics.median(one[name] for one in rounds) for name in forms}
    resident.close()  # type: ignore[attr-defined]
    loader.close()  # type: ignore[attr-defined]
    with Counter() as counter:
        trainer.train_step(batch)
    ceilings = ceilings_of(trainer.precision.name)
    least = ceilings.seconds(counter.flops, counter.bytes)
    row = {
        "network": network,
        "sequences x frames": f"{len(batch)} x {batch.total_frames // len(batch)}",
        "precision": trainer.precision.name,
        "compute alone, ms": f"{1e3 * found['alone']:.2f}",
        "resident, ms": f"{1e3 * found['resident']:.2f}",
        "loader, ms": f"{1e3 * found['loader']:.2f}",
        "resident / alone": f"{found['resident'] / found['alone']:.3f}",
        "loader / alone": f"{found['loader'] / found['alone']:.3f}",
        "target": TRAINING_TARGET,
        "sequences a second": f"{len(batch) / found['resident']:,.0f}",
        "TFLOP": f"{counter.flops / 1e12:.3f}",
        "GB": f"{counter.bytes / 1e9:.2f}",
        "limit": ceilings.limit(counter.flops, counter.bytes),
        "of the roofline, %": f"{100 * least / found['alone']:.0f}",
    }
    trainer.resident = None
    parts, _ = take_apart(trainer, 1 if size is TINY else 3, warm=1)
    return row, {part: 1e3 * cost.seconds for part, cost in parts.items()}


def test(
    network: str, data_cfg: dict[str, Any], size: Size, device: torch.device, seconds: float, ceilings_of: CeilingsOf
) -> dict[str, Any]:
    """A table row: embedding the test sequences in batches under the frame budget, and one sequence a step."""
    config = config_of(network, data_cfg, size, False, 1)
    torch.manual_seed(0)
    model = build_model(config["model_cfg"]).to(device)
    stir(model)
    batched, alone = (Evaluator(config, Path("output"), device=device) for _ in range(2))
    alone.frames_per_batch = 1
    found, expected = ((one.embed(model) or {})["embeddings"] for one in (batched, alone))
    took = median_seconds(lambda: alone.embed(model), device, 1, 0)
    turns = int(max(1, min(5, seconds / 4 / took)))
    one_by_one = median_seconds(lambda: alone.embed(model), device, turns, 0)
    together = median_seconds(lambda: batched.embed(model), device, turns, 1)
    frames = int(batched.dataset.lengths().sum())
    flops, moved = counted(batched, model)
    ceilings = ceilings_of(batched.precision.name)
    return {
        "network": network,
        "sequences": len(batched.dataset),
        "frames": frames,
        "precision": batched.precision.name,
        "one at a time, frames a second": f"{frames / one_by_one:,.0f}",
        "batched": f"{frames / together:,.0f}",
        "ratio": f"{one_by_one / together:.2f}",
        "target": TESTING_TARGETS[network],
        "TFLOP": f"{flops / 1e12:.3f}",
        "GB": f"{moved / 1e9:.2f}",
        "limit": ceilings.limit(flops, moved),
        "of the roofline, %": f"{100 * ceilings.seconds(flops, moved) / together:.0f}",
        "largest difference": f"{np.abs(found - expected).max() / np.abs(expected).max():.0e}",
    }


def counted(evaluator: Evaluator, model: torch.nn.Module) -> tuple[int, int]:
    """FLOPs and bytes of a whole test."""
    with Counter() as counter:
        evaluator.embed(model)
    return counter.flops, counter.bytes
