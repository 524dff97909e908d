"""Steps of which the host learns one batch later whether they counted, so that it never waits for an idle device.

Whether loss and gradients were finite is known to the device first. There the step is queued at once: fused optimisers
leave weights and moments as they are where a number in the device's memory says so. That number is sent to the host,
which meanwhile queues forward and backward of the next batch and reads it before that batch's step. By then the device
has it, or has the next batch to go on with.

Where the step did not count, all that was queued is taken back, and both batches are done again, the first by
`Trainer.train_step`: what becomes of a batch that is not finite, or of an overflow in fp16, happens there alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from opengait.data.batch import Batch
from opengait.engine.distributed import world_size

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer


def deferrable(trainer: Trainer) -> bool:
    """Whether a step of this run can be left out by the device alone, and done again as if nothing had been queued."""
    optimizer = trainer.optimizer
    return (
        type(optimizer) in (SGD, Adam, AdamW)
        and all(group.get("fused") for group in optimizer.param_groups)
        # A network may change weights or rates there, which nothing takes back.
        and not trainer.model.overrides("before_iteration")
        and not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
        # These read from the device in each step.
        and trainer.shards is None
        and not (trainer.precision.growth_skips and trainer.precision.scaler is not None)
    )


def has_moments(optimizer: Optimizer) -> bool:
    """Whether every parameter with a gradient has what a step keeps of it.

    A masked step would make it nevertheless: zeros in Adam, whatever lies in memory in SGD.
    """
    for group in optimizer.param_groups:
        name = "momentum_buffer" if type(optimizer) is SGD else "exp_avg"
        if group.get("momentum", 1) and any(
            parameter.grad is not None and optimizer.state.get(parameter, {}).get(name) is None
            for parameter in group["params"]
        ):
            return False
    return True


class KeptBuffers:
    """A network's buffers as they were: a batch that is not finite spoils batch norm's in the forward pass already."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def remember(self, model: nn.Module) -> None:
        """Keeps the buffers as they are now."""
        buffers = list(model.buffers())
        if len(self._kept) != len(buffers):
            self._kept = [buffer.detach().clone() for buffer in buffers]
        elif buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._kept, buffers)

    def put_back(self, model: nn.Module) -> None:
        """Makes them what they were when they were remembered."""
        with torch.no_grad():
            for buffer, kept in zip(model.buffers(), self._kept, strict=True):
                buffer.copy_(kept)


class Sent:
    """A few numbers on their way from the device to the host."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._arrived = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            # One that sleeps: the loader's workers can use the core.
            self._arrived = torch.cuda.Event(blocking=True)
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The numbers, once the device has got that far."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return list(self._values.tolist())


@dataclass
class Deferred:
    """A step that is queued, and what it takes to undo what its iteration has changed beside weights and moments."""

    step: Step
    buffers: KeptBuffers
    scaler: list[Tensor]
    outcome: Sent

    @classmethod
    def queue(cls, trainer: Trainer, step: Step) -> Deferred:
        """Queues the step of an iteration that has begun."""
        not_finite, stop = step.flags
        scaler = trainer.precision.scaler_state()
        skipped = trainer.precision.step_unless(not_finite, trainer.optimizer)
        # Images are shown where a hook is due, and are large.
        step.visual_summary = {}
        return cls(step, trainer.kept, scaler, Sent(torch.stack([skipped, stop])))

    def take_back(self, trainer: Trainer) -> None:
        """Everything as it was before the iteration began, where its step did not count."""
        self.buffers.put_back(trainer.model)
        trainer.precision.restore_scaler(self.scaler)


def steps(trainer: Trainer, batches: Iterator[Batch]) -> Iterator[Step]:
    """Trains on batches that have no end; what became of each.

    In each the host has waited for the device unless `trainer.defers`; what comes out is the same. Then forward and
    backward of the next batch may be queued already where no hook is due.
    """
    deferred: Deferred | None = None
    while True:
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        stop = 0.0
        if deferred is None:
            step = trainer.begin(batch)
        else:
            # A full queue holds up the host as well, for what other processes have not sent.
            with trainer.waiting():
                step = trainer.begin(batch, ahead=True)
                skipped, stop = deferred.outcome.read()
            if skipped:
                deferred.take_back(trainer)
                again = trainer.train_step(deferred.step.batch)
                again.data_seconds = deferred.step.data_seconds
                yield again
                step = trainer.begin(batch)
            else:
                trainer.count(deferred.step)
                yield deferred.step
        step.data_seconds = waited
        deferred = None if stop or _is_waited_for(trainer) else Deferred.queue(trainer, step)
        if deferred is None:
            trainer.finish(step)
            yield step


def _is_waited_for(trainer: Trainer) -> bool:
    """Whether the step of the iteration that has begun is taken after its outcome is known; on all processes alike."""
    iteration = trainer.iteration + 1
    return (
        not trainer.defers
        or iteration >= trainer.total_iter
        # Several processes agree on it by the message of the iteration before.
        or (world_size() == 1 and bool(trainer.requested_stop))
        or any(hook.due(trainer, iteration) for hook in trainer.hooks)
        or not has_moments(trainer.optimizer)
    )
