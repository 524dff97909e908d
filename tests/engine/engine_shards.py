"""Classifiers whose classes are spread over processes: jobs that run in one process and in several."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opengait.config import load_config
from opengait.engine.class_shards import ClassShards
from opengait.engine.distributed import barrier, rank, world_size
from opengait.engine.hooks import Hook
from opengait.engine.precision import Precision
from opengait.engine.sharded_loss import ShardedLoss
from opengait.engine.sync_batchnorm import convert_sync_batchnorm
from opengait.engine.trainer import Trainer
from opengait.modeling.losses.cross_entropy import CrossEntropyLoss
from opengait.modeling.modules import SeparateBNNecks, SeparateClassifiers
from opengait.modeling.modules.heads import PartClassifier

CPU = torch.device("cpu")
PARTS, CHANNELS = 3, 4


class OneHead(nn.Module):
    """A classifier of parts and nothing else, in float64."""

    def __init__(self, classes: int, necks: dict[str, Any] | None) -> None:
        super().__init__()
        torch.manual_seed(classes)
        self.head: PartClassifier = (
            SeparateClassifiers(PARTS, CHANNELS, classes)
            if necks is None
            else SeparateBNNecks(PARTS, CHANNELS, classes, **necks)
        )
        self.double()

    def forward(self, x: Tensor) -> Any:
        result = self.head(x)
        return result[1] if isinstance(result, tuple) else result


def spread(network: nn.Module, optimizer: torch.optim.Optimizer) -> ClassShards | None:
    return ClassShards(network, optimizer) if world_size() > 1 else None


def head(classes: int, necks: dict[str, Any] | None, loss: dict[str, Any], rows: int, ties: bool) -> dict[str, Any]:
    """Loss and gradients for rows dealt to the processes in turn; those of the whole batch in one process."""
    network = convert_sync_batchnorm(OneHead(classes, necks))
    x = torch.randn(rows, CHANNELS, PARTS, dtype=torch.float64)
    labels = torch.randint(classes, (rows,))
    if ties:  # of the first class with the last, and of all classes
        with torch.no_grad():
            network.head.fc_bin[:, :, -1] = network.head.fc_bin[:, :, 0]
        x[0] = 0
        labels[:3] = torch.tensor([0, classes - 1, 0])
    shards = spread(network, torch.optim.SGD(network.parameters(), lr=0.1))
    own = slice(rank(), None, world_size())
    x, labels = x[own].requires_grad_(), labels[own]
    value, info = ShardedLoss(CrossEntropyLoss(**loss))(logits=network(x), labels=labels)
    (3 * value).backward()
    gradient = network.head.fc_bin.grad
    assert gradient is not None
    assert x.grad is not None
    return {
        "loss": value.detach(),
        "info": info,
        "features": x.grad / world_size(),
        "weight": gradient,
        "held": 0 if shards is None else network.head.fc_bin.shape[2],
    }


def overflow() -> dict[str, Any]:
    """fp16 steps with a gradient that is infinite on the last process only, then with a finite one."""
    network = OneHead(5, None)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    shards = spread(network, optimizer)
    precision = Precision("fp16", CPU, training=True, clip_grad_norm=0.5, scaler_options={"init_scale": 8.0})
    precision.shards = shards
    before = network.head.fc_bin.detach().clone()
    counted, scales = [], []
    for factor in (math.inf if rank() == world_size() - 1 else 1.0, 1.0):
        optimizer.zero_grad()
        precision.backward(network.head.fc_bin.sum() * factor)
        counted.append(precision.step(optimizer))
        scales.append(precision.state_dict()["scale"])
    return {"counted": counted, "scales": scales, "moved": before - network.head.fc_bin.detach()}


class Watch(Hook):
    """What each step left: losses, and the shapes of the classifier, its gradient and moments."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.classes: set[int] = set()

    def after_step(self, trainer: Trainer, step: Any) -> None:
        parameter = trainer.model.BNNecks.fc_bin
        kept = [value for value in trainer.optimizer.state[parameter].values() if value.dim()]
        self.classes |= {value.shape[2] for value in (parameter, parameter.grad, *kept)}
        self.losses.append({name: float(value.mean()) for name, value in step.info.items()})


def train_classes(config: str, output: str, start: str | None = None) -> dict[str, Any]:
    """A run to its end, from a checkpoint if given; the checkpoints hold what it led to."""
    folder = Path(output)
    if start is not None and rank() == 0:
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copy(start, folder / "checkpoints")
    barrier()
    trainer = Trainer(load_config(config), folder, device=CPU, resume="auto" if start else "no")
    watch = Watch()
    trainer.hooks.insert(0, watch)
    result = trainer.fit()
    return {
        "losses": watch.losses,
        "classes": sorted(watch.classes),
        "figures": result.figures,
        "iteration": result.iteration,
    }


def guard(config: str, output: str) -> dict[str, Any]:
    """One step with a gradient that is infinite for the classes of the last process only, then a good one."""
    trainer = Trainer(load_config(config), Path(output), device=CPU)
    batches = trainer.batches()
    parameter = trainer.model.BNNecks.fc_bin
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    poison = parameter.register_hook(lambda gradient: gradient * (math.inf if rank() == world_size() - 1 else 1))
    bad = trainer.train_step(next(batches))
    poison.remove()
    unchanged = all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    good = trainer.train_step(next(batches))
    return {"bad": [bad.bad, good.bad], "counted": [bad.counted, good.counted], "unchanged": unchanged}
