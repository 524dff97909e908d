"""The whole way: config to log, checkpoint, figures; in one process and under torchrun."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_processes import PROJECT_ROOT, free_port, process_environment
from engine_tiny import tiny_config, write_config

from opengait import engine
from opengait.engine.checkpoint import CheckpointError, load_checkpoint
from opengait.engine.distributed import choose_device
from opengait.engine.evaluator import Evaluator
from opengait.engine.inference import Share

LINE = re.compile(
    r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \[INFO\]: Iteration 00002, Cost \d+\.\d\ds, triplet_loss=\d+\.\d{4}, .*"
    r"softmax_loss=\d+\.\d{4}.*, learning_rate=0\.01, .* seq/s, data \d+%, ETA 0:00:0",
    re.MULTILINE,
)


def test_a_run_leaves_log_checkpoint_summary_config_and_figures(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    config = tiny_config(tree, trainer_cfg__image_iter=2, evaluator_cfg__restore_hint=5)
    result = engine.train(config, device="cpu", output=output, log_to_file=True)
    assert result.folder == output / "CASIA-B" / "TinyNet" / "tiny"
    assert result.checkpoint == result.folder / "checkpoints" / "tiny-00005.pt"
    (log,) = (result.folder / "logs").glob("*.txt")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d\.txt", log.name)
    printed = capsys.readouterr().err
    for text in (log.read_text(), printed):
        assert len(LINE.findall(text)) == 1  # and no line twice
    state = load_checkpoint(result.checkpoint)
    assert state["iteration"] == 5
    assert state["labels"] == ["001", "002", "003", "004"]
    assert state["config"]["optimizer_cfg"]["lr"] == 0.01
    assert state["world_size"] == 1
    assert list((result.folder / "summary").glob("events*"))

    figures = engine.test(config, device="cpu", output=output)
    assert figures
    content = json.loads((result.folder / "results" / "CASIA-B-tiny-00005.json").read_text())
    assert content["figures"] == figures
    assert content["iteration"] == 5
    by_path = engine.test(config, device="cpu", output=tmp_path / "other", checkpoint=result.checkpoint)
    assert by_path == figures
    assert "FRESHLY INITIALISED" not in capsys.readouterr().err
    engine.test(config, device="cpu", output=output, iteration=0)
    assert "FRESHLY INITIALISED" in capsys.readouterr().err
    assert not logging.getLogger("opengait").handlers


def events_of(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "summary"))
    events.Reload()
    return events


def protocols(events: Any) -> dict[str, set[str]]:
    """Tag -> the texts that stand under it below `protocol/`."""
    return {
        tag.removeprefix("protocol/").removesuffix("/text_summary"): {
            event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
        if tag.startswith("protocol/")
    }


def test_every_figure_in_tensorboard_names_its_protocol(tree: Path, tmp_path: Path) -> None:
    config = tiny_config(tree, trainer_cfg__with_test=True, evaluator_cfg__restore_hint=5)
    result = engine.train(config, device="cpu", output=tmp_path / "trained")
    engine.test(config, device="cpu", output=tmp_path / "tested", checkpoint=result.checkpoint)
    content = json.loads((result.folder / "results" / "CASIA-B-tiny-00005.json").read_text())
    assert content["protocol"].endswith("Euclidean distance; not re-ranked; official protocol")
    for folder in (result.folder, tmp_path / "tested" / "CASIA-B" / "TinyNet" / "tiny"):
        events = events_of(folder)
        figures = {tag for tag in events.Tags()["scalars"] if tag.startswith("test_accuracy/")}
        assert {tag.removeprefix("scalar/") for tag in result.figures} == figures
        assert protocols(events) == {tag: {content["protocol"]} for tag in figures}


def test_figures_and_verification_are_the_same_under_any_memory(tree: Path, tmp_path: Path) -> None:
    told = []
    for memory in ("1GB", "64KB"):
        config = tiny_config(tree, evaluator_cfg__verification=True, evaluator_cfg__memory=memory)
        engine.test(config, device="cpu", output=tmp_path / memory)
        (path,) = (tmp_path / memory).rglob("results/*.json")
        told.append(json.loads(path.read_text()))
    assert told[0] == told[1]
    assert set(told[0]["verification"]) == {"NM", "BG", "CL"}
    assert told[0]["verification"]["NM"]["impostor"] > 0


def test_a_network_that_knows_the_test_subjects_is_refused_before_any_is_embedded(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = tmp_path / "held-out.yaml"
    protocol.write_text(
        "datasets: [CASIA-B]\n"
        "protocols: [{eval_func: held_out, name: held out, official: false, refuses_trained: true,\n"
        "gallery: {types: [nm-01]}, conditions: {all: {types: [nm-05]}}, figures: [{measure: Rank-1, tag: Rank-1}]}]\n"
    )
    rule = {"train": "001-004", "test": "005-007"}
    options = {"evaluator_cfg__protocol": str(protocol), "evaluator_cfg__eval_func": "held_out"}
    config = tiny_config(tree, data_cfg__dataset_partition=rule, **options)
    trained = engine.train(config, device="cpu", output=tmp_path / "output")
    assert set(engine.test(config, device="cpu", output=tmp_path / "output", checkpoint=trained.checkpoint)) == {
        "scalar/test_accuracy/Rank-1"
    }

    monkeypatch.setattr(Evaluator, "run", lambda *arguments: pytest.fail("sequences are embedded"))
    overlap = tiny_config(tree, data_cfg__dataset_partition={"train": "001-003", "test": "004-007"}, **options)
    with pytest.raises(ValueError, match="1 of the 4 subjects of this test were trained on, such as '004'"):
        engine.test(overlap, device="cpu", output=tmp_path / "output", checkpoint=trained.checkpoint)


def test_tensorboard_holds_interval_means_rates_and_images(tree: Path, tmp_path: Path) -> None:
    config = tiny_config(tree, trainer_cfg__image_iter=4, trainer_cfg__with_test=True)
    result = engine.train(config, device="cpu", output=tmp_path / "output")
    events = events_of(result.folder)
    scalars = events.Tags()["scalars"]
    assert {"triplet/loss", "softmax/loss", "brightness", "learning_rate", "throughput/seq_per_s"} <= set(scalars)
    assert {tag.removeprefix("scalar/") for tag in result.figures} <= set(scalars)
    assert [event.step for event in events.Scalars("triplet/loss")] == [2, 4]
    assert [event.step for event in events.Images("sils")] == [4]


def test_constant_embeddings_score_chance_through_the_whole_path(tree: Path, tmp_path: Path) -> None:
    config = tiny_config(tree, model_cfg__constant=True)
    figures = engine.test(config, device="cpu", output=tmp_path / "output")
    # Every distance is equal, and ties count against the probe.
    assert set(figures.values()) == {0.0}


def test_embeddings_that_are_not_finite_are_an_error_naming_sequences(tree: Path, tmp_path: Path) -> None:
    evaluator = Evaluator(tiny_config(tree), tmp_path, device=torch.device("cpu"))
    features = {"embeddings": np.zeros((len(evaluator.dataset), 6, 1), np.float32)}
    features["embeddings"][1, 2] = np.nan
    with pytest.raises(ValueError, match=rf"1 of 30 sequences are not finite: {evaluator.dataset.name(1)}"):
        evaluator._judge(Share(features, np.arange(30)))


GAITSET = {
    "model": "GaitSet",
    "in_channels": [1, 2, 2, 2],
    "SeparateFCs": {"in_channels": 2, "out_channels": 3, "parts_num": 6},
    "bin_num": [2, 1],
}


@pytest.mark.parametrize(("model_cfg", "ragged"), [({"model": "TinyNet"}, False), (GAITSET, True)])
def test_batched_inference_equals_one_at_a_time(
    tree: Path, tmp_path: Path, model_cfg: dict[str, Any], ragged: bool
) -> None:
    from opengait.modeling.build import build_model

    torch.manual_seed(0)
    results = []
    model = build_model(model_cfg)
    packed: list[bool] = []
    model.register_forward_pre_hook(lambda module, args: packed.append(args[0].seqL is not None))
    for budget in (1, 1000):
        config = tiny_config(tree, evaluator_cfg__frames_per_batch=budget)
        results.append((Evaluator(config, tmp_path, device=torch.device("cpu")).embed(model) or {})["embeddings"])
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
    assert any(packed) == ragged


def test_only_a_network_that_says_so_itself_is_tested_on_ragged_batches() -> None:
    from opengait.modeling.models.gaitset import GaitSet

    class Derived(GaitSet):
        """Its forward pass might not know of packed sequences."""

    assert GaitSet.tests_ragged()
    assert not Derived.tests_ragged()


def test_mistakes_are_found_before_the_first_iteration(tree: Path, tmp_path: Path) -> None:
    def train(**changes: Any) -> None:
        engine.train(tiny_config(tree, **changes), device="cpu", output=tmp_path / "output")

    with pytest.raises(ValueError, match="class_num: 3 classes for 4 training subjects"):
        train(model_cfg__class_num=3)
    with pytest.raises(CheckpointError, match=r"tiny-00007\.pt: no such checkpoint"):
        train(trainer_cfg__restore_hint=7)
    with pytest.raises(ValueError, match="modalit"):
        train(trainer_cfg__transform=[{"type": "BaseSilTransform"}] * 2)
    with pytest.raises(CheckpointError, match=r"absent\.pt: no such checkpoint"):
        engine.test(tiny_config(tree), checkpoint="absent.pt", device="cpu", output=tmp_path / "output")


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="has no GPU of its own: 1 visible"):
        choose_device("auto")
    with pytest.raises(ValueError, match="means GPU 3"):
        choose_device("cuda:3")


GAITSET = {
    "model_cfg": {
        "model": "GaitSet",
        "in_channels": [1, 4, 8, 8],
        "SeparateFCs": {"in_channels": 8, "out_channels": 4, "parts_num": 10},
        "bin_num": [4, 1],
    },
    "loss_cfg": {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2, "loss_term_weight": 1.0},
    "trainer_cfg__total_iter": 2,
    "trainer_cfg__log_iter": 1,
    "evaluator_cfg__restore_hint": 2,
}


@pytest.mark.slow
def test_the_fields_own_command_under_torchrun_and_without(tree: Path, tmp_path: Path) -> None:
    config = write_config(tree, **GAITSET)
    script = str(PROJECT_ROOT / "opengait" / "main.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]

    def call(*command: str) -> str:
        done = subprocess.run(
            [*command, "--cfgs", str(config), "--device", "cpu"],
            env=process_environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    printed = call(*torchrun, script, "--phase", "train", "--log_to_file")
    assert printed.count("Iteration 00002, Cost") == 1
    folder = tmp_path / "output" / "CASIA-B" / "GaitSet" / "tiny"
    assert load_checkpoint(folder / "checkpoints" / "tiny-00002.pt")["world_size"] == 2
    assert len(list((folder / "logs").glob("*.txt"))) == 1
    results = folder / "results" / "CASIA-B-tiny-00002.json"
    call(*torchrun, script, "--phase", "test", "--iter", "2")
    two = results.read_text()
    results.unlink()
    call(sys.executable, "-m", "opengait.main", "--phase", "test")
    assert results.read_text() == two


def test_a_mistake_has_status_2_and_no_traceback(tree: Path, tmp_path: Path) -> None:
    from opengait.main import main

    config = write_config(tree, trainer_cfg__restore_hint=9)
    assert main(["--cfgs", str(config), "--output", str(tmp_path / "output"), "--device", "cpu"]) == 2
    assert main(["--cfgs", str(tmp_path / "absent.yaml")]) == 2
