"""Runs whose steps are settled one batch later, or at once; also run as a script, as one of several processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_worker
import torch
from engine_tiny import tiny_config
from torch import Tensor

from opengait.engine.checkpoint import load_checkpoint
from opengait.engine.deferred import deferrable
from opengait.engine.distributed import rank
from opengait.engine.hooks import Hook
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Step, Trainer, TrainResult

CPU = torch.device("cpu")
SGD = {"solver": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005}
ADAM = {"solver": "Adam", "lr": 0.01, "weight_decay": 0.0}
CHANGES: dict[str, Any] = {
    "trainer_cfg__total_iter": 12,
    "trainer_cfg__save_iter": 4,
    "trainer_cfg__log_iter": 5,
    "model_cfg__dropout": 0.3,
    "optimizer_cfg": SGD,
}


class Quiet(Hook):
    """Writes down what it is told without ever being due; spoils gradients of some draws; acts after an iteration."""

    def __init__(self, infinite: tuple[int, ...] = (), at: int = -1, action: Callable[[], None] | None = None) -> None:
        self.infinite, self.at, self.action = infinite, at, action
        self.seen: list[Any] = []
        self.logged: list[Any] = []
        self.iterations: dict[int, int] = {}  # of a draw, as the network knew it when the draw counted

    def due(self, trainer: Trainer, iteration: int) -> bool:
        return False

    def start(self, trainer: Trainer) -> None:
        def spoil(gradient: Tensor) -> Tensor:
            return gradient * float("inf") if trainer.draws - 1 in self.infinite else gradient

        trainer.model.get_parameter("second.weight").register_hook(spoil)
        trainer.model.register_forward_pre_hook(
            lambda network, inputs: self.iterations.update({trainer.draws - 1: trainer.model.iteration})
        )

    def after_step(self, trainer: Trainer, step: Step) -> None:
        rate = trainer.optimizer.param_groups[0]["lr"]
        counters = (trainer.iteration, trainer.draws, step.batch.iteration, trainer.stop_signal, rate)
        values = {name: torch.as_tensor(value).clone() for name, value in step.info.items()}
        self.seen.append((counters, (step.bad, step.counted, step.overflow), step.loss.nan_to_num(-1.0), values))
        if trainer.iteration == self.at and step.counted and self.action is not None:
            self.action()

    def after_log(self, trainer: Trainer, means: dict[str, float], rates: dict[str, float]) -> None:
        shown = {name: rate for name, rate in rates.items() if not name.startswith("throughput/")}
        self.logged.append((trainer.iteration, means, shown))


def run(
    tree: Path,
    output: Path,
    defers: bool,
    hook: Hook | None = None,
    resume: str = "no",
    device: torch.device = CPU,
    **changes: Any,
) -> TrainResult:
    config = tiny_config(tree, **{**CHANGES, **changes})
    trainer = Trainer(config, run_folder(config, "trainer_cfg", output), device=device, resume=resume)
    assert trainer.defers == (device.type == "cuda")  # nothing is gained on a CPU
    trainer.defers = defers and deferrable(trainer)
    trainer.hooks[:0] = [hook] if hook is not None else []
    return trainer.fit()


def without_nan(seen: list[Any]) -> list[Any]:
    return [
        (counters, flags, loss, {name: value.nan_to_num(-1.0) for name, value in values.items()})
        for counters, flags, loss, values in seen
    ]


def in_processes(root: str, output: str, defers: bool, stop_at: int = -1) -> dict[str, Any]:
    """A run in which the last process alone has losses of NaN with finite gradients, and is asked to stop."""
    mine = rank() == 1

    class Own(Quiet):
        def start(self, trainer: Trainer) -> None:
            super().start(trainer)
            losses = trainer.losses.forward

            def forward(feat: Any) -> Any:
                total, info = losses(feat)
                return total + (float("nan") if mine and trainer.draws - 1 in (3, 4, 7) else 0.0), info

            trainer.losses.forward = forward  # type: ignore[method-assign]

    hook = Own((9,) if mine else (), stop_at if mine else -1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    # Where it is asked to stop, nothing else settles a step at once.
    changes = {} if stop_at < 0 else {"trainer_cfg__save_iter": 100, "trainer_cfg__log_iter": 100}
    result = run(Path(root), Path(output), defers, hook, **changes)
    state = load_checkpoint(result.checkpoint or "")
    kept = {key: state[key] for key in ("model", "optimizer", "rng", "interval", "iteration", "draws")}
    # Ranks share a folder, and their losses are their own.
    seen = [[list(counters), list(flags)] for counters, flags, _, _ in hook.seen]
    return {"state": kept, "seen": seen, "stop": int(result.stop_signal), "logged": [list(one) for one in hook.logged]}


if __name__ == "__main__":
    engine_worker.JOBS["deferred"] = in_processes
    engine_worker.main(Path(sys.argv[1]))
