"""Checkpoint files: whole, safe, and clear about what does not fit."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opengait.engine.checkpoint import (
    CheckpointError,
    checkpoint_name,
    find_checkpoint,
    load_checkpoint,
    model_weights,
    restore_weights,
    save_checkpoint,
)
from opengait.engine.checkpoint_files import check_digest, stored_digest
from opengait.engine.retention import prune_checkpoints


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run-00010.pt"
    save_checkpoint(path, {"model": nn.Linear(30, 4).state_dict(), "iteration": 10})
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


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.faults)])
def test_a_file_cut_at_any_byte_or_with_any_byte_changed_is_refused_by_name(saved: Path, step: int) -> None:
    whole = saved.read_bytes()
    rng = np.random.default_rng(0)
    # All of the end, where the digest and the record before it stand.
    places = [place for place in range(len(whole)) if place % step == 0 or place > len(whole) - 120]
    damaged = [whole[:length] for length in places]
    damaged += [_flipped(whole, place, 1 << rng.integers(8)) for place in places]
    for content in damaged:
        saved.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(str(saved))):
            load_checkpoint(saved)
    saved.write_bytes(whole)
    assert load_checkpoint(saved)["iteration"] == 10


def test_a_file_with_its_digest_is_one_that_plain_torch_loads(saved: Path) -> None:
    state = torch.load(saved, weights_only=True)
    torch.testing.assert_close(state["model"], load_checkpoint(saved)["model"], rtol=0, atol=0)
    as_torch_writes = io.BytesIO()
    torch.save(state, as_torch_writes)
    assert stored_digest(saved) == hashlib.sha256(as_torch_writes.getvalue()).hexdigest()
    saved.write_bytes(as_torch_writes.getvalue())
    assert stored_digest(saved) is None
    assert not check_digest(saved)


def test_a_file_without_digest_is_checked_by_its_archives_sums(tmp_path: Path) -> None:
    path = tmp_path / "run-00010.pt"
    layer = nn.Linear(30, 40)
    torch.save({"model": layer.state_dict()}, path)
    whole = path.read_bytes()
    weights = whole.index(layer.weight.detach().numpy().tobytes())
    for position in (weights, weights + 2000):
        path.write_bytes(_flipped(whole, position, 1))
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load_checkpoint(path)
    path.write_bytes(whole[:-30])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def _flipped(content: bytes, position: int, bits: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= bits
    return bytes(changed)


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


def test_pruning_keeps_multiples_and_the_best_beside_the_newest(tmp_path: Path) -> None:
    for number in range(100, 1100, 100):
        (tmp_path / checkpoint_name("run", number)).touch()
    prune_checkpoints(tmp_path, "run", 2, keep_every=300, best=500)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        checkpoint_name("run", number) for number in (300, 500, 600, 900, 1000)
    ]
    prune_checkpoints(tmp_path, "run", None)
    assert len(list(tmp_path.iterdir())) == 5


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
