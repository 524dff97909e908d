"""Where the host would wait for a device is found without one, and there is no such place in a quiet iteration.

Every shipped recipe goes through the same check in `tests/test_shipped_recipes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_tiny import tiny_config
from host_reads import DEVICE, HostRead, check_iteration, reads

from opengait.engine.hooks import Hook
from opengait.engine.trainer import Step, Trainer

CPU = torch.device("cpu")
X = torch.zeros(4, 3, device=DEVICE)
HOST = torch.arange(2)


@pytest.mark.parametrize(
    "work",
    [
        lambda: X.sum().item(),
        lambda: X.tolist(),
        lambda: bool((X > 0).any()),
        lambda: int(X[0, 0]),
        lambda: X.cpu(),
        lambda: X.nonzero(),
        lambda: X[X > 0],
        lambda: X[:, HOST],
        lambda: X[:, [0, 2]],
        lambda: X.index_select(0, HOST),
        lambda: HOST.to(DEVICE),
        lambda: torch.zeros(3, device=DEVICE).copy_(torch.ones(3)),
        lambda: torch.tensor([0.5], device=DEVICE),
        lambda: X.new_tensor([0.5]),
        lambda: torch.arange(4, device=DEVICE).repeat_interleave(torch.ones(4, device=DEVICE, dtype=torch.int64)),
    ],
)
def test_what_waits_is_found(work: Callable[[], Any]) -> None:
    assert reads(work)


@pytest.mark.parametrize(
    "work",
    [
        lambda: HOST.sum().item(),
        lambda: HOST.to(DEVICE, non_blocking=True),
        lambda: X * torch.tensor(2.0),
        lambda: X[:, HOST.to(DEVICE, non_blocking=True)],
        lambda: torch.where(X > 0, X, 0).sum(),
        lambda: X.split([1, 3]),
        lambda: torch.full((2,), 0.5, device=DEVICE),
    ],
)
def test_what_does_not_wait_is_not(work: Callable[[], Any]) -> None:
    assert reads(work) == ""


@pytest.mark.parametrize("solver", ["SGD", "Adam"])
@pytest.mark.parametrize(("precision", "clip"), [("fp32", None), ("fp32", 1.0), ("fp16", 1.0)])
def test_a_quiet_iteration_waits_for_nothing(
    tree: Path, tmp_path: Path, solver: str, precision: str, clip: float | None
) -> None:
    changes = {"trainer_cfg__precision": precision, "trainer_cfg__clip_grad_norm": clip, "trainer_cfg__log_iter": 100}
    trainer = Trainer(tiny_config(tree, optimizer_cfg={"solver": solver, "lr": 0.1}, **changes), tmp_path, device=CPU)
    check_iteration(trainer, next(trainer.batches()))


def test_a_hook_that_reads_is_found(tree: Path, tmp_path: Path) -> None:
    class Reads(Hook):
        def due(self, trainer: Trainer, iteration: int) -> bool:
            return False

        def after_step(self, trainer: Trainer, step: Step) -> None:
            float(step.loss)

    trainer = Trainer(tiny_config(tree, trainer_cfg__log_iter=100), tmp_path, device=CPU)
    trainer.hooks.append(Reads())
    with pytest.raises(HostRead, match="_local_scalar_dense"):
        check_iteration(trainer, next(trainer.batches()))
