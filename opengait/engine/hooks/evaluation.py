"""Testing in the middle of training (`with_test`)."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from opengait.engine.evaluator import Evaluator
from opengait.engine.hooks.base import Hook
from opengait.engine.preflight import check_testing
from opengait.engine.sync_batchnorm import fix_batchnorm

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer

logger = logging.getLogger(__name__)


class EvaluationHook(Hook):
    """All processes embed and rank the test set every `save_iter` iterations and at the end."""

    def __init__(self, save_iter: int) -> None:
        self.save_iter = save_iter
        self._evaluator: Evaluator | None = None

    def start(self, trainer: Trainer) -> None:
        # Made before the first iteration, so that a mistake in the test set is not found after hours.
        precision_of = trainer.cfg if trainer.as_reference else None
        self._evaluator = evaluator = Evaluator(
            trainer.config, trainer.folder, device=trainer.device, precision_of=precision_of
        )
        evaluator.compat = trainer.compat
        evaluator.trained_on = trainer.dataset.label_set
        check_testing(trainer.config, evaluator.dataset, evaluator.transforms, trainer.model, training=True)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        due = trainer.iteration % self.save_iter == 0 or trainer.iteration >= trainer.total_iter
        if self._evaluator is None or not step.counted or not due or trainer.stop_signal:
            return
        began = time.monotonic()
        logger.info("testing at iteration %d", trainer.iteration)
        figures = self._evaluator.run(trainer.model, trainer.iteration)
        trainer.model.train()
        if trainer.cfg.get("fix_BN"):
            fix_batchnorm(trainer.model)
        trainer.figures = figures
        trainer.test_seconds = time.monotonic() - began
        trainer.call("after_test", self._evaluator.evaluation)
