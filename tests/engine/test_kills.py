"""Killed anywhere and resumed, a run ends with the bits of one that was never interrupted, on a CPU."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_same import assert_same_checkpoints, logged, scalars
from engine_tiny import write_config, write_tree
from fault_life import End, Run

from opengait.engine.checkpoint import list_checkpoints

CHANGES: dict[str, Any] = {
    "trainer_cfg__total_iter": 8,
    "trainer_cfg__save_iter": 3,
    "trainer_cfg__log_iter": 2,
    "trainer_cfg__with_test": True,
    "trainer_cfg__keep_last": 2,
    "trainer_cfg__keep_best": "NM@R1",
    "model_cfg__dropout": 0.3,
    "optimizer_cfg": {"solver": "Adam", "lr": 0.01, "weight_decay": 0.0},
}
WRITING, TESTING, LOADING = "opengait.engine.checkpoint_files:", "opengait.engine.evaluator:", "opengait.data.loader:"
# Of four kinds: inside the writing of a file, of a test, of a loader's start, and between all of them. The first files
# that a run writes are config.yaml and run.json; a checkpoint of this network is some eighty pieces.
PLACES = [
    End(f"{WRITING}_Hashing.write", 40),
    End(f"{WRITING}_Hashing.write", 130),
    *(End("os:fsync", call) for call in range(1, 13)),
    *(End("os:replace", call, after) for call in range(3, 8) for after in (False, True)),
    End("opengait.engine.hooks.checkpoint:prune_checkpoints", 4),
    End("opengait.engine.hooks.checkpoint:prune_checkpoints", 5, after=True),
    *(End(f"{TESTING}Evaluator.{method}", call) for method in ("run", "_judge", "_tell", "_write") for call in (1, 3)),
    End("opengait.engine.hooks.tensorboard:write_figures", 2),
    End("opengait.engine.hooks.tensorboard:write_figures", 1, after=True),
    End("opengait.engine.hooks.checkpoint:CheckpointHook.after_test", 2),
    *(End(f"{LOADING}BatchLoader._start", call, after) for call in (1, 2) for after in (False, True)),
    *(End("opengait.data.collate:BatchReader.read", call) for call in (1, 4, 6, 14)),
    *(End("opengait.engine.hooks.log:LogHook._log", call, after) for call in (1, 3) for after in (False, True)),
    End("opengait.engine.trainer:restore"),
    End("opengait.engine.run_lock:_lock", after=True),
    End("torch.optim:Adam.step", 5),
    End("torch.optim:Adam.step", 5, after=True),
]
OTHERS = [  # of two processes: the first at some of these places, the second at some of its own
    *PLACES[::4],
    End("torch.optim:Adam.step", 4, rank=1),
    End(f"{TESTING}Evaluator._judge", rank=1),
    End("opengait.data.collate:BatchReader.read", 2, rank=1),
    End("opengait.engine.trainer:Trainer.state_dict", 2, rank=1),
    End("opengait.engine.trainer:Trainer.state_dict", 1, after=True, rank=1),
]
SHORT = [
    End("os:replace", 4),  # the second checkpoint has its bytes, not yet its name
    End(f"{TESTING}Evaluator._judge", 1),
    End(f"{LOADING}BatchLoader._start", 1, after=True),
]
KILLED = -9


@dataclass
class Uninterrupted:
    """What all others are compared with."""

    run: Run
    seconds: float

    @property
    def folder(self) -> Path:
        return self.run.output / "CASIA-B" / "TinyNet" / "tiny"


class Runs:
    """Uninterrupted runs, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = write_tree(root)
        self._made: dict[tuple[int, int], Uninterrupted] = {}

    def uninterrupted(self, processes: int, workers: int) -> Uninterrupted:
        key = processes, workers
        if key not in self._made:
            # Of gradients this large, sums over three processes depend on the order.
            more = {"trainer_cfg__deterministic": True, "model_cfg__width": 64} if processes > 2 else {}
            config = write_config(self.root, **{**CHANGES, **more}, data_cfg__num_workers=workers)
            run = Run(config, self.root / f"whole-{processes}-{workers}", processes)
            began = time.monotonic()
            assert run.live(resume="no") == [0] * processes, run.printed.read_text()
            self._made[key] = Uninterrupted(run, time.monotonic() - began)
        return self._made[key]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("kills"))


