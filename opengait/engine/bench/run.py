"""`opengait bench`: a config's iteration, or every network, on this machine."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from opengait.config import Config, load_config
from opengait.data.batch import Batch
from opengait.engine.bench.ceilings import Ceilings, machine, median_seconds
from opengait.engine.bench.data import write_data
from opengait.engine.bench.iteration import Cost, as_trained, compute_seconds, first_batch, take_apart, twice
from opengait.engine.distributed import choose_device
from opengait.engine.evaluator import Evaluator
from opengait.engine.precision import Precision, has_fast_bf16
from opengait.engine.resident import auto_obstacle
from opengait.engine.trainer import Trainer
from opengait.plugins import load_plugins

DEMO = "configs/gaitset/gaitset_demo.yaml"
NO_DATA = "your_path"
# A recipe for each network that has one; what is not here is measured with a config of its own.
RECIPES = {
    "Baseline": "configs/gaitbase/gaitbase_da_casiab.yaml",
    "DeepGaitV2": "configs/deepgaitv2/DeepGaitV2_casiab.yaml",
    "GaitEdge": "configs/gaitedge/phase2_gaitedge.yaml",
    "GaitGL": "configs/gaitgl/gaitgl.yaml",
    "GaitPart": "configs/gaitpart/gaitpart.yaml",
    "GaitSet": "configs/gaitset/gaitset.yaml",
    "GaitSSB_Finetune": "configs/gaitssb/gaitssb_finetune_casiab.yaml",
    "GaitSSB_Pretrain": "configs/gaitssb/gaitssb_pretrain.yaml",
    "GLN": "configs/gln/gln_phase1.yaml",
    "Segmentation": "configs/gaitedge/phase1_seg.yaml",
    "SMPLGait": "configs/smplgait/smplgait.yaml",
}
SHORTEST = 5  # walks that can be generated
SMALL = {"batch_size": [2, 2], "frames_num_fixed": 10, "frames_num_min": 9, "frames_num_max": 10}


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        generated: the data are generated walkers.
        sequences, frames: of a batch.
        workers, cores: of the loader; processors that this process may use.
        precision: what the forward pass computes in.
        parts: cost of each part of an iteration, one after the other.
        whole: seconds of such an iteration by one clock.
        trained, waited: seconds of an iteration as training does it, and of waiting for its batch.
        compute: seconds of transform, forward, loss and backward by variant: 'as it is', 'bf16', 'half the batch',
            'twice the batch'; those that can be run.
        testing: frames a second in testing.
        could_stay: the training frames are read by a loader, and could be kept in the device's memory.
    """

    model: str
    machine: Mapping[str, Any]
    ceilings: Ceilings
    generated: bool
    sequences: int
    frames: int
    workers: int
    cores: int
    precision: str
    parts: Mapping[str, Cost]
    whole: float
    trained: float
    waited: float
    compute: Mapping[str, float]
    testing: float
    could_stay: bool

    @property
    def slowest(self) -> str:
        """The part with the most seconds; reading counts as far as training waits for it."""
        waiting = {"read", "collate"} if self.workers and self.waited < 0.05 * self.trained else set()
        return max((part for part in self.parts if part not in waiting), key=lambda part: self.parts[part].seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self) | {"slowest": self.slowest}


@dataclass(frozen=True)
class Speed:
    """Frames a second of a network.

    Attributes:
        batch: sequences x frames of the training batch.
    """

    model: str
    parameters: int
    batch: str
    training: float
    testing: float


def bench(config: Config, *, generated: bool | None = None, device: str = "auto", iterations: int = 10) -> Bench:
    """Measures a resolved config's training iteration and test; writes nothing but temporary files.

    Args:
        generated: on generated walkers; None: where the config names no data (`dataset_root: your_path`).

    Raises:
        ValueError: fewer than one iteration; what is wrong with config or data.
    """
    if iterations < 1:
        raise ValueError(f"iterations {iterations}: at least 1 was expected")
    chosen = choose_device(device)
    if generated is None:
        generated = config["data_cfg"]["dataset_root"] == NO_DATA
    tree = config.to_dict()
    load_plugins(tree.get("plugins") or ())
    with _workplace(tree, generated) as (training, testing, folder):
        trainer = _trainer(training, folder, chosen)
        parts, whole = take_apart(trainer, iterations)
        trained, waited = as_trained(trainer, iterations)
        batch = first_batch(trainer)
        return Bench(
            model=tree["model_cfg"]["model"],
            machine=machine(chosen),
            ceilings=Ceilings.of(chosen),
            generated=generated,
            sequences=len(batch),
            frames=batch.total_frames,
            workers=training["data_cfg"].get("num_workers", 0),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            precision=trainer.precision.name,
            parts=parts,
            whole=whole,
            trained=trained,
            waited=waited,
            compute=_variants(trainer, batch),
            testing=_testing_speed(testing, folder, trainer, iterations),
            could_stay=_could_stay(trainer),
        )


