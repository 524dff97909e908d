"""A full disk, a folder that cannot be written, two runs in one folder: a clear error, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_same import assert_same_checkpoints, logged
from engine_tiny import tiny_config, write_config
from fault_life import Run, context

from opengait import engine
from opengait.config import ConfigError
from opengait.engine.checkpoint import CheckpointError, list_checkpoints, load_checkpoint, save_checkpoint
from opengait.engine.checkpoint_files import whole_file
from opengait.engine.hooks import Hook
from opengait.engine.retention import CheckpointTests
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Trainer, TrainResult

CHANGES: dict[str, Any] = {"trainer_cfg__save_iter": 2, "model_cfg__width": 96}
LIMIT = 100_000  # bytes; a checkpoint of that network has more, all else of a run less


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class FullAfter(Hook):
    """The disk fills up after some iterations."""

    def __init__(self, iteration: int, stack: contextlib.ExitStack) -> None:
        self.iteration, self.stack = iteration, stack

    def after_step(self, trainer: Trainer, step: Any) -> None:
        if trainer.iteration == self.iteration:
            self.stack.enter_context(files_no_larger_than(LIMIT))


def train(tree: Path, output: Path, resume: str = "no", hook: Hook | None = None, **changes: Any) -> TrainResult:
    config = tiny_config(tree, **{**CHANGES, **changes})
    trainer = Trainer(config, run_folder(config, "trainer_cfg", output), device=torch.device("cpu"), resume=resume)
    trainer.hooks[:0] = [] if hook is None else [hook]
    return trainer.fit()


def test_a_full_disk_ends_the_run_with_its_last_checkpoint_whole(tree: Path, tmp_path: Path) -> None:
    expected = train(tree, tmp_path / "whole")
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(CheckpointError, match=r"tiny-00004\.pt: cannot write") as found,
    ):
        train(tree, tmp_path / "cut", hook=FullAfter(3, stack))
    assert "File too large" in str(found.value)
    assert "written before are untouched" in str(found.value)
    folder = tmp_path / "cut" / "CASIA-B" / "TinyNet" / "tiny"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["tiny-00002.pt"]
    assert load_checkpoint(folder / "checkpoints" / "tiny-00002.pt")["iteration"] == 2
    resumed = train(tree, tmp_path / "cut", resume="auto")
    assert_same_checkpoints(resumed.checkpoint, expected.checkpoint)


def test_at_no_size_of_disk_is_a_checkpoint_lost_or_half_a_one_left(tmp_path: Path) -> None:
    path = tmp_path / "run-00001.pt"
    state = {"model": torch.nn.Linear(60, 40).state_dict(), "iteration": 1}
    save_checkpoint(path, state)
    whole = path.read_bytes()
    for limit in (*range(0, len(whole), len(whole) // 30), len(whole) - 1):
        with files_no_larger_than(limit), pytest.raises(CheckpointError, match="cannot write the checkpoint"):
            save_checkpoint(path, {**state, "iteration": 2})
        assert path.read_bytes() == whole
        assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_where_no_checkpoint_can_be_written_is_known_before_the_first_iteration(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "CASIA-B" / "TinyNet" / "tiny"
    folder.mkdir(parents=True)
    (folder / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="checkpoints: no checkpoint can be written here"):
        train(tree, tmp_path)
    assert (folder / "checkpoints").is_file()


def _save_as_nobody(folder: str, told: Any) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        save_checkpoint(Path(folder) / "run-00002.pt", {"model": {}})
    except CheckpointError as error:
        told.send(str(error))
    told.close()


def test_a_read_only_folder_is_named_and_what_is_in_it_stays(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("read-only")
    save_checkpoint(folder / "run-00001.pt", {"model": {}, "iteration": 1})
    for parent in [folder, *folder.parents[:2]]:  # pytest's own folders are closed to others
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    folder.chmod(0o555)
    receiver, sender = context().Pipe(duplex=False)
    process = context().Process(target=_save_as_nobody, args=(str(folder), sender))
    process.start()
    sender.close()
    said = receiver.recv()
    process.join()
    folder.chmod(0o755)
    assert "run-00002.pt: cannot write the checkpoint" in said
    assert "Permission denied" in said
    assert [path.name for path in folder.iterdir()] == ["run-00001.pt"]


def test_a_file_gets_its_name_when_its_bytes_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append(
            "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"{os.fstat(descriptor).st_size} bytes"
        )
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        calls.append(f"-> {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with whole_file(tmp_path / "file") as file:
        file.write(b"12345")
    assert calls == ["5 bytes", "-> file", "folder"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.faults)])
def test_the_second_run_in_a_folder_is_refused_until_the_first_has_ended(
    tree: Path, tmp_path: Path, processes: int
) -> None:
    first = Run(write_config(tree, trainer_cfg__total_iter=100000, data_cfg__num_workers=1), tmp_path, processes)
    started = first.start()
    folder = tmp_path / "CASIA-B" / "TinyNet" / "tiny"
    while not logged(folder):
        assert all(process.is_alive() for process in started), first.printed.read_text()
    short = tiny_config(tree, trainer_cfg__total_iter=1)
    with pytest.raises(ValueError, match=rf"another run writes here \(.*{started[0].pid}"):
        engine.train(short, device="cpu", output=tmp_path)
    other = Run(write_config(tree, trainer_cfg__total_iter=1), tmp_path, 2)
    other.printed = tmp_path / "other.printed"
    assert 0 not in other.live()
    assert "another run writes here" in other.printed.read_text()
    assert all(process.is_alive() for process in started)
    for process in started:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    for process in started:
        process.join()
    assert engine.train(short, device="cpu", output=tmp_path).iteration == 1  # though a worker may still be there


def test_what_was_tested_is_remembered_of_the_very_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tests = CheckpointTests(tmp_path, "run")
    for iteration, rank1 in ((10, 50.0), (20, 70.0), (30, 70.0), (40, 60.0)):
        save_checkpoint(tmp_path / f"run-{iteration:05d}.pt", {"model": {}, "iteration": iteration})
        tests.record(iteration, {"scalar/test_accuracy/NM@R1": rank1})
    assert [tests.holds(iteration) for iteration in (10, 40, 50)] == [True, True, False]
    assert tests.best("NM@R1") == tests.best("test_accuracy/NM@R1") == 20
    assert tests.best("BG@R1") is None
    save_checkpoint(tmp_path / "run-00020.pt", {"model": {}, "iteration": 20, "other": True})
    assert not tests.holds(20)
    assert tests.best("NM@R1") == 30
    tests.path.write_text("{")
    assert tests.best("NM@R1") is None
    assert "cannot be read" in caplog.text


def test_keeping_is_checked_before_the_first_iteration(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep_every has no effect without keep_last"):
        tiny_config(tree, trainer_cfg__keep_every=10)
    with pytest.raises(ConfigError, match="keep_best needs with_test: true"):
        tiny_config(tree, trainer_cfg__keep_best="NM@R1", trainer_cfg__keep_last=1)
    keep = {"trainer_cfg__keep_last": 1, "trainer_cfg__with_test": True}
    with pytest.raises(
        ValueError, match=r"no figure 'NM@R2' \(did you mean 'NM@R1'\?\); it gives: NM@R1, BG@R1, CL@R1"
    ):
        train(tree, tmp_path, trainer_cfg__keep_best="NM@R2", **keep)
    assert not list_checkpoints(tmp_path / "CASIA-B" / "TinyNet" / "tiny" / "checkpoints", "tiny")


def test_the_best_and_multiples_stay_beside_the_newest(tree: Path, tmp_path: Path) -> None:
    keep = {"trainer_cfg__keep_last": 1, "trainer_cfg__keep_every": 4, "trainer_cfg__keep_best": "NM@R1"}
    changes = {"trainer_cfg__total_iter": 7, "trainer_cfg__save_iter": 1, "trainer_cfg__with_test": True, **keep}
    done = train(tree, tmp_path, **changes)
    tests = CheckpointTests(done.folder / "checkpoints", "tiny")
    kept = {iteration for iteration, _ in list_checkpoints(done.folder / "checkpoints", "tiny")}
    assert kept == {4, 7, tests.best("NM@R1")}
