"""Checkpoints every `save_iter` iterations, at the end, and when the run is asked to stop."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from opengait.engine.checkpoint import CheckpointError, checkpoint_name, save_checkpoint
from opengait.engine.checkpoint_files import remove_unfinished
from opengait.engine.distributed import on_main
from opengait.engine.hooks.base import Hook
from opengait.engine.retention import CheckpointTests, check_figure, prune_checkpoints
from opengait.evaluation.protocol import find_protocol

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer
    from opengait.evaluation.result import Evaluation

logger = logging.getLogger(__name__)


class CheckpointHook(Hook):
    """Writes `checkpoints/<save_name>-<iteration>.pt`.

    Args:
        save_iter: iterations between checkpoints.
        keep_last: older ones than the newest so many are deleted; None keeps all.
        keep_every: but not those of multiples of so many iterations.
        keep_best: nor the one with the largest of this figure in the tests of the training.
    """

    def __init__(
        self, save_iter: int, keep_last: int | None = None, keep_every: int | None = None, keep_best: str | None = None
    ) -> None:
        self.save_iter = save_iter
        self.keep_last, self.keep_every, self.keep_best = keep_last, keep_every, keep_best
        self._saved: tuple[int, int] | None = None

    def start(self, trainer: Trainer) -> None:
        if self.keep_best is not None:
            check_figure(self.keep_best, _tags(trainer))
        on_main(lambda: _prepare(trainer.folder))

    def due(self, trainer: Trainer, iteration: int) -> bool:
        return iteration % self.save_iter == 0 or iteration >= trainer.total_iter

    def after_step(self, trainer: Trainer, step: Step) -> None:
        due = step.counted and self.due(trainer, trainer.iteration)
        if (due or trainer.stop_signal) and (trainer.iteration, trainer.draws) != self._saved:
            self._save(trainer)

    def after_test(self, trainer: Trainer, evaluation: Evaluation | None) -> None:
        def remember() -> None:
            tested = _tested(trainer)
            tested.record(trainer.iteration, evaluation.figures if evaluation is not None else {})
            if self.keep_best is not None:
                logger.info("best %s so far at iteration %s", self.keep_best, tested.best(self.keep_best))
            self._prune(trainer)

        on_main(remember)

    def _save(self, trainer: Trainer) -> None:
        state = trainer.state_dict()  # every process adds its part
        path = trainer.folder / "checkpoints" / checkpoint_name(trainer.save_name, trainer.iteration)

        def write() -> None:
            save_checkpoint(path, state)
            self._prune(trainer)
            logger.info("saved %s", path)

        on_main(write)
        trainer.last_checkpoint = path
        self._saved = (trainer.iteration, trainer.draws)

    def _prune(self, trainer: Trainer) -> None:
        best = None if self.keep_best is None else _tested(trainer).best(self.keep_best)
        prune_checkpoints(trainer.folder / "checkpoints", trainer.save_name, self.keep_last, self.keep_every, best)


def _prepare(folder: Path) -> None:
    """Finds out now, not at the first checkpoint, that none can be written; removes what killed writers left."""
    checkpoints = folder / "checkpoints"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=checkpoints) as probe:
            probe.write(b"0")
    except OSError as error:
        raise CheckpointError(f"{checkpoints}: no checkpoint can be written here: {error}") from error
    remove_unfinished(checkpoints)
    for place in (folder, folder / "results"):
        remove_unfinished(place, shared=True)


def _tested(trainer: Trainer) -> CheckpointTests:
    return CheckpointTests(trainer.folder / "checkpoints", trainer.save_name)


def _tags(trainer: Trainer) -> list[str]:
    """The figures that the tests of this training give."""
    cfg, data_cfg = trainer.config["evaluator_cfg"], trainer.config["data_cfg"]
    name = data_cfg.get("test_dataset_name") or data_cfg["dataset_name"]
    _, protocol = find_protocol(cfg["eval_func"], name, cfg.get("cross_view_gallery", False), cfg.get("protocol"))
    conditions = list(protocol.conditions) or [""]
    return [figure.full_tag(condition) for condition in conditions for figure in protocol.figures if figure.tag]
