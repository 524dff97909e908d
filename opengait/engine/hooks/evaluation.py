"""Testing in the middle of training (`with_test`)."""

from __future__ import annotations

import logging
import signal
import time
from typing import TYPE_CHECKING

from opengait.engine.distributed import broadcast_text, is_main
from opengait.engine.evaluator import Evaluator, StoppedTest
from opengait.engine.hooks.base import Hook
from opengait.engine.preflight import check_testing
from opengait.engine.retention import CheckpointTests
from opengait.engine.sync_batchnorm import fix_batchnorm

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer

logger = logging.getLogger(__name__)


class EvaluationHook(Hook):
    """All processes embed and rank the test set every `save_iter` iterations and at the end.

    A checkpoint is written before its test. Where a run ended in between, the one that goes on from it tests first.
    """

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
        evaluator.requested_stop = lambda: trainer.requested_stop
        check_testing(trainer.config, evaluator.dataset, evaluator.transforms, trainer.model, training=True)
        if trainer.last_checkpoint is not None and self.due(trainer, trainer.iteration) and not _is_tested(trainer):
            logger.info("the checkpoint of iteration %d was not tested yet", trainer.iteration)
            self._test(trainer, evaluator)

    def due(self, trainer: Trainer, iteration: int) -> bool:
        return iteration % self.save_iter == 0 or iteration >= trainer.total_iter

    def after_step(self, trainer: Trainer, step: Step) -> None:
        due = step.counted and self.due(trainer, trainer.iteration)
        if self._evaluator is not None and due and not trainer.stop_signal:
            self._test(trainer, self._evaluator)

    def _test(self, trainer: Trainer, evaluator: Evaluator) -> None:
        began = time.monotonic()
        logger.info("testing at iteration %d", trainer.iteration)
        try:
            trainer.figures = evaluator.run(trainer.model, trainer.iteration)
        except StoppedTest as stopped:
            trainer.stop_signal = stopped.number
            name = signal.Signals(stopped.number).name
            logger.info("%s: left the test at iteration %d; --resume auto begins with it", name, trainer.iteration)
            return
        finally:
            trainer.model.train()
            if trainer.cfg.get("fix_BN"):
                fix_batchnorm(trainer.model)
        trainer.test_seconds = time.monotonic() - began
        trainer.call("after_test", evaluator.evaluation)


def _is_tested(trainer: Trainer) -> bool:
    """Whether the checkpoint that the run goes on from was tested; the main process's answer on all."""
    tested = is_main() and CheckpointTests(trainer.folder / "checkpoints", trainer.save_name).holds(trainer.iteration)
    return bool(broadcast_text("tested" if tested else "").strip())