def assert_nothing_lost(cut: Run, whole: Uninterrupted, scratch: Path) -> None:
    """Weights, optimiser state, logged losses and test figures are those of the run that was not interrupted."""
    folder = cut.output / "CASIA-B" / "TinyNet" / "tiny"
    found, expected = (list_checkpoints(place / "checkpoints", "tiny") for place in (folder, whole.folder))
    assert [iteration for iteration, _ in found] == [iteration for iteration, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        assert_same_checkpoints(one, other)
    assert logged(folder) == logged(whole.folder)
    shown = scalars(folder, scratch / f"{cut.output.name}-events")
    shown_whole = scalars(whole.folder, scratch / f"{cut.output.name}-whole-events")
    # A test whose figures were shown, but not yet remembered, is made again.
    assert {tag: sorted(set(events)) for tag, events in shown.items()} == shown_whole
    results = {path.name: json.loads(path.read_text()) for path in (whole.folder / "results").glob("*.json")}
    assert {path.name: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")} == results
    assert not list(folder.rglob(".*.tmp"))


def cut_and_resume(runs: Runs, end: End, tmp_path: Path, processes: int, workers: int = 0) -> None:
    whole = runs.uninterrupted(processes, workers)
    cut = Run(whole.run.config, tmp_path / "cut", processes)
    statuses = cut.live(end=end)
    assert statuses[end.rank] == KILLED, f"{end}: never came there\n{cut.printed.read_text()}"
    assert cut.live() == [0] * processes, cut.printed.read_text()
    assert_nothing_lost(cut, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("end", SHORT, ids=str)
def test_killed_at_a_place_and_resumed_nothing_is_lost(runs: Runs, end: End, tmp_path: Path) -> None:
    cut_and_resume(runs, end, tmp_path, processes=1)


@pytest.mark.slow
def test_killed_at_a_moment_two_processes_resumed_nothing_is_lost(runs: Runs, tmp_path: Path) -> None:
    _kill_at_moments(runs, 2, 0, tmp_path, seed=0, kills=1)


@pytest.mark.faults
@pytest.mark.parametrize("end", PLACES, ids=str)
def test_killed_at_every_place_and_resumed_nothing_is_lost(runs: Runs, end: End, tmp_path: Path) -> None:
    cut_and_resume(runs, end, tmp_path, processes=1)


@pytest.mark.faults
@pytest.mark.parametrize("end", OTHERS, ids=str)
def test_killed_at_every_place_two_processes_resumed_nothing_is_lost(runs: Runs, end: End, tmp_path: Path) -> None:
    cut_and_resume(runs, end, tmp_path, processes=2)


@pytest.mark.faults
def test_deterministic_three_processes_killed_and_resumed_nothing_is_lost(runs: Runs, tmp_path: Path) -> None:
    cut_and_resume(runs, End("torch.optim:Adam.step", 5, rank=2), tmp_path, processes=3)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 1), (2, 0), (2, 1)])
def test_killed_at_random_moments_and_resumed_nothing_is_lost(
    runs: Runs, processes: int, workers: int, seed: int, tmp_path: Path
) -> None:
    _kill_at_moments(runs, processes, workers, tmp_path, seed=seed, kills=3)


def _kill_at_moments(runs: Runs, processes: int, workers: int, tmp_path: Path, *, seed: int, kills: int) -> None:
    whole = runs.uninterrupted(processes, workers)
    rng = random.Random(f"{processes} {workers} {seed}")
    seconds, killed, tries = whole.seconds, 0, 0
    cut = Run(whole.run.config, tmp_path / "cut", processes)
    while killed < kills:
        if KILLED in cut.live(killed_after=rng.uniform(0, seconds)):
            killed += 1
        else:  # it came to its end before; another one, killed sooner
            killed, tries, seconds = 0, tries + 1, 0.7 * seconds
            cut = Run(whole.run.config, tmp_path / f"cut-{tries}", processes)
    assert cut.live() == [0] * processes, cut.printed.read_text()
    assert_nothing_lost(cut, whole, tmp_path)
