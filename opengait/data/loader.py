"""Batches for training and testing, read ahead by worker processes.

A batch is a pure function of the seed and its place in the run, so neither the number of workers nor that of processes
changes it, and starting at iteration i needs no replay of those before.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from opengait.data.batch import Batch
from opengait.data.collate import BatchReader
from opengait.data.dataset import GaitDataset
from opengait.data.errors import DataError
from opengait.data.frames import FrameChoice
from opengait.data.memory import is_out_of_memory
from opengait.data.randomness import generator
from opengait.data.samplers import InferenceSampler
from opengait.data.slots import Inbox, Outbox, slots_exist
from opengait.data.transforms import Transforms
from opengait.registry import SAMPLERS

log = logging.getLogger(__name__)

Job = tuple[int, np.ndarray, np.ndarray]  # iteration, positions, record indices


class TrainingSampler(Protocol):
    """What forms training batches; a pure function of its seed and the iteration."""

    def __len__(self) -> int:
        """Items in a batch over all processes."""
        ...

    def batch(self, iteration: int) -> np.ndarray:
        """Record indices of the whole batch."""
        ...

    def positions(self, rank: int, world_size: int) -> np.ndarray:
        """Places in the batch that belong to a process; the last one has no more than the others."""
        ...


def train_loader(
    dataset: GaitDataset,
    sampler_cfg: Mapping[str, Any],
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    start_iteration: int = 0,
    end_iteration: int | None = None,
    pin_memory: bool = False,
    transforms: Transforms | None = None,
) -> BatchLoader:
    """This process's share of the training batches, from one iteration on.

    The sampler deals a global batch to the processes: positions r, r + world_size, r + 2 world_size, ... of it (or, for
    two views, of its sequences) belong to rank r. Where it does not divide evenly, shares differ by one sequence.

    Args:
        sampler_cfg: the section `trainer_cfg.sampler`.
        start_iteration, end_iteration: first iteration and the one to stop before; None never stops.
        transforms: what will be applied to the batches; those on arrays are applied by the workers already, and
            columns that are cut off first never leave them.

    Raises:
        DataError: an impossible sampler section, or a batch with fewer sequences than processes.
    """
    sampler: TrainingSampler = _build_sampler(sampler_cfg, {"rank": rank}, dataset=dataset, seed=seed)
    if not len(sampler.positions(world_size - 1, world_size)):
        raise DataError(
            f"trainer_cfg.sampler.batch_size {sampler_cfg['batch_size']} gives {len(sampler)} sequences for "
            f"{world_size} processes; every process needs at least one"
        )
    choice = FrameChoice(sampler_cfg)
    _report_cut(dataset, choice)
    as_one = sampler_cfg.get("compat") == "reference"
    reader = BatchReader(dataset, choice, seed, "training frames", not choice.equal_lengths, transforms, as_one)
    jobs = _TrainingJobs(sampler, rank, world_size, start_iteration, end_iteration)
    return BatchLoader(reader, jobs, num_workers, pin_memory)


def test_loader(
    dataset: GaitDataset,
    sampler_cfg: Mapping[str, Any],
    *,
    frames_per_batch: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
    transforms: Transforms | None = None,
    ragged: bool = False,
) -> BatchLoader:
    """This process's share of the test batches: every sequence once over all processes.

    A sequence's frames depend on the seed and its index alone. Processes may have unequal numbers of batches.

    Args:
        sampler_cfg: the section `evaluator_cfg.sampler`.
        frames_per_batch: most frames in a batch; a longer sequence stands alone and is not shortened.
        transforms: as for training.
        ragged: sequences of different lengths share batches, packed end to end; else a batch has one length.

    Raises:
        DataError: an impossible sampler section or budget.
    """
    choice = FrameChoice(sampler_cfg)
    _report_cut(dataset, choice)
    purpose = "test frames"
    # The number to be drawn is known beforehand, since each sequence has its own generator.
    counts = choice.counts(dataset.lengths(), lambda index: generator(purpose, seed, 0, index))
    sampler: InferenceSampler = _build_sampler(
        sampler_cfg, {}, dataset=dataset, lengths=counts, frames_per_batch=frames_per_batch, ragged=ragged
    )
    jobs = [(0, batch, batch) for batch in sampler.share(rank, world_size)]
    reader = BatchReader(dataset, choice, seed, purpose, packed=None, transforms=transforms)
    return BatchLoader(reader, jobs, num_workers, pin_memory, divisible=True)


class BatchLoader:
    """Iterates over batches, each read whole by one worker; `len` is the number of batches where that is known.

    Workers stay alive from one full pass to the next. They end with `close`, with a pass that is left early, and with
    an error; a later pass starts new ones.

    Args:
        divisible: a batch for which there is no memory may come as smaller ones.

    Raises:
        DataError: on iteration, where a data file cannot be used; the same whether or not a worker found it.
        MemoryError: on iteration, where there is no memory for a batch.
    """

    def __init__(
        self, reader: BatchReader, jobs: Iterable[Job], num_workers: int, pin_memory: bool, divisible: bool = False
    ) -> None:
        self._reader = reader
        self._divisible = divisible
        self._jobs = jobs
        self._num_workers = num_workers
        self._pin_memory = pin_memory and torch.cuda.is_available()
        self._inbox = Inbox() if num_workers and slots_exist() else None
        self._loader: DataLoader | None = None

    def __len__(self) -> int:
        if not isinstance(self._jobs, Sized):
            raise TypeError("this loader has no number of batches")
        return len(self._jobs)

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            self._loader = self._start()
        try:
            for item in self._loader:
                if isinstance(item, _Failure):
                    raise DataError(item.message)
                if isinstance(item, _TooLarge):
                    yield from self._in_halves(item.job)
                else:
                    yield item
        except BaseException:
            self.close()
            raise
        if self._inbox is not None:
            self._inbox.relax()

    def _in_halves(self, job: Job) -> Iterator[Batch]:
        """A batch for which there was no memory, as smaller ones; a test does not care which sequences stand together.

        Raises:
            MemoryError: a training batch.
            DataError: a single sequence.
        """
        iteration, positions, indices = job
        if not self._divisible:
            raise MemoryError(f"no memory to read a batch of {len(indices)} sequences")
        if len(indices) == 1:
            name = self._reader.dataset.name(int(indices[0]))
            raise DataError(f"sequence {name} does not fit into memory; sampler.frames_all_limit would cut it")
        log.warning("no memory to read a batch of %d sequences: reading it in halves", len(indices))
        middle = len(indices) // 2
        for rows in (slice(middle), slice(middle, None)):
            half = (iteration, positions[rows], indices[rows])
            try:
                part = self._reader.read(*half)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                yield from self._in_halves(half)
            else:
                yield part

    def close(self) -> None:
        """Ends the workers now, rather than whenever the garbage collector comes by."""
        loader, self._loader = self._loader, None
        workers = getattr(loader, "_iterator", None)  # torch has no public way
        if workers is not None:
            workers._shutdown_workers()
        if self._inbox is not None:
            self._inbox.close()

    def _start(self) -> DataLoader:
        return DataLoader(
            _Jobs(self._reader, self._inbox),
            batch_size=None,
            sampler=self._jobs,
            num_workers=self._num_workers,
            collate_fn=_as_is,
            pin_memory=self._pin_memory,
            persistent_workers=self._num_workers > 0,
            worker_init_fn=_start_worker,
            # Its own generator: otherwise making an iterator would draw from the global one and change dropout.
            generator=torch.Generator().manual_seed(0),
        )


class _TrainingJobs:
    """The jobs of one process, iteration by iteration."""

    def __init__(self, sampler: TrainingSampler, rank: int, world_size: int, start: int, end: int | None) -> None:
        self.sampler, self.rank, self.world_size = sampler, rank, world_size
        self.start, self.end = start, end

    def __len__(self) -> int:
        if self.end is None:
            raise TypeError("training goes on without end")
        return max(0, self.end - self.start)

    def __iter__(self) -> Iterator[Job]:
        positions = self.sampler.positions(self.rank, self.world_size)
        numbers = itertools.count(self.start) if self.end is None else range(self.start, self.end)
        for iteration in numbers:
            yield iteration, positions, self.sampler.batch(iteration)[positions]


@dataclass
class _Failure:
    """What a worker found wrong; torch would wrap an exception into the worker's traceback."""

    message: str


