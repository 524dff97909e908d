"""Checkpoints every `save_iter` iterations, at the end, and when the run is asked to stop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from opengait.engine.checkpoint import checkpoint_name, prune_checkpoints, save_checkpoint
from opengait.engine.checkpoint_files import remove_unfinished
from opengait.engine.distributed import is_main, on_main
from opengait.engine.hooks.base import Hook

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer

logger = logging.getLogger(__name__)


class CheckpointHook(Hook):
    """Writes `checkpoints/<save_name>-<iteration>.pt`.

    Args:
        save_iter: iterations between checkpoints.
        keep_last: older ones than the newest so many are deleted; None keeps all.
    """

    def __init__(self, save_iter: int, keep_last: int | None = None) -> None:
        self.save_iter = save_iter
        self.keep_last = keep_last
        self._saved: tuple[int, int] | None = None

    def start(self, trainer: Trainer) -> None:
        if is_main():
            remove_unfinished(trainer.folder / "checkpoints", trainer.save_name)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        due = step.counted and (trainer.iteration % self.save_iter == 0 or trainer.iteration >= trainer.total_iter)
        if (due or trainer.stop_signal) and (trainer.iteration, trainer.draws) != self._saved:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        state = trainer.state_dict()  # every process adds its part
        folder = trainer.folder / "checkpoints"
        path = folder / checkpoint_name(trainer.save_name, trainer.iteration)

        def write() -> None:
            save_checkpoint(path, state)
            prune_checkpoints(folder, trainer.save_name, self.keep_last)
            logger.info("saved %s", path)

        on_main(write)
        trainer.last_checkpoint = path
        self._saved = (trainer.iteration, trainer.draws)
