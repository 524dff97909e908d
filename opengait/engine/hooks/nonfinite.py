"""The guard against losses and gradients that are not finite."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from opengait.engine.distributed import is_main
from opengait.engine.hooks.base import Hook

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer

logger = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class NonFiniteHook(Hook):
    """Names what was not finite in a skipped step, and ends the run after more than `max_bad_steps` in a row.

    The step itself has been skipped already: weights, moments and batch-norm statistics are those before it.
    """

    def __init__(self, max_bad_steps: int) -> None:
        self.max_bad_steps = max_bad_steps
        self.in_a_row = 0
        self.total = 0

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if not step.bad:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.total += 1
        cause = self._cause(trainer, step)
        if cause or is_main():
            sequences = ", ".join(trainer.sequence_name(index) for index in step.batch.indices.tolist())
            logger.warning(
                "step after iteration %d skipped, %s; batch %d with %s",
                trainer.iteration,
                cause or "another process has a loss that is not finite",
                step.batch.iteration,
                sequences,
            )
        if self.in_a_row > self.max_bad_steps:
            saved = trainer.last_checkpoint
            raise NonFiniteError(
                f"{self.in_a_row} steps in a row after iteration {trainer.iteration} were not finite "
                f"(trainer_cfg.max_bad_steps is {self.max_bad_steps}); last: {cause or 'on another process'}. "
                f"Last good checkpoint: {saved or 'none yet'}. "
                "A lower learning rate, clip_grad_norm or precision: fp32 may help"
            )

    def _cause(self, trainer: Trainer, step: Step) -> str:
        losses = [
            name.removeprefix("scalar/")
            for name, value in step.info.items()
            if name.startswith("scalar/") and not bool(torch.isfinite(torch.as_tensor(value).float()).all())
        ]
        if losses:
            return f"not finite: {', '.join(losses)}"
        if not bool(torch.isfinite(step.loss)):
            return f"not finite: the sum of the losses ({float(step.loss)})"
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return f"not finite: the gradient of {name}"
        return ""
