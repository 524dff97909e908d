"""Embeddings dealt out over processes give the figures of one process, to the last digit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shares_worker

from opengait.evaluation.distances import Distances

HERE = Path(__file__).resolve().parent


def run_processes(folder: Path, count: int) -> list[dict[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join([str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    started = []
    for number in range(count):
        surroundings = {
            **os.environ,
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, str(HERE / "shares_worker.py"), str(folder)]
        started.append(subprocess.Popen(command, env=surroundings, stderr=subprocess.PIPE, text=True))
    failures = [process.communicate(timeout=240)[1] for process in started]
    assert not any(process.returncode for process in started), failures
    return [json.loads((folder / f"results-{number}.json").read_text()) for number in range(count)]


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_processes_gives_the_result_of_one(tmp_path: Path, count: int) -> None:
    expected = shares_worker.results(tmp_path)
    for number, found in enumerate(run_processes(tmp_path, count)):
        for name, result in expected.items():
            # The process numbered 0 writes the submission.
            assert found[name] == (result if number == 0 else result[: len(found[name])]), (number, name)
            assert number == 0 or name == "submission" or len(found[name]) == len(result)


def test_sequences_that_nobody_holds_are_an_error() -> None:
    with pytest.raises(ValueError, match="do not hold each of 3 sequences once"):
        Distances(np.zeros((3, 2, 1)), indices=np.array([0, 1, 3]))
