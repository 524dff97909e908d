"""Laws of stopping and going on: nothing is lost, nothing done twice."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_same import assert_same, assert_same_checkpoints
from engine_tiny import tiny_config

from opengait import engine
from opengait.engine import randomness
from opengait.engine.checkpoint import CheckpointError, list_checkpoints, load_checkpoint
from opengait.engine.hooks import Hook, NonFiniteError
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Trainer, TrainResult

CPU = torch.device("cpu")
CHANGES: dict[str, Any] = {
    "trainer_cfg__total_iter": 7,
    "trainer_cfg__save_iter": 3,
    "trainer_cfg__log_iter": 4,
    "model_cfg__dropout": 0.3,
    "optimizer_cfg": {"solver": "Adam", "lr": 0.01, "weight_decay": 0.0},
}


class At(Hook):
    """Does something after a number of counted iterations, and keeps what was logged."""

    def __init__(self, iteration: int = -1, action: Any = None) -> None:
        self.iteration, self.action, self.logged = iteration, action, {}

    def after_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.iteration == self.iteration and step.counted and self.action is not None:
            self.action()

    def after_log(self, trainer: Trainer, means: dict[str, float], rates: dict[str, float]) -> None:
        self.logged[trainer.iteration] = means


def run(root: Path, output: Path, resume: str = "no", hook: Hook | None = None, **changes: Any) -> TrainResult:
    config = tiny_config(root, **{**CHANGES, **changes})
    trainer = Trainer(config, run_folder(config, "trainer_cfg", output), device=CPU, resume=resume)
    if hook is not None:
        trainer.hooks.insert(0, hook)
    return trainer.fit()


def crash() -> None:
    raise RuntimeError("pulled the plug")


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tree: Path, tmp_path: Path) -> None:
    whole = At()
    expected = run(tree, tmp_path / "whole", hook=whole)
    with pytest.raises(RuntimeError, match="pulled"):
        run(tree, tmp_path / "cut", hook=At(5, crash))
    rest = At()
    found = run(tree, tmp_path / "cut", resume="auto", hook=rest)
    assert found.iteration == expected.iteration == 7
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)
    assert rest.logged[4] == whole.logged[4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_iteration_and_saves(tree: Path, tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    expected = run(tree, tmp_path / "whole")
    stopped = run(tree, tmp_path / "cut", hook=At(4, lambda: os.kill(os.getpid(), number)))
    # Raised while the hooks of iteration 4 run, so iteration 5 is the one that is finished.
    assert (stopped.stop_signal, stopped.iteration) == (number, 5)
    assert signal.getsignal(number) == before
    found = run(tree, tmp_path / "cut", resume="auto")
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)


def test_resuming_by_number_goes_on_and_by_path_starts_anew(tree: Path, tmp_path: Path) -> None:
    expected = run(tree, tmp_path)
    again = run(tree, tmp_path, trainer_cfg__restore_hint=3)
    assert_same(load_checkpoint(again.checkpoint or "")["model"], load_checkpoint(expected.checkpoint or "")["model"])
    config = tiny_config(tree, **{**CHANGES, "trainer_cfg__restore_hint": str(expected.checkpoint)})
    trainer = Trainer(config, tmp_path / "other", device=CPU)
    assert (trainer.iteration, trainer.draws) == (0, 0)
    assert trainer.scheduler.last_epoch == 0
    assert trainer.optimizer.param_groups[0]["lr"] == 0.01
    assert trainer.optimizer.state_dict()["state"]
    assert_same(dict(trainer.model.state_dict()), dict(load_checkpoint(expected.checkpoint or "")["model"]))


def test_a_finished_run_resumed_does_nothing(tree: Path, tmp_path: Path) -> None:
    run(tree, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for _, path in list_checkpoints(*_where(tree, tmp_path))}
    assert run(tree, tmp_path, resume="auto").iteration == 7
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [iteration for iteration, _ in list_checkpoints(*_where(tree, tmp_path))] == [3, 6, 7]


def _where(tree: Path, output: Path) -> tuple[Path, str]:
    return run_folder(tiny_config(tree, **CHANGES), "trainer_cfg", output) / "checkpoints", "tiny"


def test_what_a_killed_writer_left_is_removed(tree: Path, tmp_path: Path) -> None:
    folder, name = _where(tree, tmp_path)
    folder.mkdir(parents=True)
    (folder / f".{name}-00003.pt.123.tmp").touch()
    (folder / "kept.tmp").touch()
    run(tree, tmp_path, trainer_cfg__total_iter=1)
    assert sorted(path.name for path in folder.iterdir()) == ["kept.tmp", f"{name}-00001.pt"]


def test_only_the_newest_checkpoints_are_kept(tree: Path, tmp_path: Path) -> None:
    run(tree, tmp_path, trainer_cfg__keep_last=2)
    assert [iteration for iteration, _ in list_checkpoints(*_where(tree, tmp_path))] == [6, 7]


def test_a_damaged_newest_checkpoint_is_reported_and_passed_over(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(tree, tmp_path)
    assert expected.checkpoint is not None
    whole = expected.checkpoint.read_bytes()
    expected.checkpoint.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.INFO, logger="opengait"):
        found = run(tree, tmp_path, resume="auto")
    assert f"{expected.checkpoint}: damaged" in caplog.text
    assert "tiny-00006.pt" in caplog.text
    (tmp_path / "kept.pt").write_bytes(whole)
    assert_same_checkpoints(found.checkpoint, tmp_path / "kept.pt")


def test_resuming_with_other_subjects_is_an_error(tree: Path, tmp_path: Path) -> None:
    run(tree, tmp_path)
    (tree / "partition.json").write_text('{"TRAIN_SET": ["001", "002", "003"], "TEST_SET": ["005"]}')
    with pytest.raises(CheckpointError, match="trained on 4 subjects, and the data now has 3"):
        run(tree, tmp_path, resume="auto", model_cfg__class_num=4)


def test_weights_alone_are_no_run_to_resume(tree: Path, tmp_path: Path) -> None:
    done = run(tree, tmp_path, trainer_cfg__total_iter=1)
    assert done.checkpoint is not None
    torch.save({"model": load_checkpoint(done.checkpoint)["model"]}, done.checkpoint)
    with pytest.raises(CheckpointError, match=r"tiny-00001\.pt: holds no iteration"):
        run(tree, tmp_path, resume="auto")


def test_an_optimiser_of_another_kind_is_an_error_before_the_first_iteration(tree: Path, tmp_path: Path) -> None:
    done = run(tree, tmp_path, trainer_cfg__total_iter=1)
    other = {"trainer_cfg__restore_hint": str(done.checkpoint), "optimizer_cfg": {"solver": "SGD", "lr": 0.01}}
    with pytest.raises(CheckpointError, match="no SGD, it has no dampening, momentum, nesterov; set"):
        run(tree, tmp_path / "other", **other)
    run(tree, tmp_path / "other", trainer_cfg__optimizer_reset=True, **other)


def test_from_a_path_the_settings_of_the_optimiser_are_those_of_the_config(tree: Path, tmp_path: Path) -> None:
    cycle = {"scheduler": "OneCycleLR", "max_lr": 0.1, "total_steps": 3}  # moves the betas too
    done = run(tree, tmp_path, trainer_cfg__total_iter=3, scheduler_cfg=cycle)
    solver = {"solver": "Adam", "lr": 0.02, "weight_decay": 0.1, "betas": [0.8, 0.9]}
    config = tiny_config(
        tree, **{**CHANGES, "trainer_cfg__restore_hint": str(done.checkpoint), "optimizer_cfg": solver}
    )
    trainer = Trainer(config, tmp_path / "other", device=CPU)
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], list(group["betas"])) == (0.02, 0.1, [0.8, 0.9])
    assert "max_lr" not in group
    assert trainer.optimizer.state_dict()["state"]
    assert trainer.fit().iteration == 7


def test_a_stored_schedule_that_differs_from_the_config_is_named(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = {"trainer_cfg__total_iter": 3}
    run(tree, tmp_path, **short)
    caplog.clear()
    run(tree, tmp_path, resume="auto", scheduler_cfg__milestones=[4])
    assert "its schedule goes on with" not in caplog.text
    run(tree, tmp_path / "other", **short)
    run(tree, tmp_path / "other", resume="auto", scheduler_cfg__milestones=[5, 6])
    assert "its schedule goes on with milestones [4]; the config says otherwise" in caplog.text


def test_a_stored_schedule_that_cannot_go_on_is_an_error(tree: Path, tmp_path: Path) -> None:
    def schedule(steps: int) -> dict[str, Any]:
        return {"scheduler_cfg": {"scheduler": "OneCycleLR", "max_lr": 0.1, "total_steps": steps}}

    run(tree, tmp_path, trainer_cfg__total_iter=2, **schedule(2))
    with pytest.raises(CheckpointError, match="its schedule ends after 2 steps"):
        run(tree, tmp_path, resume="auto", trainer_cfg__total_iter=4, **schedule(4))
    with pytest.raises(CheckpointError, match="its schedule is no MultiStepLR, it has no gamma, milestones; to train"):
        run(tree, tmp_path, resume="auto", trainer_cfg__total_iter=4)


def test_settings_of_the_optimiser_that_differ_from_the_config_are_named(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def resumed(output: str, first: dict[str, Any], then: dict[str, Any]) -> list[str]:
        run(tree, tmp_path / output, **{"trainer_cfg__total_iter": 2, **first})
        caplog.clear()
        run(tree, tmp_path / output, resume="auto", **{"trainer_cfg__total_iter": 3, **then})
        return [record.getMessage() for record in caplog.records if "its optimiser goes on" in record.getMessage()]

    adam = {"solver": "Adam", "lr": 0.01, "weight_decay": 0.0}
    assert resumed("same", {}, {}) == []
    changed = {"optimizer_cfg": {**adam, "weight_decay": 0.1, "betas": [0.8, 0.999]}}
    (said,) = resumed("other", {}, changed)
    assert "betas (0.9, 0.999) (in the config (0.8, 0.999)), weight_decay 0.0 (in the config 0.1)" in said
    assert "restore_hint" in said
    cycle = {"scheduler": "OneCycleLR", "max_lr": 0.1, "total_steps": 9}  # steers the betas itself
    assert resumed("cycle", {"scheduler_cfg": cycle}, {"scheduler_cfg": cycle}) == []


def test_resuming_restores_the_optimiser_whatever_is_reset_for_hints(tree: Path, tmp_path: Path) -> None:
    resets = {"trainer_cfg__optimizer_reset": True, "trainer_cfg__scheduler_reset": True}
    expected = run(tree, tmp_path / "whole", **resets)
    run(tree, tmp_path / "cut", trainer_cfg__total_iter=4, **resets)
    found = run(tree, tmp_path / "cut", resume="auto", **resets)
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)
    sgd = {"optimizer_cfg": {"solver": "SGD", "lr": 0.01}, "trainer_cfg__total_iter": 8}
    with pytest.raises(CheckpointError, match=r"no SGD.*give the path as restore_hint.*--resume auto restores it"):
        run(tree, tmp_path / "cut", resume="auto", **sgd)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(tree: Path, tmp_path: Path, workers: int) -> None:
    expected = run(tree, tmp_path / "none", trainer_cfg__total_iter=3)
    found = run(tree, tmp_path / "some", trainer_cfg__total_iter=3, data_cfg__num_workers=workers)
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)


def test_a_step_that_is_not_finite_is_skipped_named_and_not_counted(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="opengait"):
        result = run(tree, tmp_path, model_cfg__poison_at=[2, 3])
    state = load_checkpoint(result.checkpoint or "")
    assert (state["iteration"], state["draws"]) == (7, 9)
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())
    (first, *_) = [record.getMessage() for record in caplog.records if "skipped," in record.getMessage()]
    assert "after iteration 2 skipped" in first
    assert "triplet/loss" in first
    assert "batch 2 with 00" in first


def test_too_many_bad_steps_in_a_row_end_the_run(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"3 steps in a row after iteration 3 .*tiny-00003\.pt"):
        run(tree, tmp_path, model_cfg__poison_at=[1, *range(4, 20)], trainer_cfg__max_bad_steps=2)
    assert [iteration for iteration, _ in list_checkpoints(*_where(tree, tmp_path))] == [3]


def test_a_test_in_between_does_not_change_training(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(tree, tmp_path / "without")
    with caplog.at_level(logging.INFO, logger="opengait"):
        found = run(tree, tmp_path / "with", trainer_cfg__with_test=True)
    assert caplog.text.count("batch_size 1 is ignored") == 1
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)
    assert found.figures
    names = sorted(path.name for path in (found.folder / "results").glob("*.json"))
    assert names == [f"CASIA-B-tiny-0000{iteration}.json" for iteration in (3, 6, 7)]


@pytest.mark.parametrize("own", [0, 1, 2])
def test_every_process_gets_its_own_generator_back(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
    monkeypatch.setattr(randomness, "rank", lambda: own)
    randomness.restore_rng_states({"cpu": torch.stack(states)}, CPU)
    assert torch.equal(torch.get_rng_state(), states[own])


def test_unknown_way_to_resume(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of no, auto"):
        engine.train(tiny_config(tree), resume="maybe", output=tmp_path, device="cpu")


@pytest.mark.parametrize(("name", "value"), [("exp_avg", None), ("exp_avg", torch.ones(())), ("step", 3)])
def test_an_optimiser_that_keeps_two_kinds_of_things_is_an_error(
    tree: Path, tmp_path: Path, name: str, value: Any
) -> None:
    done = run(tree, tmp_path, trainer_cfg__total_iter=2)
    assert done.checkpoint is not None
    state = load_checkpoint(done.checkpoint)
    state["optimizer"]["state"][2][name] = value
    torch.save(state, done.checkpoint)
    with pytest.raises(
        CheckpointError, match=rf"tiny-00002\.pt: its optimiser has {name} of two kinds: .* parameter 2"
    ):
        run(tree, tmp_path, resume="auto")
