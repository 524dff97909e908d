"""Numbers that are not finite, and batches without anything to compare: what happens is defined, and said."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_tiny import tiny_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opengait.data.dataset import GaitDataset
from opengait.data.samplers import TripletSampler
from opengait.engine.hooks import Hook, NonFiniteError
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Step, Trainer

CPU = torch.device("cpu")


class Poison(Hook):
    """Makes something infinite once, before the step of a draw; `what` is a parameter's name or 'loss'."""

    def __init__(self, what: str, draws: tuple[int, ...]) -> None:
        self.what, self.draws = what, draws

    def start(self, trainer: Trainer) -> None:
        if self.what == "loss":
            losses = trainer.losses.forward

            def forward(feat: Any) -> Any:
                total, info = losses(feat)
                return (total * float("inf") if trainer.draws - 1 in self.draws else total), info

            trainer.losses.forward = forward  # type: ignore[method-assign]
            return
        parameter = dict(trainer.model.named_parameters())[self.what]
        parameter.register_hook(
            lambda gradient: gradient * float("inf") if trainer.draws - 1 in self.draws else gradient
        )


def run(tree: Path, output: Path, *hooks: Hook, **changes: Any) -> Trainer:
    config = tiny_config(tree, **{"trainer_cfg__total_iter": 6, "trainer_cfg__log_iter": 3, **changes})
    trainer = Trainer(config, run_folder(config, "trainer_cfg", output), device=CPU)
    trainer.hooks[:0] = hooks
    trainer.fit()
    return trainer


