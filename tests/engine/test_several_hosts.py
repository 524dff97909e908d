"""Two machines train and test as one; what dies there is replaced, what hangs is named."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_same import assert_same_checkpoints, logged
from engine_tiny import write_config, write_tree
from fault_life import End, Run
from host_job import write_job
from hosts import Host, two_hosts

from opengait.engine.checkpoint import list_checkpoints
from opengait.main import main

PATIENCE_S = 600  # of tests, for machines that are busy
CHANGES: dict[str, Any] = {
    "trainer_cfg__total_iter": 8,
    "trainer_cfg__save_iter": 3,
    "model_cfg__dropout": 0.3,
    "optimizer_cfg": {"solver": "Adam", "lr": 0.01, "weight_decay": 0.0},
}
STEP = "torch.optim:Adam.step"
NAMED = r"rank 1 of 2 \(host [ab], process \d+\) did not arrive: rank 0 waited 20 s"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    yield from two_hosts(tmp_path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """The folder of a run of two processes on one machine."""
    run = Run(write_config(root, **CHANGES), root / "whole", 2)
    assert run.live(resume="no") == [0, 0], run.printed.read_text()
    return folder_of(run.output)


def folder_of(output: Path) -> Path:
    return output / "CASIA-B" / "TinyNet" / "tiny"


class Launch:
    """One `torchrun` on each of the hosts."""

    def __init__(self, hosts: list[Host], job: Path, **options: int) -> None:
        self.printed = [job.with_name(f"{host.name}.printed") for host in hosts]
        pairs = zip(hosts, self.printed, strict=True)
        self.started = [host.torchrun(job, file, first=hosts[0].address, **options) for host, file in pairs]

    def text(self) -> str:
        return "\n".join(f"--- {file.stem}\n{file.read_text()}" for file in self.printed)

    def statuses(self) -> list[int]:
        """Of both, once they have ended."""
        deadline = time.monotonic() + PATIENCE_S
        try:
            return [one.wait(max(0.1, deadline - time.monotonic())) for one in self.started]
        finally:
            self.end()

    def end(self) -> None:
        """Kills both torchruns; the fixture what they have started."""
        for one in self.started:
            one.kill()
            one.wait()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                self.end()
                raise AssertionError(self.text())
            time.sleep(0.1)


def training(root: Path, output: Path, **changes: Any) -> list[str]:
    config = write_config(root, **{**CHANGES, **changes})
    return ["--cfgs", str(config), "--device", "cpu", "--output", str(output), "--resume", "auto", "--log_to_file"]


def assert_same_runs(found: Path, expected: Path) -> None:
    pairs = [list_checkpoints(place / "checkpoints", "tiny") for place in (found, expected)]
    assert [number for number, _ in pairs[0]] == [number for number, _ in pairs[1]]
    for (_, one), (_, other) in zip(*pairs, strict=True):
        assert_same_checkpoints(one, other)
    assert logged(found) == logged(expected)


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(hosts: list[Host], root: Path, tmp_path: Path) -> None:
    """In three iterations; their bits are compared in the long form."""
    brief = {"trainer_cfg__total_iter": 3, "trainer_cfg__save_iter": 1, "trainer_cfg__keep_last": 1}
    job = write_job(tmp_path / "job.json", training(root, tmp_path / "output", **brief), End(STEP, 2, rank=1))
    launch = Launch(hosts, job, restarts=2)
    assert launch.statuses() == [0, 0], launch.text()
    assert "going on after iteration 1" in launch.text()
    folder = folder_of(tmp_path / "output")
    assert [number for number, _ in list_checkpoints(folder / "checkpoints", "tiny")] == [3]


@pytest.mark.faults
def test_a_process_that_dies_is_replaced_and_two_hosts_end_with_the_bits_of_one(
    hosts: list[Host], root: Path, whole: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "job.json", training(root, tmp_path / "output"), End(STEP, 5, rank=1))
    launch = Launch(hosts, job, restarts=2)
    assert launch.statuses() == [0, 0], launch.text()
    assert "going on after iteration 3" in launch.text()
    assert_same_runs(folder_of(tmp_path / "output"), whole)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGSTOP, 0], ids=["stopped", "asleep"])
def test_a_process_that_hangs_is_named_and_replaced(
    hosts: list[Host], root: Path, whole: Path, tmp_path: Path, number: int
) -> None:
    arguments = training(root, tmp_path / "output", trainer_cfg__dist_timeout_s=20)
    launch = Launch(hosts, write_job(tmp_path / "job.json", arguments, End(STEP, 5, rank=1, number=number)), restarts=3)
    assert launch.statuses() == [0, 0], launch.text()
    assert re.search(NAMED, launch.text())
    assert_same_runs(folder_of(tmp_path / "output"), whole)


@pytest.mark.faults
def test_without_restarts_a_run_with_a_process_that_hangs_ends(hosts: list[Host], root: Path, tmp_path: Path) -> None:
    arguments = training(root, tmp_path / "output", trainer_cfg__dist_timeout_s=20)
    launch = Launch(hosts, write_job(tmp_path / "job.json", arguments, End(STEP, 5, rank=1, number=0)))
    assert launch.statuses() == [1, 1], launch.text()
    assert re.search(NAMED, launch.text()), launch.text()


@pytest.mark.faults
def test_a_host_that_vanishes_from_the_network_is_named(hosts: list[Host], root: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    arguments = training(root, output, trainer_cfg__dist_timeout_s=20, trainer_cfg__total_iter=100000)
    launch = Launch(hosts, write_job(tmp_path / "job.json", arguments))
    first, second = launch.printed
    launch.wait_for(lambda: len(list_checkpoints(folder_of(output) / "checkpoints", "tiny")) > 1)
    hosts[1].cut()
    # The machine of the rendezvous can say who it was, the other one that nobody answers; its torchrun goes on trying.
    launch.wait_for(lambda: launch.started[0].poll() is not None and "does not answer either" in second.read_text())
    assert launch.started[0].returncode == 1
    assert re.search(r"rank \d of 2 \(host b, process \d+\) (did not arrive|is gone)", first.read_text())
    launch.end()


@pytest.mark.faults
@pytest.mark.parametrize("processes", [1, 2])
def test_figures_of_two_hosts_are_those_of_one_process(
    hosts: list[Host], root: Path, whole: Path, tmp_path: Path, processes: int
) -> None:
    """Thirty sequences, of which four processes can not have the same number."""
    config, found = write_config(root, **CHANGES), []
    for output in (tmp_path / "alone", tmp_path / "spread"):
        shutil.copytree(whole / "checkpoints", folder_of(output) / "checkpoints")
        common = ["--cfgs", str(config), "--device", "cpu", "--output", str(output), "--phase", "test", "--iter", "8"]
        if output.name == "alone":
            assert main(common) == 0
        else:
            launch = Launch(hosts, write_job(tmp_path / "job.json", common), processes=processes)
            assert launch.statuses() == [0, 0], launch.text()
        (result,) = (folder_of(output) / "results").glob("*.json")
        found.append(json.loads(result.read_text()))
    assert found[0] == found[1]
