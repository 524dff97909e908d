"""Memory in which workers hand batches over is used again, and never while anything still uses it."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import batch_of
from torch import Tensor

from opengait.data import loader as loaders
from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.slots import BATCHES, GRAIN, SLACK, Inbox, Outbox, slots_exist

pytestmark = pytest.mark.skipif(not slots_exist(), reason="needs anonymous files")
Make = Callable[..., dict[str, Any]]
FIXED = {"type": "TripletSampler", "batch_size": [3, 2], "sample_type": "fixed_unordered", "frames_num_fixed": 7}
UNFIXED = FIXED | {"sample_type": "unfixed_unordered", "frames_num_min": 3, "frames_num_max": 8}
TESTING = {"type": "InferenceSampler", "sample_type": "all_ordered"}
MEMORY = "memfd:opengait-frames"


def mapped() -> int:
    """Slots in this process's address space."""
    return Path("/proc/self/maps").read_text().count(MEMORY)


def resident() -> int:
    """Of those, that have pages."""
    blocks = Path("/proc/self/smaps").read_text().split(MEMORY)[1:]
    return sum(int(block.split("Rss:")[1].split()[0]) > 0 for block in blocks)


def sent(outbox: Outbox, batch: Batch) -> Batch:
    """What arrives; both ends are in this process."""
    arrived: list[Batch] = []
    message = bytes(ForkingPickler.dumps(outbox.post(batch)))
    # As where a thread of its own reads, which puts batches into pinned memory.
    thread = threading.Thread(target=lambda: arrived.append(ForkingPickler.loads(message)))
    thread.start()
    thread.join()
    return arrived[0]


def frames_of(value: int, size: int = 100) -> Tensor:
    return torch.full((2, size), value, dtype=torch.uint8)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


@pytest.fixture
def outbox(inbox: Inbox) -> Outbox:
    return Outbox(inbox.name, modalities=1)


def places(batches: list[Batch]) -> set[int]:
    return {batch.frames[0].data_ptr() for batch in batches}


def test_what_is_in_use_stays_as_it_is(outbox: Outbox) -> None:
    """Tensors, views, arrays and graphs keep their memory from being written."""
    keeping: list[Callable[[Tensor], Any]] = [
        lambda frames: frames,
        lambda frames: frames[1, 5:9],
        lambda frames: frames.numpy()[:, ::3],
        lambda frames: memoryview(frames.numpy()),
    ]
    kept = [(value, keep(sent(outbox, batch_of(frames_of(value))).frames[0])) for value, keep in enumerate(keeping)]
    for value in range(100, 110):
        sent(outbox, batch_of(frames_of(value)))
    for value, what in kept:
        assert (np.asarray(what) == value).all()


def test_memory_goes_round(outbox: Outbox) -> None:
    before = mapped()
    first = places([sent(outbox, batch_of(frames_of(0)))])
    for value in range(20):
        batch = sent(outbox, batch_of(frames_of(value, 50 + value)))
        assert places([batch]) <= first
        del batch
    held = [sent(outbox, batch_of(frames_of(value))) for value in range(3 * BATCHES)]
    assert mapped() - before == 2 * BATCHES  # on either side
    assert [int(batch.frames[0][0, 0]) for batch in held] == list(range(3 * BATCHES))
    assert places(held) > first


def test_modalities_are_in_slots_of_their_own(inbox: Inbox) -> None:
    outbox = Outbox(inbox.name, modalities=2)
    frames = frames_of(1), torch.arange(6, dtype=torch.float64).reshape(2, 3)
    kept = sent(outbox, batch_of(*frames)).frames[1]
    for _ in range(9):
        arrived = sent(outbox, batch_of(*frames)).frames
        assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in zip(frames, arrived, strict=True))
    assert torch.equal(kept, frames[1])


def test_frames_are_read_into_a_slot_and_copied_only_where_they_moved(outbox: Outbox) -> None:
    array = outbox.empty((2, 10), np.dtype(np.uint8))
    array[:] = np.arange(20).reshape(2, 10)
    posted = outbox.post(batch_of(torch.from_numpy(array).reshape(2, 5, 2)))
    assert len(outbox._slots) == 1
    again = outbox.empty((2, 10), np.dtype(np.uint8))
    again[:] = array + 1
    part = torch.from_numpy(again)[:, :4]
    arrived = sent(outbox, batch_of(part))
    assert len(outbox._slots) == 3
    assert torch.equal(arrived.frames[0], part)
    assert torch.equal(ForkingPickler.loads(ForkingPickler.dumps(posted)).frames[0].flatten(), torch.arange(20))


def test_the_same_memory_twice_in_a_batch_is_in_two_slots(inbox: Inbox) -> None:
    outbox = Outbox(inbox.name, modalities=2)
    frames = torch.from_numpy(outbox.empty((1, 9), np.dtype(np.uint8))).fill_(3)
    one = sent(outbox, batch_of(frames, frames)).frames[0]  # the other is free again
    del frames
    for value in range(10, 20):
        sent(outbox, batch_of(frames_of(value), frames_of(value)))
    assert one.unique().tolist() == [3]


def test_no_memory_is_hoarded(outbox: Outbox) -> None:
    """Whatever sizes come, there are few slots, none much larger than what it was used for last."""
    rng = np.random.default_rng(0)
    before = mapped()
    for exponent in rng.uniform(0, 7, 200):
        size = int(10**exponent)
        held = sent(outbox, batch_of(torch.full((1, size), 3, dtype=torch.uint8)))
        assert bool((held.frames[0] == 3).all())
        del held
        assert mapped() - before <= 2 * BATCHES
        assert any(size <= slot.size <= max(GRAIN, SLACK * size) for slot in outbox._slots.values())
    largest = max(slot.size for slot in outbox._slots.values())
    for _ in range(2 * BATCHES):  # all of them are wanted for small batches
        held_all = [sent(outbox, batch_of(frames_of(1))) for _ in range(BATCHES)]
        del held_all
    assert largest > SLACK * GRAIN
    assert max(slot.size for slot in outbox._slots.values()) <= GRAIN


