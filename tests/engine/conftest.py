"""Small data, and a way to run one function in several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_processes import HERE, free_port, process_environment
from engine_tiny import write_tree


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums do not depend on how the machine splits them, and processes do not crowd each other out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small data set of its own for each test."""
    return write_tree(tmp_path)


@pytest.fixture(scope="session")
def in_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Runs jobs of `engine_worker.py` in several gloo processes; job name -> result, for every rank."""

    def run(
        jobs: dict[str, dict[str, Any]], processes: int = 2, worker: str = "engine_worker.py"
    ) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("processes")
        (folder / "jobs.json").write_text(json.dumps(jobs))
        common = {
            **process_environment(),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        started = [
            subprocess.Popen(
                [sys.executable, str(HERE / worker), str(folder)],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(processes)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in started]
        assert [process.returncode for process in started] == [0] * processes, "\n".join(outputs)
        return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(processes)]

    return run
