"""A process that dies, hangs or never comes ends the others with a message that names it."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_processes import free_port
from engine_tiny import write_config, write_tree
from fault_life import End, Run

from opengait.engine import meeting, restore
from opengait.engine.checkpoint import CheckpointError
from opengait.engine.distributed import init_from_environment
from opengait.engine.meeting import MissingProcessError
from opengait.engine.roll_call import LostProcessError, RollCall

STEP = "torch.optim:SGD.step"
TIMED_OUT = "[unbound_buffer.cc:78] Timed out waiting 1000ms for recv operation to complete"
CLOSED = "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:23223."


def run_with(root: Path, end: End, timeout: int, **changes: Any) -> tuple[list[int | None], str]:
    """Exit statuses of two processes of which one comes to an end, and what they printed."""
    run = Run(write_config(write_tree(root), trainer_cfg__dist_timeout_s=timeout, **changes), root / "output", 2)
    started = run.start(end=end)
    for process in started:
        process.join(600)
    statuses = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return statuses, run.printed.read_text()


def run_with_a_hanging(root: Path, place: str, call: int, rank: int, **changes: Any) -> str:
    """What two processes printed of which one hangs; both have ended with status 1, and the other one named it.

    Where the machine is busy, a process may be late without hanging; then all is done again with more time.
    """
    printed = ""
    for timeout in (3, 15, 90):
        folder = root / str(timeout)
        folder.mkdir()
        statuses, printed = run_with(folder, End(place, call, rank=rank, number=0), timeout, **changes)
        other = f"did not arrive: rank {1 - rank} waited {timeout} s"
        named = re.search(rf"LostProcessError: rank {rank} of 2 \(host \S+, process \d+\) {other}", printed)
        if named and statuses == [1, 1]:
            return printed
    raise AssertionError(printed)


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_ends_too(tmp_path: Path) -> None:
    printed = run_with_a_hanging(tmp_path, STEP, 2, rank=1)
    assert "rank 1: the others have given up waiting; it stands at" in printed
    assert "in come" in printed  # where it slept


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "place",
    [
        STEP,
        "opengait.data.collate:BatchReader.read",
        "opengait.engine.evaluator:Evaluator._judge",
        "os:fsync",
        "opengait.engine.trainer:Trainer.state_dict",
    ],
)
def test_wherever_a_process_hangs_it_is_named(tmp_path: Path, place: str, rank: int) -> None:
    if place == "os:fsync" and rank:
        pytest.skip("only the first process writes")
    run_with_a_hanging(tmp_path, place, 1, rank, trainer_cfg__with_test=True, trainer_cfg__save_iter=3)


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_is_named(tmp_path: Path, rank: int) -> None:
    statuses, printed = run_with(tmp_path, End(STEP, 2, rank=rank, number=signal.SIGKILL), timeout=60)
    assert (statuses[rank], statuses[1 - rank]) == (-9, 1), printed
    # The store ends with the first process, where no launcher keeps it.
    known = r"rank 1 of 2 \(.*\) is gone: rank 0 lost its connection"
    assert re.search(known if rank else r"the store of the 2 processes, .* does not answer either", printed)


class Group:
    """The roll calls of several processes, in one."""

    def __init__(self, size: int, timeout: float) -> None:
        self.store = dist.HashStore()
        self.left: list[int] = []
        self.calls = [RollCall(self.store, rank, size, timeout, leave=self.left.append) for rank in range(size)]

    def explain(self, errors: dict[int, BaseException]) -> dict[int, LostProcessError | None]:
        """What each of the processes says to its error, all at once."""
        found: dict[int, LostProcessError | None] = {}

        def ask(rank: int, error: BaseException) -> None:
            found[rank] = self.calls[rank].explain(error)

        threads = [threading.Thread(target=ask, args=pair) for pair in errors.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found

    def close(self) -> None:
        for call in self.calls:
            call.close()


def test_of_four_the_two_that_do_not_report_are_named_by_all_others() -> None:
    group = Group(4, timeout=1)
    found = group.explain({0: RuntimeError(TIMED_OUT), 2: RuntimeError(CLOSED)})
    group.close()
    for error in found.values():
        assert isinstance(error, LostProcessError)
        assert re.search(r"rank 1 of 4 \(host .*, process \d+\) (did not arrive|is gone); rank 3 of 4 \(", str(error))
        assert "rank 0 of 4" not in str(error)
        assert "rank 2 of 4" not in str(error)


def test_a_process_with_an_error_of_its_own_leaves_it_for_the_others() -> None:
    group = Group(2, timeout=1)
    assert group.explain({1: KeyError("its cause")}) == {1: None}
    found = group.explain({0: RuntimeError(CLOSED)})[0]
    group.close()
    assert "rank 1 of 2" in str(found)
    assert "has failed: KeyError: 'its cause'" in str(found)


def test_where_all_report_the_connection_is_to_blame() -> None:
    group = Group(2, timeout=1)
    found = group.explain({rank: RuntimeError(CLOSED) for rank in range(2)})
    group.close()
    assert all("though all 2 processes are there: [gloo/transport" in str(error) for error in found.values())


def test_a_host_that_waits_for_its_device_in_vain_ends_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(2, timeout=0.5)
    with group.calls[0].waiting():
        for _ in range(1200):
            if group.left:
                break
            threading.Event().wait(0.05)
    group.close()
    assert group.left[0] == 1
    assert "rank 1 of 2" in caplog.text
    assert "did not arrive: rank 0 waited 0.5 s in vain" in caplog.text


def test_what_an_earlier_life_left_in_the_store_is_not_taken_for_this_one() -> None:
    store, lives = dist.HashStore(), []
    for _ in range(3):
        found: dict[int, str] = {}

        def join(rank: int, found: dict[int, str] = found) -> None:
            found[rank] = meeting._join(store, f"{len(lives)}-{rank}", rank, 30)

        threads = [threading.Thread(target=join, args=(rank,)) for rank in (1, 2)]
        # The later one comes when the first has already seen its earlier name.
        threads[0].start()
        late = threading.Timer(0.2, threads[1].start)
        late.start()
        life = meeting._gather(store, f"life {len(lives)}", 3, 30)
        late.join()
        for thread in threads:
            thread.join(30)
        assert found == {1: life, 2: life}
        lives.append(life)
    assert len(set(lives)) == 3


def test_a_process_that_never_starts_is_named() -> None:
    with pytest.raises(MissingProcessError, match=r"of 3 processes these did not start within 0.1 s: 1, 2"):
        meeting._gather(dist.HashStore(), "life", 3, 0.1)


def test_alone_where_two_were_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with (
        pytest.raises(MissingProcessError, match="no meeting with the other processes in 1 s"),
        init_from_environment(torch.device("cpu"), 1),
    ):
        pass


def test_a_run_must_not_start_afresh_on_a_machine_without_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "gather_counts", lambda counts: [counts, [2]])
    with pytest.raises(CheckpointError, match="rank 0 finds no checkpoint of 'tiny' there, and rank 1 does"):
        restore._check_shared(tmp_path, "tiny")
    monkeypatch.setattr(restore, "gather_counts", lambda counts: [counts, [0]])
    restore._check_shared(tmp_path, "tiny")
