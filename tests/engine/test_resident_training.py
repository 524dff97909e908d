"""Training on resident data is training with a loader, bit for bit; what cannot be resident is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_same import assert_same, assert_same_checkpoints
from engine_tiny import tiny_config

from opengait.data import resident as room
from opengait.data.dataset import GaitDataset
from opengait.data.tree_packing import pack_tree
from opengait.engine import resident
from opengait.engine.hooks import Hook
from opengait.engine.memory import OutOfMemoryError
from opengait.engine.preflight import preflight
from opengait.engine.resident import no_room
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Trainer, TrainResult

CPU = torch.device("cpu")
UNFIXED = {"sample_type": "unfixed_unordered", "frames_num_min": 3, "frames_num_max": 6}


@pytest.fixture
def packed(tree: Path) -> str:
    return str(pack_tree(tree / "tree", progress=False).out)


def changed(packed: str, setting: Any, **changes: Any) -> dict[str, Any]:
    return {"data_cfg__dataset_root": packed, "data_cfg__resident": setting, **changes}


def run(tree: Path, output: Path, changes: dict[str, Any], resume: str = "no", hook: Hook | None = None) -> TrainResult:
    config = tiny_config(tree, **changes)
    trainer = Trainer(config, run_folder(config, "trainer_cfg", output), device=CPU, resume=resume)
    trainer.hooks += [hook] if hook else []
    return trainer.fit()


class PullThePlug(Hook):
    def after_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.iteration == 3:
            raise RuntimeError("pulled the plug")


def test_training_and_resuming_give_the_same_bits(packed: str, tree: Path, tmp_path: Path) -> None:
    changes = {"trainer_cfg__save_iter": 2, "model_cfg__dropout": 0.3, "trainer_cfg__total_iter": 5}
    expected = run(tree, tmp_path / "loader", changed(packed, False, **changes))
    found = run(tree, tmp_path / "resident", changed(packed, True, **changes))
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)
    with pytest.raises(RuntimeError, match="pulled"):
        run(tree, tmp_path / "cut", changed(packed, True, **changes), hook=PullThePlug())
    resumed = run(tree, tmp_path / "cut", changed(packed, True, **changes), resume="auto")
    assert_same_checkpoints(resumed.checkpoint, expected.checkpoint)


def test_a_run_goes_on_where_the_data_lie_elsewhere(packed: str, tree: Path, tmp_path: Path) -> None:
    """A part of a run from a loader, the rest from the device."""
    changes = {"trainer_cfg__save_iter": 2, "model_cfg__dropout": 0.3, "trainer_cfg__total_iter": 5}
    expected = run(tree, tmp_path / "loader", changed(packed, False, **changes))
    with pytest.raises(RuntimeError, match="pulled"):
        run(tree, tmp_path / "cut", changed(packed, False, **changes), hook=PullThePlug())
    resumed = run(tree, tmp_path / "cut", changed(packed, True, **changes), resume="auto")
    assert_same_checkpoints(resumed.checkpoint, expected.checkpoint)


def test_two_processes_train_alike(
    in_processes: Callable[..., list[dict[str, Any]]], packed: str, tree: Path, tmp_path: Path
) -> None:
    """A fixed number of frames, and batches packed along time."""
    network = {"model": "GaitSet", "in_channels": [1, 4, 8, 16], "bin_num": [4, 1],
               "SeparateFCs": {"in_channels": 16, "out_channels": 8, "parts_num": 10}}  # fmt: skip
    loss = {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2}
    kinds = {"fixed": {}, "unfixed": {f"trainer_cfg__sampler__{key}": value for key, value in UNFIXED.items()}}
    place = {"root": str(tree), "output": str(tmp_path)}
    jobs = {
        f"train:{kind} {setting}": {
            **place,
            "changes": changed(packed, setting, model_cfg=network, loss_cfg=loss, trainer_cfg__total_iter=2, **own),
        }
        for kind, own in kinds.items()
        for setting in (False, True)
    }
    for one in in_processes(jobs):
        for kind in kinds:
            assert_same(one[f"train:{kind} True"], one[f"train:{kind} False"])


def test_auto_on_a_cpu_reads_with_a_loader_and_says_so(
    packed: str, tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="opengait"):
        trainer = Trainer(tiny_config(tree, **changed(packed, "auto")), tmp_path / "run", device=CPU)
    assert trainer.resident is None
    [line] = [one.getMessage() for one in caplog.records if "data_cfg.resident" in one.getMessage()[:20]]
    assert line == "data_cfg.resident: auto: a loader reads the frames, since cpu has no memory of its own"


def test_auto_decides_by_the_index_and_what_is_free(
    packed: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that says it is a GPU; its memory is the host's."""
    config = tiny_config(tree, **changed(packed, "auto"))
    trainer = Trainer(config, tmp_path / "run", device=CPU)
    needed = room.resident_bytes(trainer.dataset)
    assert needed == sum(array.nbytes for index in range(len(trainer.dataset)) for array in trainer.dataset.read(index))

    class Pretended:
        type = "cuda"

    def keep() -> Any:
        return resident.keep_resident(
            config["data_cfg"], trainer.dataset, trainer.transforms, trainer.model, Pretended()  # type: ignore[arg-type]
        )  # fmt: skip

    monkeypatch.setattr(resident, "ResidentFrames", lambda dataset, device: room.ResidentFrames(dataset, CPU))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * needed, 4 * needed))
    assert keep().bytes == needed
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * needed - 1, 4 * needed))
    with caplog.at_level(logging.INFO, logger="opengait"):
        assert keep() is None
    assert "GB are free, of which 50% of the whole is kept for the network" in caplog.text


def test_room_is_what_is_free_beside_half_of_the_memory() -> None:
    assert no_room(10, 50, 80) is None
    assert no_room(11, 50, 80) is not None
    assert no_room(0, 30, 80) is not None  # others use the device


def test_true_where_it_cannot_be_is_an_error_before_anything_runs(tree: Path, tmp_path: Path) -> None:
    config = tiny_config(tree, data_cfg__resident=True)
    with pytest.raises(ValueError, match=r"data_cfg\.resident: true: .* folder tree of pickles; `opengait pack"):
        Trainer(config, tmp_path / "run", device=CPU)
    found = preflight(config, run_batch=False, output=tmp_path)
    assert any("data_cfg.resident: true" in one.message for one in found if one.level == "error")
    auto = tiny_config(tree, data_cfg__resident="auto")
    assert Trainer(auto, tmp_path / "run", device=CPU).resident is None


def test_data_that_do_not_fit_are_an_error_with_advice(
    packed: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(dataset: GaitDataset, device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(resident, "ResidentFrames", full)
    with pytest.raises(OutOfMemoryError, match=r"`false` reads them with a loader"):
        Trainer(tiny_config(tree, **changed(packed, True)), tmp_path / "run", device=CPU)


def test_memory_that_runs_out_later_names_the_resident_data(packed: str, tree: Path, tmp_path: Path) -> None:
    class Full(Hook):
        def start(self, trainer: Trainer) -> None:
            def forward(batch: Any) -> Any:
                raise torch.OutOfMemoryError("CUDA out of memory")

            trainer._forward = forward  # type: ignore[method-assign]

    with pytest.raises(OutOfMemoryError, match=r"What helps: data_cfg\.resident: false, which frees"):
        run(tree, tmp_path, changed(packed, True), hook=Full())
