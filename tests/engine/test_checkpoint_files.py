"""Checkpoint files: whole, safe, and clear about what does not fit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from opengait.engine.checkpoint import (
    CheckpointError,
    checkpoint_name,
    find_checkpoint,
    load_checkpoint,
    model_weights,
    prune_checkpoints,
    restore_weights,
    save_checkpoint,
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run-00010.pt"
    save_checkpoint(path, {"model": nn.Linear(30, 40).state_dict(), "iteration": 10})
    return path


def test_names_are_padded_to_five_digits() -> None:
    assert checkpoint_name("GaitSet", 100) == "GaitSet-00100.pt"
    assert checkpoint_name("GaitSet", 120000) == "GaitSet-120000.pt"


def test_the_padded_name_is_tried_before_the_plain_one(saved: Path) -> None:
    folder = saved.parent
    plain = folder / "run-10.pt"
    plain.write_bytes(b"")
    assert find_checkpoint(folder, "run", 10) == saved
    saved.unlink()
    assert find_checkpoint(folder, "run", 10) == plain
    with pytest.raises(CheckpointError, match=r"run-00020\.pt: no such checkpoint; there are iterations 10"):
        find_checkpoint(folder, "run", 20)


def test_truncated_or_changed_files_are_refused_by_name(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=re.escape(str(saved))):
            load_checkpoint(saved)
    weights = whole.index(load_checkpoint_bytes(whole))
    for position in (weights, weights + 2000):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="does not match its check sum"):
            load_checkpoint(saved)


def load_checkpoint_bytes(whole: bytes) -> bytes:
    import io

    state = torch.load(io.BytesIO(whole), weights_only=True)
    return bytes(state["model"]["weight"].numpy().tobytes())


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch attacked",)


def test_a_file_that_carries_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"weight": torch.zeros(1)}, "extra": Attack()}, "attack.pt")
    with pytest.raises(CheckpointError, match=r"attack\.pt: refused.*"):
        load_checkpoint("attack.pt")
    assert not Path("attacked").exists()


def test_a_failed_write_leaves_the_older_file_and_no_rubbish(saved: Path) -> None:
    whole = saved.read_bytes()

    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(saved, {"model": {}, "extra": lambda: None})
    assert saved.read_bytes() == whole
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    blocked = saved.parent / "file"
    blocked.touch()
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save_checkpoint(blocked / "run-00011.pt", {"model": {}})


def test_reference_checkpoints_load(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    stored = {f"module.{key}": value for key, value in layer.state_dict().items()}
    torch.save({"model": stored, "optimizer": {}, "scheduler": {}, "iteration": 5}, tmp_path / "old-5.pt")
    state = load_checkpoint(find_checkpoint(tmp_path, "old", 5))
    other = nn.Linear(3, 2)
    restore_weights(other, state, "old-5.pt")
    torch.testing.assert_close(other.weight, layer.weight)
    assert model_weights({"model": {"loss_aggregator.x": torch.zeros(1), "w": torch.zeros(1)}}).keys() == {"w"}


def test_a_misfit_names_keys_shapes_and_the_likely_mistake() -> None:
    class Net(nn.Module):
        def __init__(self, classes: int, extra: bool) -> None:
            super().__init__()
            self.head = nn.Linear(4, classes, bias=False)
            if extra:
                self.more = nn.Linear(1, 1, bias=False)

    stored: dict[str, Any] = {"model": Net(5153, False).state_dict()}
    with pytest.raises(CheckpointError) as found:
        restore_weights(Net(74, True), stored, "x.pt", strict=False, model_cfg={"neck": {"class_num": 74}})
    text = str(found.value)
    assert "missing (1): more.weight" in text
    assert "head.weight is [5153, 4] in the file and [74, 4] in the network" in text
    assert "model_cfg.neck.class_num is 74 in this config; the checkpoint seems to have 5153 there" in text

    stored["config"] = {"model_cfg": {"model": "GaitBase"}}
    with pytest.raises(CheckpointError, match=r"model_cfg\.model is 'GaitSet' in this config.*trained with 'GaitBase'"):
        restore_weights(Net(74, True), stored, "x.pt", model_cfg={"model": "GaitSet"})

    with pytest.raises(CheckpointError, match="restore_ckpt_strict: false"):
        restore_weights(Net(74, True), {"model": Net(74, False).state_dict()}, "x.pt")
    restore_weights(Net(74, True), {"model": Net(74, False).state_dict()}, "x.pt", strict=False)


def test_pruning_keeps_the_newest_by_number(tmp_path: Path) -> None:
    for name in ("run-00900.pt", "run-01000.pt", "run-100000.pt", "other-00001.pt", "run-x.pt"):
        (tmp_path / name).touch()
    prune_checkpoints(tmp_path, "run", 2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "run-01000.pt",
        "run-100000.pt",
        "other-00001.pt",
        "run-x.pt",
    }
