"""Checkpoints of the reference as they are; what `opengait checkpoint` says of a file and makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_tiny import tiny_config
from safetensors import safe_open

from opengait import build_model, cli, engine, load_config
from opengait.config import shipped
from opengait.engine.checkpoint import CheckpointError, load_checkpoint, restore_weights, save_checkpoint
from opengait.engine.inspection import convert_checkpoint, inspect_checkpoint
from opengait.engine.inspection_report import report_lines

GAITSET = "configs/gaitset/gaitset.yaml"


def reference_file(path: Path, model: torch.nn.Module, iteration: int = 7) -> Path:
    """Four entries, as the reference implementation saves them after some steps of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[4], gamma=0.1)
    for _ in range(iteration):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.01)
        optimizer.step()
        scheduler.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    torch.save({**{key: one.state_dict() for key, one in state.items()}, "iteration": iteration}, path)
    return path


def said(path: Path, **options: Any) -> str:
    return "\n".join(report_lines(inspect_checkpoint(path, **options)))


def test_a_reference_checkpoint_is_tested_and_trained_on_as_it_is(tree: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model({"model": "TinyNet"}, training=True)
    path = reference_file(tmp_path / "theirs" / "GaitSet-7.pt", network)
    output = tmp_path / "output"
    figures = engine.test(tiny_config(tree, evaluator_cfg__restore_hint=str(path)), device="cpu", output=output)
    assert figures == engine.test(tiny_config(tree), checkpoint=path, device="cpu", output=tmp_path / "other")

    # By number it goes on: momentum, schedule and iteration are the file's. The plain name is the reference's own.
    reference_file(output / "CASIA-B" / "TinyNet" / "tiny" / "checkpoints" / "tiny-7.pt", network)
    config = tiny_config(tree, trainer_cfg__restore_hint=7, trainer_cfg__total_iter=8)
    result = engine.train(config, device="cpu", output=output)
    state = load_checkpoint(result.checkpoint)
    assert result.iteration == 8
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)  # after the file's milestone

    # By path it starts at 0 with a fresh schedule.
    config = tiny_config(tree, trainer_cfg__restore_hint=str(path), trainer_cfg__total_iter=1)
    state = load_checkpoint(engine.train(config, device="cpu", output=tmp_path / "fine").checkpoint)
    assert (state["iteration"], state["optimizer"]["param_groups"][0]["lr"]) == (1, 0.01)


@pytest.mark.slow
def test_inspect_says_what_is_inside_and_what_it_fits(tmp_path: Path) -> None:
    config = load_config(GAITSET)
    path = reference_file(tmp_path / "GaitSet-2.pt", build_model(config.model_cfg), iteration=2)
    found = inspect_checkpoint(path)
    assert {one.name for one in found.fits} == {"GaitSet"}
    assert GAITSET in [one.source for one in found.fits]
    assert found.iteration == 2
    text = "\n".join(report_lines(found))
    assert "iteration: 2" in text
    assert "11 tensors, 2.59" in text
    assert "[62, 128, 256] float32" in text
    assert f"fits: GaitSet\n  as in {GAITSET}" in text


def test_inspect_names_the_nearest_network_and_the_likely_mistake(tmp_path: Path) -> None:
    section = load_config("configs/baseline/baseline_grew.yaml").model_cfg.to_dict()
    section["SeparateBNNecks"]["class_num"] = 33
    path = tmp_path / "x.pt"
    save_checkpoint(path, {"model": build_model(section).state_dict()})
    text = said(path, config="configs/baseline/baseline_grew.yaml")
    assert "fits no network as it is; nearest: Baseline, as in configs/baseline/baseline_grew.yaml" in text
    assert "misshapen (1): BNNecks.fc_bin is [16, 256, 33] in the file and [16, 256, 20000] in the network" in text
    assert "model_cfg.SeparateBNNecks.class_num is 20000 in this config; the checkpoint seems to have 33" in text

    save_checkpoint(path, {"model": {"nothing.known": torch.zeros(3)}})
    assert "fits no network that is known here" in said(path, config=GAITSET)


def test_a_misfit_points_at_classes_and_parts() -> None:
    section = load_config("configs/baseline/baseline_grew.yaml").model_cfg.to_dict()
    advice = "model_cfg.{} in this config; the checkpoint seems to have {} there"
    for changes, words in (
        ({"class_num": 33}, advice.format("SeparateBNNecks.class_num is 33", 20000)),
        ({"parts_num": 31}, advice.format("SeparateFCs.parts_num is 31", 16)),
    ):
        other = {**section, "SeparateBNNecks": {**section["SeparateBNNecks"], **changes}}
        if "parts_num" in changes:
            other |= {"bin_num": [16, 8, 4, 2, 1], "SeparateFCs": {**section["SeparateFCs"], **changes}}
        with torch.device("meta"):
            stored = build_model(section).state_dict()
            with pytest.raises(CheckpointError) as raised:
                restore_weights(build_model(other), {"model": stored}, "GREW.pt", model_cfg=other)
        assert words in str(raised.value)


def test_converted_weights_are_the_same_and_serve_as_a_checkpoint(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = engine.train(tiny_config(tree, trainer_cfg__total_iter=1), device="cpu", output=tmp_path / "output")
    target = convert_checkpoint(str(result.checkpoint))
    assert target == Path(str(result.checkpoint)).with_suffix(".safetensors")
    old, new = load_checkpoint(str(result.checkpoint)), load_checkpoint(target)
    assert old["model"].keys() == new["model"].keys()
    assert all(torch.equal(old["model"][key], value) for key, value in new["model"].items())
    assert {key: new[key] for key in ("iteration", "config", "labels")} == {
        key: old[key] for key in ("iteration", "config", "labels")
    }
    with safe_open(target, "pt") as file:
        assert json.loads(file.metadata()["opengait"])["iteration"] == 1
    by_path = tiny_config(tree, evaluator_cfg__restore_hint=str(target))
    expected = engine.test(tiny_config(tree), checkpoint=result.checkpoint, device="cpu", output=tmp_path / "a")
    assert engine.test(by_path, device="cpu", output=tmp_path / "b") == expected
    started = tiny_config(tree, trainer_cfg__restore_hint=str(target), trainer_cfg__total_iter=1)
    assert engine.train(started, device="cpu", output=tmp_path / "c").iteration == 1
    monkeypatch.setattr(shipped, "find", lambda relative: None)  # to compare with the file's own config alone
    assert "fits: TinyNet\n  as in the config in the file" in said(target)

    with pytest.raises(CheckpointError, match="exists already"):
        convert_checkpoint(str(result.checkpoint))
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        convert_checkpoint(str(result.checkpoint), tmp_path / "x.pt")
    target.write_bytes(target.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load_checkpoint(target)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "GaitSet-2.pt"
    save_checkpoint(path, {"model": build_model(load_config(GAITSET).model_cfg).state_dict(), "iteration": 2})

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["opengait", "checkpoint", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    assert run("inspect", str(path), "--config", GAITSET) == 0
    assert "fits: GaitSet" in capsys.readouterr().out
    assert run("convert", str(path), "--out", str(tmp_path / "w.safetensors")) == 0
    assert "w.safetensors" in capsys.readouterr().out
    assert run("inspect", str(tmp_path / "absent.pt")) == 2
    assert "absent.pt: no such checkpoint" in capsys.readouterr().err
