"""Which sequences form a batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np

from opengait.data.dataset import GaitDataset
from opengait.data.errors import DataError
from opengait.data.randomness import generator

log = logging.getLogger(__name__)


class TripletSampler:
    """P subjects and K sequences of each, anew for every iteration; a pure function of (seed, iteration).

    Source: batch-all triplets need several sequences of several subjects (Hermans et al., 2017, section 2).

    The P subjects of a batch are different ones, unless the data set has fewer than P; the K sequences of a subject
    likewise. There is no epoch: iterations are independent draws.

    Args:
        dataset: gives `label_set` and `sequences_of`.
        batch_size: [P, K], over all processes together.
        batch_shuffle: permute the P x K sequences, else subjects stand together.
        seed: the run's seed.

    Raises:
        DataError: batch_size is no pair of whole numbers of 1 or more.
    """

    def __init__(
        self, dataset: GaitDataset, batch_size: Sequence[int], batch_shuffle: bool = False, *, seed: int = 0
    ) -> None:
        self.subjects, self.sequences = _check_pair(batch_size)
        self.batch_shuffle = batch_shuffle
        self.seed = seed
        self.records = [np.asarray(dataset.sequences_of[label]) for label in dataset.label_set]
        if len(self.records) < self.subjects:
            log.warning("a batch asks for %d subjects and there are %d: some come more than once in a batch",
                        self.subjects, len(self.records))  # fmt: skip
        short = sum(len(records) < self.sequences for records in self.records)
        if short:
            log.warning("%d of %d subjects have fewer than K = %d sequences: theirs come more than once in a batch",
                        short, len(self.records), self.sequences)  # fmt: skip

    def __len__(self) -> int:
        """Sequences in a batch, over all processes."""
        return self.subjects * self.sequences

    def batch(self, iteration: int) -> np.ndarray:
        """The record indices of an iteration's whole batch, int64 [P * K]."""
        rng = generator("subjects and sequences", self.seed, iteration)
        count = len(self.records)
        chosen = rng.choice(count, self.subjects, replace=count < self.subjects)
        batch = np.concatenate([self._sequences_of(subject, rng) for subject in chosen])
        return rng.permutation(batch) if self.batch_shuffle else batch

    def positions(self, rank: int, world_size: int) -> np.ndarray:
        """Places in the batch that belong to a process."""
        return np.arange(rank, len(self), world_size)

    def _sequences_of(self, subject: int, rng: np.random.Generator) -> np.ndarray:
        records = self.records[subject]
        return rng.choice(records, self.sequences, replace=len(records) < self.sequences)


