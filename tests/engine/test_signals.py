"""SIGTERM and SIGINT end a run with a checkpoint and a status of its own; no process is left, not even by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_processes import free_port, process_environment
from engine_same import assert_same_checkpoints, logged
from engine_tiny import TinyNet, tiny_config, write_config
from fault_life import Run

from opengait.engine.checkpoint import list_checkpoints
from opengait.engine.retention import CheckpointTests
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Trainer, TrainResult

LONG = {"trainer_cfg__total_iter": 100000, "trainer_cfg__log_iter": 2, "data_cfg__num_workers": 1}
PATIENCE_S = 600  # of tests, for machines that are busy


def wait_for(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def family(process: int) -> list[int]:
    """A process's children and theirs, as Linux lists them."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except FileNotFoundError:
        return []
    own = [int(child) for child in text.split()]
    return own + [grandchild for child in own for grandchild in family(child)]


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def folder_of(output: Path) -> Path:
    return output / "CASIA-B" / "TinyNet" / "tiny"


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists of children are Linux's")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_loader_worker_survives_and_the_status_says_how_it_ended(
    tree: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = Run(write_config(tree, **LONG), tmp_path / "output")
    (process,) = run.start()
    assert process.pid is not None
    wait_for(lambda: logged(folder_of(run.output)), "no iteration was logged")
    workers = family(process.pid)
    assert workers
    os.kill(process.pid, number)
    process.join(PATIENCE_S)
    assert process.exitcode == (-9 if number == signal.SIGKILL else 128 + number), run.printed.read_text()
    wait_for(lambda: not any(map(lives, workers)), f"{number.name}: workers {workers} outlive their run")
    assert bool(list_checkpoints(folder_of(run.output) / "checkpoints", "tiny")) == (number != signal.SIGKILL)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.faults)])
def test_torchrun_that_is_sent_a_signal_ends_with_a_checkpoint_and_status_1(
    tree: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys\n\nimport engine_tiny\n\nfrom opengait.main import main\n\nsys.exit(main())\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    with subprocess.Popen(
        [*command, str(script), "--cfgs", str(write_config(tree, **LONG)), "--device", "cpu", "--log_to_file"],
        env=process_environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as torchrun:
        folder = folder_of(tmp_path / "output")
        wait_for(lambda: logged(folder) or torchrun.poll() is not None, "no iteration was logged")
        everyone = family(torchrun.pid)
        torchrun.send_signal(number)
        printed = torchrun.communicate(timeout=PATIENCE_S)[1]
    assert torchrun.returncode == 1, printed
    assert len(everyone) >= 4, printed  # two processes with a worker each
    wait_for(lambda: not any(map(lives, everyone)), f"processes of {everyone} outlive torchrun")
    saved = list_checkpoints(folder / "checkpoints", "tiny")
    assert len(saved) == 1, printed
    assert f"{number.name}: stopping after iteration {saved[0][0]}" in printed


def test_a_signal_in_a_test_leaves_it_and_the_resumed_run_makes_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"trainer_cfg__save_iter": 3, "trainer_cfg__with_test": True}

    def run(output: Path, resume: str = "no") -> TrainResult:
        config = tiny_config(tree, **changes)
        folder = run_folder(config, "trainer_cfg", output)
        return Trainer(config, folder, device=torch.device("cpu"), resume=resume).fit()

    expected = run(tmp_path / "whole")
    forward, told = TinyNet.forward, []

    def interrupted(self: TinyNet, inputs: Any) -> Any:
        if not self.training and not told:
            told.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, inputs)

    monkeypatch.setattr(TinyNet, "forward", interrupted)
    stopped = run(tmp_path / "cut")
    assert (stopped.stop_signal, stopped.iteration) == (signal.SIGTERM, 3)
    assert not CheckpointTests(stopped.folder / "checkpoints", "tiny").holds(3)
    found = run(tmp_path / "cut", resume="auto")
    assert CheckpointTests(stopped.folder / "checkpoints", "tiny").holds(3)
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)
    for name in ("CASIA-B-tiny-00003.json", "CASIA-B-tiny-00005.json"):
        assert (found.folder / "results" / name).read_text() == (expected.folder / "results" / name).read_text()
