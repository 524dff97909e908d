"""The console line of every log interval."""

from __future__ import annotations

import datetime
import logging
import time
from typing import TYPE_CHECKING

from opengait.engine.hooks.base import Hook
from opengait.engine.metrics import IntervalMeans
from opengait.engine.optimizer import learning_rate

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer
    from opengait.evaluation.result import Evaluation

logger = logging.getLogger(__name__)


class LogHook(Hook):
    """Sums losses on the device, reads them every `log_iter` iterations, and hands the means to the other hooks.

    The line begins as the field knows it; rates, time left and skipped steps follow:
    `Iteration 00100, Cost 12.34s, triplet_loss=0.1234, ..., learning_rate=0.1, 830.1 seq/s, data 2%,
    3 skipped (1 not finite, 2 fp16 overflow; 5 since the start), ETA 0:12:03`.
    """

    def __init__(self, log_iter: int) -> None:
        self.log_iter = log_iter
        self.means = IntervalMeans()
        self._restart()

    def _restart(self) -> None:
        self._since = time.monotonic()
        self._iterations = self._sequences = self._bad = self._overflows = self._others = 0
        self._waited = 0.0

    def start(self, trainer: Trainer) -> None:
        self._restart()

    def due(self, trainer: Trainer, iteration: int) -> bool:
        return iteration % self.log_iter == 0

    def after_step(self, trainer: Trainer, step: Step) -> None:
        self._waited += step.data_seconds
        if not step.counted:
            self._bad += step.bad
            self._overflows += step.overflow
            self._others += not step.bad and not step.overflow
            return
        self.means.add(step.info)
        self._iterations += 1
        self._sequences += sum(trainer.shares)
        if self.due(trainer, trainer.iteration):
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        means = self.means.read(trainer.shares)
        # Reading has waited for the device, so the time is that of finished work.
        seconds = max(time.monotonic() - self._since, 1e-9)
        means["learning_rate"] = learning_rate(trainer.optimizer)
        rates = {
            "throughput/seq_per_s": self._sequences / seconds,
            "throughput/iterations_per_s": self._iterations / seconds,
            "throughput/data_wait": min(self._waited / seconds, 1.0),
            **self._skipped(trainer),
        }
        left = (trainer.total_iter - trainer.iteration) * seconds / self._iterations
        parts = [f"Iteration {trainer.iteration:05d}", f"Cost {seconds:.2f}s"]
        for name, value in means.items():
            shown = f"{value:.4g}" if name == "learning_rate" else f"{value:.4f}"
            parts.append(f"{name.replace('/', '_')}={shown}")
        parts += [f"{rates['throughput/seq_per_s']:.1f} seq/s", f"data {rates['throughput/data_wait']:.0%}"]
        if rates["skipped_steps"]:
            parts.append(
                f"{rates['skipped_steps']:.0f} skipped ({self._bad} not finite, {self._overflows} fp16 overflow; "
                f"{trainer.draws - trainer.iteration} since the start)"
            )
        parts.append(f"ETA {datetime.timedelta(seconds=round(left))}")
        logger.info(", ".join(parts))
        trainer.call("after_log", means, rates)
        self._restart()

    def _skipped(self, trainer: Trainer) -> dict[str, float]:
        """Steps of the interval that did not count, by reason; in fp16 also what losses are multiplied by."""
        counts = {
            "skipped_steps": self._bad + self._overflows + self._others,
            "skipped_steps_not_finite": self._bad,
            "skipped_steps_overflow": self._overflows,
        }
        scale = trainer.precision.scale
        return {
            **{name: float(count) for name, count in counts.items()},
            **({} if scale is None else {"loss_scale": scale}),
        }

    def after_test(self, trainer: Trainer, evaluation: Evaluation | None) -> None:
        # The time of a test is not training time.
        self._since += trainer.test_seconds
