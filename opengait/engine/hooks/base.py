"""What a hook may do and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer
    from opengait.evaluation.result import Evaluation


class Hook:
    """One concern beside the training itself; every method does nothing unless overridden.

    All processes call the hooks in the same order, so a hook may use collectives.
    """

    def start(self, trainer: Trainer) -> None:
        """Before the first iteration."""

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """After every batch, also one whose step was skipped (`step.counted` is false)."""

    def due(self, trainer: Trainer, iteration: int) -> bool:
        """Whether `after_step` of that counted iteration has to see network, optimiser and images as this leaves them.

        Where no hook is due, the next batch may be on its way through the network already, and a GPU need not be waited
        for. The same on all processes. A hook with an `after_step` that says nothing about it is always due.
        """
        return type(self).after_step is not Hook.after_step

    def after_log(self, trainer: Trainer, means: dict[str, float], rates: dict[str, float]) -> None:
        """Every `log_iter` counted iterations, with the interval's means (see `hooks.log`)."""

    def after_test(self, trainer: Trainer, evaluation: Evaluation | None) -> None:
        """After an evaluation in the middle of training; None but on the main process."""

    def finish(self, trainer: Trainer) -> None:
        """At the end, also after an error."""