def test_a_forked_process_lets_go_of_its_own_only(outbox: Outbox) -> None:
    held = [sent(outbox, batch_of(frames_of(7)))]
    child = multiprocessing.get_context("fork").Process(target=held.clear)
    child.start()
    child.join()
    assert child.exitcode == 0
    for value in range(6):
        sent(outbox, batch_of(frames_of(value)))
    assert held[0].frames[0].unique().tolist() == [7]


@pytest.mark.parametrize("missing", ["memfd_create", "posix_fallocate"])
def test_without_memory_for_a_slot_frames_go_another_way(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def fails(*_: object) -> int:
        raise OSError(28, "No space left on device")

    open_files = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, missing, fails)
    assert outbox.empty((2, 3), np.dtype(np.uint8)).shape == (2, 3)
    [posted] = outbox.post(batch_of(frames_of(5)[:, :7])).frames
    assert isinstance(posted, Tensor)
    assert posted.untyped_storage().nbytes() == 14
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_slot_that_cannot_be_mapped_is_an_error_of_memory(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    message = ForkingPickler.dumps(outbox.post(batch_of(frames_of(5))))

    def fails(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("opengait.data.slots.mmap.mmap", fails)
    with pytest.raises(MemoryError, match="no memory to take a batch from a worker"):
        ForkingPickler.loads(message)


# What follows goes through a loader and its worker processes.


def left_behind(processes: list[int]) -> list[str]:
    """Files of shared memory with the number of a process in their names."""
    return [name for name in os.listdir("/dev/shm") if any(str(number) in name.split("_") for number in processes)]


def workers_of(loader: loaders.BatchLoader) -> list[int]:
    return [process.pid for process in loader._loader._iterator._workers]  # type: ignore[union-attr]


@pytest.mark.parametrize("sampler_cfg", [FIXED, UNFIXED])
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_keep_their_values_and_slots_are_used_again(
    make_tree: Make, sampler_cfg: dict[str, Any], workers: int
) -> None:
    dataset = GaitDataset(make_tree(modalities=2), training=True)
    count = 10 * workers * BATCHES
    expected = [batch.frames for batch in loaders.train_loader(dataset, sampler_cfg, seed=5, end_iteration=count)]
    before = mapped()
    loader = loaders.train_loader(dataset, sampler_cfg, seed=5, num_workers=workers, end_iteration=count)
    kept: list[tuple[int, Tensor]] = []
    for number, batch in enumerate(loader):
        if number % 7 == 3:  # more of them than a worker has slots
            kept.append((number, batch.frames[0][:, 1:3]))
        if number < 2 * BATCHES * workers or number % 3:
            assert all(torch.equal(*pair) for pair in zip(batch.frames, expected[number], strict=True))
        assert mapped() - before <= 2 * BATCHES * workers
    assert mapped() > before
    for number, frames in kept:
        assert torch.equal(frames, expected[number][0][:, 1:3])
    loader.close()
    del batch, kept, frames
    assert mapped() == before


def test_between_passes_no_memory_is_kept(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=False)
    loader = loaders.test_loader(dataset, TESTING, frames_per_batch=20, num_workers=1)
    passes, before = [], (mapped(), resident())
    for _ in range(3):
        passes.append([batch.frames[0].clone() for batch in loader])
        assert mapped() > before[0] + 1
        assert resident() <= before[1] + 1  # of the last batch
    for one in passes[1:]:
        assert all(torch.equal(*pair) for pair in zip(one, passes[0], strict=True))
    loader.close()


def test_a_worker_that_dies_takes_no_batch_along(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    before = mapped()
    loader = loaders.train_loader(dataset, FIXED, seed=5, num_workers=2)
    batches = iter(loader)
    for _ in range(4 * BATCHES):  # until all slots were sent
        first = next(batches)
    held = [first, next(batches)]
    copies = [batch.frames[0].clone() for batch in held]
    workers = workers_of(loader)
    os.kill(workers[0], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(itertools.islice(batches, 50))
    assert all(torch.equal(batch.frames[0], copy) for batch, copy in zip(held, copies, strict=True))
    assert not left_behind([os.getpid(), *workers])
    again = iter(loader)
    assert len(next(again)) == 6
    loader.close()
    del held, batches, again, first
    assert mapped() == before


SPAWNED = """
import json, multiprocessing, sys
from opengait.data.dataset import GaitDataset
from opengait.data.loader import train_loader

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    dataset = GaitDataset(json.loads(sys.argv[1]), training=True)
    sampler_cfg = json.loads(sys.argv[2])
    expected = train_loader(dataset, sampler_cfg, seed=5)
    loader = train_loader(dataset, sampler_cfg, seed=5, num_workers=1)
    for number, (one, other) in enumerate(zip(expected, loader)):
        assert one.frames[0].equal(other.frames[0])
        if number == 20:
            maps = open("/proc/self/maps").read().count("memfd:opengait-frames")
            print(json.dumps([maps, [process.pid for process in loader._loader._iterator._workers]]), flush=True)
"""


@pytest.mark.slow
def test_spawned_workers_and_a_process_that_is_killed(make_tree: Make, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(SPAWNED)
    command = [sys.executable, str(script), json.dumps(make_tree()), json.dumps(FIXED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        maps, workers = json.loads(process.stdout.readline() or "[0, []]")
        process.kill()
    assert 0 < maps <= BATCHES
    assert not left_behind([process.pid, *workers])