@dataclass
class _TooLarge:
    """A job for which there was no memory."""

    job: Job


class _Jobs(Dataset):
    """Lets torch's loader hand a whole batch to a worker as if it were one item.

    Args:
        inbox: of the slots that workers hand frames over in; None: there are no workers, or no slots.
    """

    def __init__(self, reader: BatchReader, inbox: Inbox | None) -> None:
        self.reader = reader
        self.inbox = inbox
        self.outbox = None if inbox is None else Outbox(inbox.name, reader.dataset.modalities)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"inbox": None}

    def __getitem__(self, job: Job) -> Batch | _Failure | _TooLarge:
        try:
            if self.outbox is None:
                return self.reader.read(*job)
            return self.outbox.post(self.reader.read(*job, self.outbox.empty))
        except DataError as error:
            return _Failure(str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _TooLarge(job)


def _as_is(item: Any) -> Any:
    return item


def _start_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group; the main process finishes its iteration and ends the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # So does SIGTERM where torchrun or a batch system ends a run. A worker that died of it would take the iteration,
    # and the checkpoint after it, along.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_parent, args=(os.getppid(),), daemon=True).start()


def _end_for_parent(parent: int) -> None:
    """Ends this process at the SIGTERM of its parent; that of others is for the parent to act on."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        continue
    os._exit(0)


def _build_sampler(sampler_cfg: Mapping[str, Any], offered: Mapping[str, Any], **given: Any) -> Any:
    """The sampler named in a section, with `given`, and with what it takes of `offered`; keys that it does not take
    belong to frame choice."""
    build = SAMPLERS.get(sampler_cfg["type"])
    takes = inspect.signature(build).parameters
    given |= {name: value for name, value in offered.items() if name in takes}
    missing = [name for name in given if name not in takes]
    if missing:
        raise DataError(f"sampler.type: {sampler_cfg['type']} cannot be used here; it takes no {missing[0]}")
    chosen = {key: value for key, value in sampler_cfg.items() if key in takes and key not in given}
    required = [name for name, take in takes.items() if take.default is take.empty and name not in given]
    for name in required:
        if name not in chosen:
            raise DataError(f"sampler.{name}: is needed for {sampler_cfg['type']}")
    return build(**given, **chosen)


def _report_cut(dataset: GaitDataset, choice: FrameChoice) -> None:
    if choice.limit is not None:
        cut = choice.cut(dataset.lengths())
        if cut:
            log.warning("%d of %d sequences are cut to their first %d frames (sampler.frames_all_limit)",
                        cut, len(dataset), choice.limit)  # fmt: skip
