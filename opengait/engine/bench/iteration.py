"""One training iteration taken apart: the clock of each part, and its counted work."""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from opengait.data.batch import Batch
from opengait.data.loader import BatchLoader, train_loader
from opengait.engine.bench.ceilings import median_seconds, synchronise
from opengait.engine.bench.counting import Counter
from opengait.engine.deferred import steps
from opengait.engine.precision import Precision
from opengait.engine.trainer import Trainer

READING = ("read", "collate")
PARTS = (*READING, "copy", "transform", "forward", "loss", "backward", "optimiser")

Part = Callable[[str], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Cost:
    """Of one part of an iteration.

    Attributes:
        seconds: median over the iterations.
        flops, bytes: of one iteration, counted; 0 for reading, which is not counted.
    """

    seconds: float
    flops: int = 0
    bytes: int = 0


class Clock:
    """Seconds by part, one list entry an iteration; the device is waited for at both ends of a part."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        synchronise(self.device)
        began = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


def take_apart(trainer: Trainer, iterations: int, warm: int = 2) -> tuple[dict[str, Cost], float]:
    """What each part costs when they follow one another, and the median seconds of the whole.

    read: opening the sequences (of a tree: finding the frames in the pickles); collate: copying the chosen frames into
    the batch, which fetches them from the disk or its cache; optimiser: everything after the gradients are there.
    """
    clock = Clock(trainer.device)
    dataset = copy.copy(trainer.dataset)
    opened = dataset.open

    def watched(index: int) -> list[Any]:
        with clock("read"):
            return opened(index)

    dataset.open = watched  # type: ignore[method-assign]
    batches = iter(_loader(trainer, dataset, warm + iterations))
    taken: list[dict[str, float]] = []
    wholes: list[float] = []
    for _ in range(warm + iterations):
        clock.seconds = {}
        began = time.perf_counter()
        with clock("collate"):
            batch = next(batches)
        clock.seconds["collate"] -= clock.seconds.get("read", 0.0)
        step(trainer, batch, clock)
        wholes.append(time.perf_counter() - began)
        taken.append(clock.seconds)
    counted = _counted(trainer, batch)
    costs = {
        part: Cost(statistics.median(one.get(part, 0.0) for one in taken[warm:]), *counted.get(part, (0, 0)))
        for part in PARTS
    }
    return costs, statistics.median(wholes[warm:])


def step(trainer: Trainer, batch: Batch, part: Part) -> None:
    """A trainer's step on a batch, each part within `part(name)`."""
    trainer.optimizer.zero_grad(set_to_none=True)
    with part("copy"):
        batch = batch.to(trainer.device)
    with part("transform"):
        inputs = trainer.model.prepare_inputs(batch, trainer.transforms)
    with part("forward"), trainer.precision.autocast():
        output = trainer.network(inputs)
    with part("loss"):
        loss, _ = trainer.losses(output["training_feat"])
    with part("backward"):
        trainer.precision.backward(loss)
    with part("optimiser"):
        bool(trainer.precision.non_finite(loss, trainer.optimizer))
        trainer.precision.step(trainer.optimizer)


def as_trained(trainer: Trainer, iterations: int, warm: int = 3) -> tuple[float, float]:
    """Median seconds of an iteration as training does it, its loader reading ahead, and of waiting for the batch."""
    wholes, waits = [], []
    batches = trainer.batches()
    results = steps(trainer, batches)
    try:
        for _ in range(warm + iterations):
            began = time.perf_counter()
            waits.append(next(results).data_seconds)
            wholes.append(time.perf_counter() - began)
    finally:
        batches.close()  # type: ignore[attr-defined]
    return statistics.median(wholes[warm:]), statistics.median(waits[warm:])


def compute_seconds(trainer: Trainer, batch: Batch, precision: Precision, turns: int = 3) -> float:
    """Median of forward, losses and backward on a batch."""
    batch = batch.to(trainer.device)

    def work() -> None:
        inputs = trainer.model.prepare_inputs(batch, trainer.transforms)
        with precision.autocast():
            output = trainer.network(inputs)
        loss, _ = trainer.losses(output["training_feat"])
        precision.backward(loss)
        trainer.optimizer.zero_grad(set_to_none=True)

    return median_seconds(work, trainer.device, turns)


def twice(batch: Batch) -> Batch:
    """A batch with every sequence twice."""
    packed = batch.lengths is not None
    return replace(
        batch,
        frames=[torch.cat([one, one], 1 if packed else 0) for one in batch.frames],
        labels=batch.labels.repeat(2),
        types=batch.types * 2,
        views=batch.views * 2,
        lengths=None if batch.lengths is None else batch.lengths.repeat(1, 2),
        indices=batch.indices.repeat(2),
        positions=torch.cat([batch.positions, batch.positions + len(batch)]),
    )


def first_batch(trainer: Trainer) -> Batch:
    """Of training, read in this process."""
    return next(iter(_loader(trainer, trainer.dataset, 1)))


def _loader(trainer: Trainer, dataset: Any, iterations: int) -> BatchLoader:
    transforms = None if trainer.model.transforms_itself else trainer.transforms
    sampler = trainer.cfg["sampler"]
    return train_loader(dataset, sampler, seed=trainer.seed, end_iteration=iterations, transforms=transforms)


def _counted(trainer: Trainer, batch: Batch) -> dict[str, tuple[int, int]]:
    """FLOPs and bytes of each part, of the network as it is before compilation."""
    found: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def count(part: str) -> Iterator[None]:
        with Counter() as counter:
            yield
        found[part] = counter.flops, counter.bytes

    network, trainer.network = trainer.network, trainer.model
    try:
        step(trainer, batch, count)
    finally:
        trainer.network = network
    flops, counted = found["transform"]
    found["transform"] = flops, max(counted, _in_and_out(trainer, batch))
    return found


def _in_and_out(trainer: Trainer, batch: Batch) -> int:
    """Bytes of a batch's frames and of the network's inputs: what any transform moves, also one that is not torch's."""
    batch = batch.to(trainer.device)
    inputs = trainer.model.prepare_inputs(batch, trainer.transforms)
    leaves = [leaf for leaf in [*batch.frames, *tree_leaves(tuple(inputs))] if isinstance(leaf, Tensor)]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)