def bench_models(*, device: str = "auto", iterations: int = 3) -> Iterator[Speed]:
    """Frames a second of every network that comes with a recipe, full width, a batch of few short walks."""
    chosen = choose_device(device)
    for name, recipe in RECIPES.items():
        tree = load_config(recipe, {"trainer_cfg": {"sampler": SMALL}}).to_dict()
        tree["data_cfg"]["num_workers"] = 0
        with _workplace(tree, generated=True) as (training, testing, folder):
            trainer = _trainer(training, folder, chosen)
            batch = first_batch(trainer)
            step = median_seconds(partial(trainer.train_step, batch), chosen, iterations)
            yield Speed(
                name,
                sum(parameter.numel() for parameter in trainer.model.parameters()),
                f"{len(batch)} x {batch.total_frames // len(batch)}",
                batch.total_frames / step,
                _testing_speed(testing, folder, trainer, iterations),
            )


def _trainer(config: Config, folder: Path, device: torch.device) -> Trainer:
    trainer = Trainer(config, folder, device=device)
    # Iterations here are not those of the run: a schedule with a number of steps would come to its end.
    trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda _: 1.0)
    return trainer


@contextlib.contextmanager
def _workplace(tree: dict[str, Any], generated: bool) -> Iterator[tuple[Config, Config, Path]]:
    """A config to train with and one to test with, without checkpoints of other runs, and a temporary folder."""
    tree["trainer_cfg"] |= {"restore_hint": 0, "with_test": False, "accumulate": 1}
    train_data, test_data = tree["data_cfg"], tree["data_cfg"]
    with tempfile.TemporaryDirectory(prefix="opengait-bench-") as name:
        folder = Path(name)
        if generated:
            fixed = max(SHORTEST, tree["trainer_cfg"]["sampler"].get("frames_num_fixed") or 30)
            frames = (fixed, fixed + 10)
            train_data = train_data | write_data(tree, folder / "walkers", "trainer_cfg", frames)
            test_data = test_data | write_data(tree, folder / "walkers", "evaluator_cfg", frames)
        yield (
            Config.from_dict(tree | {"data_cfg": train_data}),
            Config.from_dict(tree | {"data_cfg": test_data}),
            folder,
        )


def _could_stay(trainer: Trainer) -> bool:
    given = trainer.config["data_cfg"], trainer.dataset, trainer.transforms, trainer.model, trainer.device
    return trainer.resident is None and auto_obstacle(*given) is None


def _variants(trainer: Trainer, batch: Batch) -> dict[str, float]:
    found = {"as it is": compute_seconds(trainer, batch, trainer.precision)}
    if trainer.precision.name == "fp32" and has_fast_bf16(trainer.device):
        found["bf16"] = compute_seconds(trainer, batch, Precision("bf16", trainer.device, training=True))
    if len(batch) % 4 == 0 and trainer.cfg["sampler"].get("type") == "TripletSampler":
        found["half the batch"] = compute_seconds(trainer, batch.split(2)[0], trainer.precision)
        if trainer.device.type == "cpu" or _free_share(trainer.device) > 0.6:
            found["twice the batch"] = compute_seconds(trainer, twice(batch), trainer.precision)
    return found


def _free_share(device: torch.device) -> float:
    """Of a GPU's memory, beside the highest that was in use."""
    total = torch.cuda.get_device_properties(device).total_memory
    return 1 - torch.cuda.max_memory_allocated(device) / total


def _testing_speed(config: Config, folder: Path, trainer: Trainer, turns: int) -> float:
    evaluator = Evaluator(config, folder, device=trainer.device)
    frames = int(evaluator.dataset.lengths().sum())
    return frames / median_seconds(lambda: evaluator.embed(trainer.model), trainer.device, min(turns, 3))
