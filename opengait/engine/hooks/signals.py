"""SIGTERM and SIGINT end a run after the current iteration, with a checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from opengait.engine.hooks.base import Hook

if TYPE_CHECKING:
    from opengait.engine.trainer import Step, Trainer

logger = logging.getLogger(__name__)


class SignalHook(Hook):
    """Turns a signal into `trainer.requested_stop`; the processes agree on it at the end of each iteration.

    A second Ctrl-C of an impatient user interrupts at once, except under torchrun, which itself repeats signals.
    """

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def start(self, trainer: Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            logger.info("not in the main thread: signals do not save a checkpoint")
            return
        owner = os.getpid()

        def request(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:
                # A loader's worker inherits this handler: Ctrl-C is the main process's business, SIGTERM ends it.
                if number == signal.SIGTERM:
                    os._exit(0)
                return
            if trainer.requested_stop and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
                raise KeyboardInterrupt
            trainer.requested_stop = number

        self._before = {number: signal.signal(number, request) for number in self.signals}

    def due(self, trainer: Trainer, iteration: int) -> bool:
        return False

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if trainer.stop_signal:
            name = signal.Signals(trainer.stop_signal).name
            logger.info("%s: stopping after iteration %d; --resume auto goes on from here", name, trainer.iteration)

    def finish(self, trainer: Trainer) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
