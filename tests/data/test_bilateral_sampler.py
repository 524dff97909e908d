"""Batches for training without labels: every sequence twice, one shuffle for all processes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opengait.data import loader as loaders
from opengait.data.dataset import GaitDataset
from opengait.data.samplers import BilateralSampler

Make = Callable[..., dict[str, Any]]
CFG = {
    "type": "BilateralSampler", "batch_size": [3, 2], "sample_type": "fixed_ordered",
    "frames_num_fixed": 3, "frames_skip_num": 1,
}  # fmt: skip


def records(count: int) -> GaitDataset:
    """A data set of which only the number of sequences is looked at."""
    return cast(GaitDataset, SimpleNamespace(labels=["000"] * count))


@given(
    count=st.integers(1, 60),
    batch_size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    world_size=st.integers(1, 5),
    iteration=st.integers(0, 10**6),
)
def test_each_process_has_two_views_of_its_own_sequences(
    count: int, batch_size: tuple[int, int], world_size: int, iteration: int
) -> None:
    pairs = batch_size[0] * batch_size[1]
    if pairs > count:
        with pytest.raises(ValueError, match=f"asks for {pairs} different sequences, and the training set has {count}"):
            BilateralSampler(records(count), list(batch_size))
        return
    sampler = BilateralSampler(records(count), list(batch_size), seed=3)
    batch = sampler.batch(iteration)
    assert len(batch) == len(sampler) == 2 * pairs
    dealt = []
    for rank in range(world_size):
        positions = sampler.positions(rank, world_size)
        first, second = np.split(positions, 2)
        np.testing.assert_array_equal(batch[first], batch[second])
        dealt += positions.tolist()
    assert sorted(dealt) == list(range(2 * pairs))
    assert len(set(batch.tolist())) == pairs


def test_an_epoch_sees_every_sequence_at_most_once_and_the_next_is_shuffled_anew() -> None:
    sampler = BilateralSampler(records(25), [2, 4])
    epochs = [np.concatenate([sampler.batch(3 * epoch + step)[:8] for step in range(3)]) for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 24
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set(np.concatenate(epochs).tolist()) == set(range(25))


def test_a_batch_depends_on_seed_and_iteration_alone() -> None:
    sampler = BilateralSampler(records(25), [2, 4], seed=1)
    batches = [sampler.batch(iteration).tolist() for iteration in range(12)]
    again = BilateralSampler(records(25), [2, 4], seed=1)
    assert [again.batch(iteration).tolist() for iteration in reversed(range(12))] == batches[::-1]
    assert BilateralSampler(records(25), [2, 4], seed=2).batch(0).tolist() != batches[0]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_the_batch_of_one_and_views_have_frames_of_their_own(make_tree: Make, world_size: int) -> None:
    dataset = GaitDataset(make_tree(), training=True)

    def load(**place: int) -> Any:
        [batch] = loaders.train_loader(dataset, CFG, seed=5, start_iteration=2, end_iteration=3, **place)
        return batch

    whole = load()
    assert whole.frames[0].shape == (12, 3, 16, 12)
    assert not torch.equal(whole.frames[0][:6], whole.frames[0][6:])
    for rank in range(world_size):
        share = load(rank=rank, world_size=world_size)
        half = len(share) // 2
        assert torch.equal(share.indices[:half], share.indices[half:])
        torch.testing.assert_close(share.frames[0], whole.frames[0][share.positions], rtol=0, atol=0)


def test_more_processes_than_sequences(make_tree: Make) -> None:
    dataset = GaitDataset(make_tree(), training=True)
    with pytest.raises(ValueError, match="for 7 processes; every process needs at least one"):
        loaders.train_loader(dataset, CFG, seed=0, world_size=7)


@pytest.mark.parametrize("batch_size", [8, [2], [2, 0], [2.0, 3]])
def test_batch_size_is_a_pair(batch_size: Any) -> None:
    with pytest.raises(ValueError, match=r"\[P, K\] was expected"):
        BilateralSampler(records(25), batch_size)
