"""The guard against losses and gradients that are not finite."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opengait.engine.distributed import is_main
from opengait.engine.hooks.base import Hook

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer

logger = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class NonFiniteHook(Hook):
    """Names what was not finite in a skipped step, and ends the run after more than `max_bad_steps` in a row.

    The step itself has been skipped already: weights, moments and batch-norm statistics are those before it. An
    overflow of fp16 is the scaler's business as long as the scale of the loss can get smaller; from 1 down it counts as
    any other gradient that is not finite.
    """

    def __init__(self, max_bad_steps: int) -> None:
        self.max_bad_steps = max_bad_steps
        self.in_a_row = 0
        self.total = 0

    def due(self, trainer: Trainer, iteration: int) -> bool:
        return False

    def after_step(self, trainer: Trainer, step: Step) -> None:
        scale = trainer.precision.scale if step.overflow else None  # reading it waits for the device
        hopeless = scale is not None and scale < 1
        if not step.bad and not hopeless:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.total += 1
        cause = _cause(trainer, step) + (f", with the loss scaled by {scale:g}" if hopeless else "")
        if cause or is_main():
            logger.warning(
                "step after iteration %d skipped, %s; batch %d with %s; %d skipped in a row, %d in all",
                trainer.iteration,
                cause or "another process has a loss that is not finite",
                step.batch.iteration,
                _sequences(trainer, step),
                self.in_a_row,
                self.total,
            )
        if self.in_a_row > self.max_bad_steps:
            saved = trainer.last_checkpoint
            raise NonFiniteError(
                f"{self.in_a_row} steps in a row after iteration {trainer.iteration} were not finite "
                f"(trainer_cfg.max_bad_steps is {self.max_bad_steps}); last: {cause or 'on another process'}. "
                f"Last good checkpoint: {saved or 'none yet'}. "
                "A lower learning rate, clip_grad_norm or precision: fp32 may help"
            )


def _cause(trainer: Trainer, step: Step) -> str:
    """Which losses were not finite, the first parameter whose gradient was not, and the first that is not itself."""
    found = []
    losses = [
        name.removeprefix("scalar/")
        for name, value in step.info.items()
        if name.startswith("scalar/") and not _finite(torch.as_tensor(value).float())
    ]
    if losses:
        found.append(", ".join(losses))
    elif not _finite(step.loss):
        found.append(f"the sum of the losses ({float(step.loss)})")
    named = list(trainer.model.named_parameters())
    gradients = (name for name, parameter in named if parameter.grad is not None and not _finite(parameter.grad))
    if first := next(gradients, ""):
        found.append(f"the gradient of {first}{' first' if found else ''}")
    if first := next((name for name, parameter in named if not _finite(parameter.detach())), ""):
        found.append(f"the weights {first} themselves")
    return f"not finite: {'; '.join(found)}" if found else ""


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _sequences(trainer: Trainer, step: Step) -> str:
    """The subjects of the batch, each with its sequences."""
    of_subject: dict[str, list[str]] = {}
    for index in step.batch.indices.tolist():
        subject, _, sequence = trainer.sequence_name(index).partition("/")
        of_subject.setdefault(subject, []).append(sequence)
    return ", ".join(f"{subject} ({', '.join(sequences)})" for subject, sequences in of_subject.items())
