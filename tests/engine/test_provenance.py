"""What a run was made with is kept, a test says where it differs from the training, and the same config gives the same
bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_same import assert_same_checkpoints
from engine_tiny import tiny_config

from opengait import engine
from opengait.data.dataset import GaitDataset
from opengait.data.transforms import build_transforms
from opengait.engine.checkpoint import load_checkpoint
from opengait.engine.provenance import package_versions, record_start, source_revision
from opengait.engine.trained_with import differences


def train(tree: Path, output: Path, resume: str = "no", **changes: Any) -> engine.TrainResult:
    return engine.train(tiny_config(tree, **changes), device="cpu", output=output, resume=resume)


def test_a_run_says_what_it_was_made_with_at_every_start(tree: Path, tmp_path: Path) -> None:
    train(tree, tmp_path, trainer_cfg__total_iter=2)
    done = train(tree, tmp_path, resume="auto", trainer_cfg__total_iter=3)
    first, second = json.loads((done.folder / "run.json").read_text())
    assert (first["begins_at"], second["begins_at"]) == (0, 2)
    assert first["command"].startswith(sys.executable)
    assert (
        first["packages"]["torch"] == torch.__version__.split("+")[0] or first["packages"]["torch"] == torch.__version__
    )
    assert {"opengait", "numpy", "pydantic"} <= first["packages"].keys()
    state = load_checkpoint(done.checkpoint or "")
    assert first["data"] == state["data_fingerprint"]
    assert (first["data"]["subjects"], first["data"]["sequences"]) == (4, 40)
    assert first["processes"] == 1
    assert (done.folder / "config.yaml").is_file()


def test_the_revision_is_that_of_the_source(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first", "--no-verify")
    assert source_revision(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("2")
    assert source_revision(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": True}
    assert package_versions()


def test_a_damaged_list_of_starts_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.json"
    path.write_text("[{")
    record_start(path, {"begins_at": 5})
    assert [start["begins_at"] for start in json.loads(path.read_text())] == [5]
    assert "cannot be read" in caplog.text


def test_a_test_names_what_differs_from_the_training(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_checkpoint(train(tree, tmp_path, trainer_cfg__total_iter=1).checkpoint or "")

    def found(**changes: Any) -> list[str]:
        config = tiny_config(tree, **changes)
        dataset = GaitDataset(config["data_cfg"], training=False)
        return list(differences(state, config, dataset, build_transforms(config["evaluator_cfg"]["transform"])))

    assert found() == []
    transform, values = found(evaluator_cfg__transform=[{"type": "BaseSilTransform", "divsor": 1.0}])
    assert transform.startswith("evaluator_cfg.transform is [{'divsor': 1.0, 'type': 'BaseSilTransform'}] here; the")
    assert values.startswith("values of modality 0 run to 255 here; in training they ran to 1 ")
    cut = found(evaluator_cfg__transform=[{"type": "BaseSilCuttingTransform", "cutting": 2}])
    assert "frames of modality 0 reach the network as 32x28 here; in training they were 32x32" in cut
    assert found(data_cfg__test_dataset_name="CCPG") == ["trained on CASIA-B, tested on CCPG"]
    (tree / "partition.json").write_text('{"TRAIN_SET": ["001"], "TEST_SET": ["004", "005", "006"]}')
    (overlap,) = found()
    assert overlap.startswith("1 of the 3 test subjects were trained on (004)")
    engine.test(tiny_config(tree, evaluator_cfg__restore_hint=1), device="cpu", output=tmp_path)
    assert f"tiny-00001.pt: {overlap}" in capsys.readouterr().err


def test_deterministic_runs_give_the_same_bits(tree: Path, tmp_path: Path) -> None:
    changes = {"trainer_cfg__deterministic": True, "model_cfg__dropout": 0.3}
    try:
        one, other = (train(tree, tmp_path / name, **changes) for name in ("one", "other"))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_checkpoints(one.checkpoint, other.checkpoint)
    changed = train(tree, tmp_path / "seed", **changes, trainer_cfg__seed=1)
    weights = [load_checkpoint(run.checkpoint or "")["model"]["fc.weight"] for run in (one, changed)]
    assert not torch.equal(*weights)


def test_a_foreign_checkpoint_says_nothing_of_its_training(tree: Path) -> None:
    config = tiny_config(tree)
    dataset = GaitDataset(config["data_cfg"], training=False)
    transforms = build_transforms(config["evaluator_cfg"]["transform"])
    for state in (
        {"model": {}},
        {"model": {}, "config": {}},
        {"model": {}, "config": {"data_cfg": None}, "frames": [1]},
    ):
        assert list(differences(state, config, dataset, transforms)) == []