class BilateralSampler:
    """Every sequence twice in a batch, as two views of itself, for training without labels; a pure function of
    (seed, iteration).

    All processes walk through one common shuffle of the data set, a batch at a time, so no sequence comes twice in a
    batch or in an epoch. Where less than a batch is left, the rest is dropped and the next epoch has a new shuffle.

    Source: GaitSSB (Fan et al., TPAMI 2023), section 4.

    Args:
        dataset: gives the number of sequences, `len(dataset.labels)`.
        batch_size: [P, K]; P x K sequences form a batch, over all processes together.
        compat: 'reference' gives each process a shuffle of its own, as the reference implementation does: a sequence
            may come twice in a batch then, and an epoch may leave some out. One process alone is the same.
        seed: the run's seed.
        rank: number of the process, for its own shuffle.

    Raises:
        DataError: batch_size is no pair of whole numbers of 1 or more, or the data set has fewer sequences.
    """

    def __init__(
        self,
        dataset: GaitDataset,
        batch_size: Sequence[int],
        batch_shuffle: bool = False,
        compat: Literal["reference"] | None = None,
        *,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        subjects, each = _check_pair(batch_size)
        self.pairs = subjects * each
        self.records = len(dataset.labels)
        self.seed = seed
        self.shuffler = rank if compat == "reference" else 0
        if self.records < self.pairs:
            raise DataError(
                f"trainer_cfg.sampler.batch_size {list(batch_size)} asks for {self.pairs} different sequences, and "
                f"the training set has {self.records}"
            )
        self._epoch = -1
        self._shuffle = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Items in a batch over all processes, two a sequence."""
        return 2 * self.pairs

    def batch(self, iteration: int) -> np.ndarray:
        """The record indices of an iteration's whole batch: all first views, then all second ones; int64 [2 P K]."""
        epoch, step = divmod(iteration, self.records // self.pairs)
        if epoch != self._epoch:  # kept, since shuffling a million sequences takes longer than reading a batch
            self._epoch = epoch
            shuffler = generator("shuffle of all sequences", self.seed, epoch, self.shuffler)
            self._shuffle = shuffler.permutation(self.records)
        return np.tile(self._shuffle[step * self.pairs : (step + 1) * self.pairs], 2)

    def positions(self, rank: int, world_size: int) -> np.ndarray:
        """Places in the batch that belong to a process: its sequences as first views, then the same as second."""
        own = np.arange(rank, self.pairs, world_size)
        return np.concatenate([own, own + self.pairs])


class CommonSampler:
    """Sequences of the whole data set, whoever's they are, anew for every iteration; a pure function of
    (seed, iteration).

    Those of a batch are different ones, unless the data set has fewer.

    Args:
        dataset: gives the number of sequences, `len(dataset.labels)`.
        batch_size: sequences, over all processes together.
        batch_shuffle: without effect, the order is random; a key of the reference implementation.
        seed: the run's seed.

    Raises:
        DataError: batch_size is no whole number of 1 or more.
    """

    def __init__(self, dataset: GaitDataset, batch_size: int, batch_shuffle: bool = False, *, seed: int = 0) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise DataError(
                f"trainer_cfg.sampler.batch_size: CommonSampler takes a whole number of 1 or more, found {batch_size!r}"
            )
        self.size, self.records, self.seed = batch_size, len(dataset.labels), seed

    def __len__(self) -> int:
        """Sequences in a batch, over all processes."""
        return self.size

    def batch(self, iteration: int) -> np.ndarray:
        """The record indices of an iteration's whole batch, int64 [batch_size]."""
        rng = generator("sequences of the whole set", self.seed, iteration)
        return rng.choice(self.records, self.size, replace=self.records < self.size)

    def positions(self, rank: int, world_size: int) -> np.ndarray:
        """Places in the batch that belong to a process."""
        return np.arange(rank, len(self), world_size)


class InferenceSampler:
    """Every sequence exactly once, in batches under a frame budget, of equal length or ragged.

    The batches depend on the lengths and the budget alone, not on the number of processes, and are dealt to processes
    so that each has about as many frames to do.

    Args:
        dataset: what is tested.
        batch_size, batch_shuffle: keys of the reference implementation, where they had to follow the number of
            processes; they change no figure and are ignored.
        lengths: frames that are taken of each sequence, int [n].
        frames_per_batch: most frames in a batch; a longer sequence stands alone.
        ragged: batches may hold sequences of different lengths.

    Raises:
        DataError: frames_per_batch is no whole number of 1 or more.
    """

    def __init__(
        self,
        dataset: GaitDataset,
        batch_size: int | None = None,
        batch_shuffle: bool = False,
        *,
        lengths: np.ndarray,
        frames_per_batch: int,
        ragged: bool = False,
    ) -> None:
        if type(frames_per_batch) is not int or frames_per_batch < 1:
            raise DataError(
                f"evaluator_cfg.frames_per_batch: a whole number of 1 or more was expected, found {frames_per_batch!r}"
            )
        if batch_size is not None:
            log.info("evaluator_cfg.sampler.batch_size %s is ignored: test batches hold up to %d frames "
                     "(evaluator_cfg.frames_per_batch)", batch_size, frames_per_batch)  # fmt: skip
        self.lengths = np.asarray(lengths, dtype=np.int64)
        order = np.argsort(-self.lengths, kind="stable")
        self.batches = (self._fill if ragged else self._group)(order, frames_per_batch)

    def _group(self, order: np.ndarray, budget: int) -> list[np.ndarray]:
        """Equal lengths, longest first, so that a batch too large for the device shows at once."""
        borders = np.flatnonzero(np.diff(self.lengths[order])) + 1
        batches = []
        for group in np.split(order, borders):
            size = max(1, budget // int(self.lengths[group[0]]))
            batches += [group[start : start + size] for start in range(0, len(group), size)]
        return batches

    def _fill(self, order: np.ndarray, budget: int) -> list[np.ndarray]:
        """Whatever comes next while there is room, longest first."""
        ends = np.cumsum(self.lengths[order])
        batches = []
        start = 0
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
            batches.append(order[start:stop])
            start = stop
        return batches

    def share(self, rank: int, world_size: int) -> list[np.ndarray]:
        """The batches of one process: each goes to the process with the fewest frames so far, largest first."""
        frames = np.array([self.lengths[batch].sum() for batch in self.batches])
        load = np.zeros(world_size, dtype=np.int64)
        mine = []
        for number in np.argsort(-frames, kind="stable"):
            taker = int(load.argmin())
            load[taker] += frames[number]
            if taker == rank:
                mine.append(int(number))
        return [self.batches[number] for number in sorted(mine)]


def _check_pair(batch_size: object) -> tuple[int, int]:
    """[P, K] as two numbers; DataError where it is anything else."""
    if (
        not isinstance(batch_size, list | tuple)
        or len(batch_size) != 2
        or any(type(number) is not int or number < 1 for number in batch_size)
    ):
        raise DataError(
            "trainer_cfg.sampler.batch_size: [P, K] was expected, P subjects and K sequences of each, "
            f"both 1 or more; found {batch_size!r}"
        )
    return batch_size[0], batch_size[1]
