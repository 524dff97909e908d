"""Batches sent one ahead: the same ones in the same order, and what goes wrong is raised in its turn."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_same import assert_same_checkpoints
from engine_tiny import tiny_config

from opengait.engine.ahead import one_ahead
from opengait.engine.hooks import Hook
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Trainer, TrainResult

CPU = torch.device("cpu")


class Watched:
    """A lane that writes down what is done with it; its device is the host."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.open = False

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        self.open = True
        yield
        self.open = False

    def send(self, batch: Any) -> Any:
        assert self.open
        self.done.append(f"send {batch}")
        return batch

    def receive(self, batch: Any) -> None:
        assert not self.open
        self.done.append(f"receive {batch}")


class Source:
    """Batches 0, 1, ...; one of them cannot be read."""

    def __init__(self, count: int, broken: int = -1) -> None:
        self.count, self.broken, self.closed = count, broken, False

    def __call__(self) -> Generator[Any, None, None]:
        try:
            for number in range(self.count):
                if number == self.broken:
                    raise ValueError("damaged")
                yield number
        finally:
            self.closed = True


def test_each_is_sent_before_the_one_in_front_is_handed_out() -> None:
    lane, source = Watched(), Source(3)
    for batch in one_ahead(source(), lane):
        lane.done.append(f"compute {batch}")
    assert lane.done == ["send 0", "receive 0", "send 1", "compute 0", "receive 1", "send 2", "compute 1",
                         "receive 2", "compute 2"]  # fmt: skip
    assert source.closed


def test_a_damaged_batch_is_raised_in_its_turn() -> None:
    source = Source(3, broken=2)
    batches = one_ahead(source(), Watched())
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        next(batches)
    assert source.closed


def test_leaving_early_closes_the_source() -> None:
    source = Source(5)
    batches = one_ahead(source(), Watched())
    assert next(batches) == 0
    batches.close()
    assert source.closed


class PullThePlug(Hook):
    def after_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.iteration == 3:
            raise RuntimeError("pulled the plug")


def run(tree: Path, output: Path, ahead: bool, resume: str = "no", hook: Hook | None = None) -> TrainResult:
    changes = {"trainer_cfg__save_iter": 2, "model_cfg__dropout": 0.3, "data_cfg__num_workers": 1}
    config = tiny_config(tree, **changes)
    trainer = Trainer(config, run_folder(config, "trainer_cfg", output), device=CPU, resume=resume)
    if ahead:
        trainer.batches = lambda: one_ahead(trainer._read(), Watched())  # type: ignore[method-assign]
    trainer.hooks += [hook] if hook else []
    return trainer.fit()


def test_training_and_resuming_are_the_same(tree: Path, tmp_path: Path) -> None:
    """A batch that was sent and not computed is drawn again."""
    expected = run(tree, tmp_path / "plain", False)
    found = run(tree, tmp_path / "ahead", True)
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)
    with pytest.raises(RuntimeError, match="pulled"):
        run(tree, tmp_path / "cut", True, hook=PullThePlug())
    resumed = run(tree, tmp_path / "cut", True, resume="auto")
    assert_same_checkpoints(resumed.checkpoint, expected.checkpoint)
