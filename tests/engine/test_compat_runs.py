"""`compat: reference` in training and testing: what it brings back, and that every result says so."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_tiny import tiny_config
from torch import nn

from opengait import engine
from opengait.engine.checkpoint import compat_of, load_checkpoint
from opengait.engine.hooks import EvaluationHook
from opengait.engine.inspection import convert_checkpoint
from opengait.engine.precision import Precision
from opengait.engine.preflight import preflight
from opengait.engine.trainer import Trainer

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {"trainer_cfg__total_iter": 2, "evaluator_cfg__restore_hint": 2}
SAID = "; compat: reference"
WHOLE = ["trainer_cfg.compat", "trainer_cfg.sampler.compat", "evaluator_cfg.sampler.compat", "compat"]


def results(folder: Path, iteration: int = 2) -> dict[str, Any]:
    return json.loads((folder / "results" / f"CASIA-B-tiny-{iteration:05d}.json").read_text())


def texts(folder: Path) -> dict[str, list[tuple[int, str]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "summary"))
    events.Reload()
    return {
        tag: [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if "compat" in tag
    }


def test_every_result_says_so(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tree, compat="reference", trainer_cfg__with_test=True, **SHORT)
    trained = engine.train(config, device="cpu", output=tmp_path)
    log = capsys.readouterr().err
    assert f"compat: reference, faults of the reference implementation are in effect: {', '.join(WHOLE)}" in log
    assert SAID in log
    in_training = results(trained.folder)
    assert in_training["protocol"].endswith(SAID)
    assert in_training["compat"] == WHOLE
    ((step, text),) = texts(trained.folder)["compat/text_summary"]
    assert step == 0
    assert text.endswith(", ".join(WHOLE))
    assert load_checkpoint(trained.checkpoint or "")["compat"] == WHOLE

    engine.test(config, device="cpu", output=tmp_path)
    assert SAID in capsys.readouterr().err
    assert results(trained.folder) == in_training
    assert [step for step, _ in texts(trained.folder)["compat/text_summary"]] == [0, 2]


def test_nothing_says_so_without_it(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tree, trainer_cfg__with_test=True, **SHORT)
    trained = engine.train(config, device="cpu", output=tmp_path)
    engine.test(config, device="cpu", output=tmp_path)
    assert "compat: reference" not in capsys.readouterr().err
    assert "compat" not in results(trained.folder)["protocol"]
    assert results(trained.folder)["compat"] == []
    assert not texts(trained.folder)
    assert load_checkpoint(trained.checkpoint or "")["compat"] == []


def test_a_test_says_what_the_network_was_trained_with(tree: Path, tmp_path: Path) -> None:
    one = [
        {"type": "Compose", "trf_cfg": [{"type": "BaseSilTransform"}, {"type": "RandomRotate", "compat": "reference"}]}
    ]
    trained = engine.train(tiny_config(tree, trainer_cfg__transform=one, **SHORT), device="cpu", output=tmp_path)
    place = "trainer_cfg.transform.0.trf_cfg.1.compat"
    plain = tiny_config(tree, **SHORT)
    engine.test(plain, device="cpu", output=tmp_path)
    found = results(trained.folder)
    assert found["protocol"].endswith(SAID)
    assert found["compat"] == [place]

    # Also what a run began with, however many files lie between, and in the other format.
    assert trained.checkpoint is not None
    exported = convert_checkpoint(trained.checkpoint, tmp_path / "weights.safetensors")
    for number, start in enumerate((trained.checkpoint, exported)):
        later = tiny_config(
            tree, trainer_cfg__restore_hint=str(start), trainer_cfg__save_name=f"later{number}", **SHORT
        )
        fine = engine.train(later, device="cpu", output=tmp_path)
        assert load_checkpoint(fine.checkpoint or "")["compat"] == [place]
        engine.test(plain, device="cpu", output=tmp_path / "by-path", checkpoint=fine.checkpoint)
        assert results(tmp_path / "by-path/CASIA-B/TinyNet/tiny")["compat"] == [place]


def test_a_checkpoint_without_a_list_is_judged_by_its_config() -> None:
    assert compat_of({"config": {"trainer_cfg": {"sampler": {"compat": "reference"}}}}) == [
        "trainer_cfg.sampler.compat"
    ]
    assert compat_of({"model": {}}) == []


def test_a_check_says_so(tree: Path) -> None:
    findings = preflight(tiny_config(tree, compat="reference", **SHORT), run_batch=False)
    assert [finding.level for finding in findings if str(finding).startswith("info: compat: reference")] == ["info"]


@pytest.mark.parametrize("compat", [None, "reference"])
def test_a_step_at_which_the_scale_grows(compat: str | None) -> None:
    net = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    options = {"init_scale": 8.0, "growth_interval": 2}
    precision = Precision("fp16", CPU, training=True, scaler_options=options, growth_skips=compat is not None)
    counted, moved = [], []
    for gradient in (1.0, 1.0, float("inf"), 1.0):
        before = net.weight.item()
        optimizer.zero_grad()
        precision.backward((net.weight * gradient).sum())
        counted.append(precision.step(optimizer))
        moved.append(net.weight.item() != before)
    assert moved == [True, True, False, True]
    assert counted == [True, compat is None, False, True]


def test_the_trainer_hands_its_faults_on(tree: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"trainer_cfg__precision": "bf16", "trainer_cfg__with_test": True}
    for compat, expected in ((None, "fp32"), ("reference", "bf16")):
        trainer = Trainer(tiny_config(tree, trainer_cfg__compat=compat, **changes), tmp_path, device=CPU)
        assert trainer.precision.growth_skips == trainer.losses.ignore_unfed == (compat == "reference")
        (hook,) = [one for one in trainer.hooks if isinstance(one, EvaluationHook)]
        hook.start(trainer)
        assert hook._evaluator is not None
        assert hook._evaluator.precision.name == expected  # in-training tests compute as the training does


def test_a_loss_that_gets_nothing(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    losses = tiny_config(tree).to_dict()["loss_cfg"]
    changes = {**SHORT, "loss_cfg": [*losses, {**losses[0], "log_prefix": "other"}]}
    with pytest.raises(ValueError, match=r"loss_cfg names \['other'\]"):
        Trainer(tiny_config(tree, **changes), tmp_path, device=CPU).fit()
    with caplog.at_level(logging.WARNING, logger="opengait"):
        Trainer(tiny_config(tree, trainer_cfg__compat="reference", **changes), tmp_path, device=CPU).fit()
    assert sum("names ['other']" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("reset", "rate", "weight_decay", "epoch"),
    [
        ({}, 0.001, 0.0005, 5),
        ({"trainer_cfg__optimizer_reset": True}, 0.02, 0.25, 5),
        ({"trainer_cfg__scheduler_reset": True}, 0.001, 0.0005, 0),
        ({"trainer_cfg__optimizer_reset": True, "trainer_cfg__scheduler_reset": True}, 0.02, 0.25, 0),
    ],
)
def test_a_path_brings_its_schedule_along(
    tree: Path, tmp_path: Path, reset: dict[str, bool], rate: float, weight_decay: float, epoch: int
) -> None:
    done = Trainer(tiny_config(tree), tmp_path / "first", device=CPU).fit()
    solver = {"solver": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.25}
    changes = {"trainer_cfg__restore_hint": str(done.checkpoint), "optimizer_cfg": solver, **reset}

    def begun(**compat: Any) -> Trainer:
        return Trainer(tiny_config(tree, **changes, **compat), tmp_path / "second", device=CPU)

    trainer = begun(trainer_cfg__compat="reference")
    (group,) = trainer.optimizer.param_groups
    assert (trainer.iteration, trainer.scheduler.last_epoch) == (0, epoch)
    assert group["lr"] == pytest.approx(rate)
    assert group["weight_decay"] == weight_decay
    assert trainer.fit().iteration == 5

    right = begun()
    assert (right.iteration, right.scheduler.last_epoch) == (0, 0)
    assert right.optimizer.param_groups[0]["lr"] == 0.02
    assert right.optimizer.param_groups[0]["weight_decay"] == 0.25


def test_sequences_of_unequal_length_train_with_one_draw_a_batch(tree: Path, tmp_path: Path) -> None:
    network = {
        "model": "Baseline",
        "backbone_cfg": {"type": "Plain", "in_channels": 1, "layers_cfg": ["BC-4", "M", "BC-8", "M"]},
        "bin_num": [2, 1],
        "SeparateFCs": {"in_channels": 8, "out_channels": 8, "parts_num": 3},
        "SeparateBNNecks": {"class_num": 4, "in_channels": 8, "parts_num": 3},
    }
    flip = [{"type": "Compose", "trf_cfg": [{"type": "BaseSilTransform"}, {"type": "RandomHorizontalFlip"}]}]
    sampler = {"batch_size": [3, 3], "sample_type": "unfixed_unordered", "frames_num_min": 2, "frames_num_max": 4}

    def weights(**compat: Any) -> torch.Tensor:
        changes = {**SHORT, "model_cfg": network, "trainer_cfg__transform": flip}
        config = tiny_config(tree, trainer_cfg__sampler={"type": "TripletSampler", **sampler}, **changes, **compat)
        trainer = Trainer(config, tmp_path, device=CPU)
        trainer.fit()
        return trainer.model.FCs.fc_bin.detach()

    right, as_one = weights(), weights(compat="reference")
    assert torch.equal(as_one, weights(compat="reference"))
    assert not torch.allclose(right, as_one)


def test_a_batch_of_any_sequences_trains(tree: Path, tmp_path: Path) -> None:
    sampler = {"type": "CommonSampler", "batch_size": 7, "sample_type": "fixed_unordered", "frames_num_fixed": 3}
    config = tiny_config(tree, trainer_cfg__sampler=sampler, **SHORT)
    assert not [finding for finding in preflight(config) if finding.level == "error"]
    assert Trainer(config, tmp_path, device=CPU).fit().iteration == 2