def written(trainer: Trainer) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars: tag -> (iteration, value)."""
    events = EventAccumulator(str(trainer.folder / "summary")).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize(
    ("what", "changes", "said"),
    [
        ("loss", {}, r"not finite: the sum of the losses \((inf|nan)\); the gradient of conv\.weight first"),
        ("second.weight", {}, r"not finite: the gradient of second\.weight;"),
        (
            "",
            {"model_cfg__poison_at": [2]},
            r"not finite: (?=.*triplet/loss)(?=.*softmax/loss).*; the gradient of conv",
        ),
    ],
)
def test_a_skipped_step_is_named_and_counted(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str, changes: dict[str, Any], said: str
) -> None:
    with caplog.at_level(logging.INFO, logger="opengait"):
        trainer = run(tree, tmp_path, *([Poison(what, (2,))] if what else []), **changes)
    assert (trainer.iteration, trainer.draws) == (6, 7)
    [line] = [one.getMessage() for one in caplog.records if one.getMessage().startswith("step after iteration")]
    assert re.search(said, line), line
    assert line.startswith("step after iteration 2 skipped")
    assert line.endswith("1 skipped in a row, 1 in all")
    batch = list(trainer.dataset.labels[index] for index in TripletSampler(trainer.dataset, [3, 3], seed=0).batch(2))
    named = re.search(r"batch 2 with (.*); 1 skipped", line)
    assert named is not None
    subjects = dict(re.findall(r"(\d{3}) \(([^)]*)\)", named[1]))
    assert sorted(subjects) == sorted(set(batch))
    assert all(len(sequences.split(", ")) == 3 for sequences in subjects.values())
    [shown] = [one.getMessage() for one in caplog.records if "skipped (" in one.getMessage()]
    assert "Iteration 00003" in shown
    assert "1 skipped (1 not finite, 0 fp16 overflow; 1 since the start)" in shown
    scalars = written(trainer)
    assert scalars["skipped_steps"] == scalars["skipped_steps_not_finite"] == [(3, 1.0), (6, 0.0)]
    assert "loss_scale" not in scalars
    assert all(np.isfinite(value) for found in scalars.values() for _, value in found)


def test_overflows_of_fp16_are_shown_and_end_no_run(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poison = Poison("second.weight", (1, 2, 5))
    with caplog.at_level(logging.INFO, logger="opengait"):
        trainer = run(tree, tmp_path, poison, trainer_cfg__precision="fp16", trainer_cfg__max_bad_steps=1)
    assert trainer.iteration == 6
    assert trainer.draws >= 9
    scalars = written(trainer)
    skipped = trainer.draws - trainer.iteration
    assert sum(value for _, value in scalars["skipped_steps_overflow"]) == skipped
    assert scalars["loss_scale"][-1][1] == 65536 / 2**skipped
    assert f"fp16 overflow; {skipped} since the start)" in caplog.text
    assert "step after iteration" not in caplog.text  # the scaler's business


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(tree: Path, tmp_path: Path) -> None:
    """Else fp16 would skip steps for ever."""
    poison = Poison("second.weight", tuple(range(2, 1000)))
    with pytest.raises(
        NonFiniteError, match=r"4 steps in a row after iteration .*second\.weight, with the loss scaled"
    ):
        run(tree, tmp_path, poison, trainer_cfg__precision="fp16", trainer_cfg__max_bad_steps=3)


def test_bad_steps_are_counted_in_a_row_and_in_all(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"model_cfg__poison_at": [1, 2, 4, 6, 7, 8, 9, 10], "trainer_cfg__save_iter": 2}
    with pytest.raises(NonFiniteError, match=r"3 steps in a row after iteration 3 .*tiny-00002\.pt"):
        run(tree, tmp_path, trainer_cfg__max_bad_steps=2, **changes)
    lines = [one.getMessage() for one in caplog.records if one.getMessage().startswith("step after")]
    counts = [re.findall(r"(\d+) skipped in a row, (\d+) in all", line)[0] for line in lines]
    assert counts == [("1", "1"), ("2", "2"), ("1", "3"), ("1", "4"), ("2", "5"), ("3", "6")]
    state = torch.load(next(tmp_path.rglob("tiny-00002.pt")), weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())


def test_weights_that_are_not_finite_themselves_are_named(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Break(Hook):
        def after_step(self, trainer: Trainer, step: Step) -> None:
            if trainer.iteration == 2:
                with torch.no_grad():
                    trainer.model.fc.weight[0, 0] = float("nan")

    with pytest.raises(NonFiniteError, match=r"the weights fc\.weight themselves"):
        run(tree, tmp_path, Break(), trainer_cfg__max_bad_steps=0)


def test_a_batch_of_one_subject_has_no_triplets(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside another loss it is a warning: the triplet loss is 0 and the other trains. Alone it is an error."""
    one = {"trainer_cfg__sampler__batch_size": [1, 6]}
    trainer = run(tree, tmp_path, **one)
    assert "TripletLoss compares subjects and needs at least two in a batch" in caplog.text
    scalars = written(trainer)
    assert {value for tag in ("triplet/loss", "triplet/loss_num") for _, value in scalars[tag]} == {0.0}
    assert all(value > 0 for _, value in scalars["softmax/loss"])
    triplets = [{"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2}]
    with pytest.raises(ValueError, match="needs at least two in a batch"):
        run(tree, tmp_path / "alone", loss_cfg=triplets, **one)


def test_a_loss_of_zero_is_a_step_like_others(tree: Path, tmp_path: Path) -> None:
    """No triplet violates the margin: gradients are zero, the step counts, weights decay as they do."""
    triplets = [{"type": "TripletLoss", "log_prefix": "triplet", "margin": -1e6}, {
        "type": "CrossEntropyLoss", "log_prefix": "softmax", "loss_term_weight": 0.0}]  # fmt: skip
    trainer = run(tree, tmp_path, loss_cfg=triplets)
    assert (trainer.iteration, trainer.draws) == (6, 6)
    assert {value for _, value in written(trainer)["triplet/loss_num"]} == {0.0}


def test_subjects_with_fewer_than_k_sequences_repeat_theirs(tree: Path, tmp_path: Path, caplog: Any) -> None:
    """And nobody else's: every subject has K sequences in a batch, those who have K or more different ones."""
    for kind in ("nm-02", "nm-05", "bg-01", "cl-01"):
        for view in ("000", "090"):
            for path in (tree / "tree" / "002" / kind / view).iterdir():
                path.unlink()
            (tree / "tree" / "002" / kind / view).rmdir()
        (tree / "tree" / "002" / kind).rmdir()
    trainer = run(tree, tmp_path, trainer_cfg__sampler__batch_size=[4, 5])
    assert "1 of 4 subjects have fewer than K = 5 sequences: theirs come more than once in a batch" in caplog.text
    assert trainer.iteration == 6
    dataset: GaitDataset = trainer.dataset
    sampler = TripletSampler(dataset, [4, 5], seed=0)
    for iteration in range(20):
        batch = sampler.batch(iteration)
        for subject in dataset.label_set:
            own = [index for index in batch if dataset.labels[index] == subject]
            assert len(own) == 5
            assert len(set(own)) == 5 or (subject == "002" and len(set(own)) <= 2)
