"""Batches of record indices: P x K for training, every sequence once for testing."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengait.data.dataset import GaitDataset
from opengait.data.samplers import CommonSampler, InferenceSampler, TripletSampler


def subjects(*counts: int) -> GaitDataset:
    """A data set of which only the index is looked at: subject i has counts[i] sequences."""
    borders = np.cumsum([0, *counts])
    names = [f"{number:03d}" for number in range(len(counts))]
    index = {name: list(range(borders[i], borders[i + 1])) for i, name in enumerate(names)}
    return cast(GaitDataset, SimpleNamespace(label_set=names, sequences_of=index))


def owner(dataset: GaitDataset) -> dict[int, str]:
    return {record: label for label, records in dataset.sequences_of.items() for record in records}


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    batch_size=st.tuples(st.integers(1, 6), st.integers(1, 5)),
    shuffle=st.booleans(),
    iteration=st.integers(0, 10**6),
)
def test_p_subjects_and_k_sequences_of_each(
    counts: list[int], batch_size: tuple[int, int], shuffle: bool, iteration: int
) -> None:
    dataset = subjects(*counts)
    whose = owner(dataset)
    batch = TripletSampler(dataset, list(batch_size), shuffle, seed=3).batch(iteration)
    p, k = batch_size
    assert len(batch) == p * k
    of_subject = Counter(whose[index] for index in batch.tolist())
    assert all(number % k == 0 for number in of_subject.values())
    if len(counts) >= p:
        assert len(of_subject) == p
        for label in of_subject:
            mine = [index for index in batch.tolist() if whose[index] == label]
            if len(dataset.sequences_of[label]) >= k:
                assert len(set(mine)) == k


def test_a_batch_depends_on_seed_and_iteration_alone() -> None:
    dataset = subjects(*[5] * 20)
    sampler = TripletSampler(dataset, [4, 3], seed=1)
    batches = [sampler.batch(iteration).tolist() for iteration in range(50)]
    again = TripletSampler(dataset, [4, 3], seed=1)
    assert [again.batch(iteration).tolist() for iteration in reversed(range(50))] == batches[::-1]
    assert TripletSampler(dataset, [4, 3], seed=2).batch(0).tolist() != batches[0]
    assert len({tuple(batch) for batch in batches}) == 50


def test_shuffling_changes_the_order_and_not_the_batch() -> None:
    dataset = subjects(*[9] * 20)
    plain, shuffled = TripletSampler(dataset, [4, 3], False), TripletSampler(dataset, [4, 3], True)
    for iteration in range(5):
        assert sorted(plain.batch(iteration)) == sorted(shuffled.batch(iteration))
        assert plain.batch(iteration).tolist() != shuffled.batch(iteration).tolist()


def test_every_subject_and_sequence_is_equally_likely() -> None:
    sampler = TripletSampler(subjects(*[4] * 10), [3, 2])
    counts = Counter(index for iteration in range(4000) for index in sampler.batch(iteration).tolist())
    assert len(counts) == 40
    assert max(counts.values()) / min(counts.values()) < 1.4


def test_small_data_sets_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        TripletSampler(subjects(5, 1), [3, 2])
    assert "asks for 3 subjects and there are 2" in caplog.text
    assert "1 of 2 subjects have fewer than K = 2" in caplog.text


@pytest.mark.parametrize("batch_size", [16, [8], [8, 0], [8, 16, 2], [8.0, 2], None, [True, 2]])
def test_batch_size_is_a_pair(batch_size: Any) -> None:
    with pytest.raises(ValueError, match=r"\[P, K\] was expected"):
        TripletSampler(subjects(3, 3), batch_size)


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60).map(np.array)


@given(lengths=LENGTHS, budget=st.integers(1, 200), world_size=st.integers(1, 5), ragged=st.booleans())
def test_every_sequence_once_under_the_budget(lengths: np.ndarray, budget: int, world_size: int, ragged: bool) -> None:
    sampler = InferenceSampler(subjects(1), lengths=lengths, frames_per_batch=budget, ragged=ragged)
    shares = [sampler.share(rank, world_size) for rank in range(world_size)]
    dealt = [batch for share in shares for batch in share]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(lengths)))
    for batch in dealt:
        assert ragged or len(set(lengths[batch])) == 1
        assert len(batch) == 1 or lengths[batch].sum() <= budget
    # Composition is that of one process, whoever gets a batch.
    assert sorted(map(tuple, dealt)) == sorted(map(tuple, sampler.share(0, 1)))
    work = [sum(int(lengths[batch].sum()) for batch in share) for share in shares]
    assert max(work) - min(work) <= max(int(lengths[batch].sum()) for batch in dealt)


def test_the_references_batch_size_is_ignored_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        sampler = InferenceSampler(subjects(1), 4, lengths=np.full(9, 10), frames_per_batch=90)
    assert len(sampler.batches) == 1
    assert len(caplog.records) == 1
    assert "batch_size 4 is ignored" in caplog.text


@pytest.mark.parametrize("budget", [0, -1, 2.5, None, True])
def test_the_budget_is_a_number_of_frames(budget: Any) -> None:
    with pytest.raises(ValueError, match="frames_per_batch"):
        InferenceSampler(subjects(1), lengths=np.ones(3), frames_per_batch=budget)


@given(count=st.integers(1, 20), size=st.integers(1, 30), world_size=st.integers(1, 5), iteration=st.integers(0, 10**6))
def test_common_sampler_takes_any_sequences_each_once(count: int, size: int, world_size: int, iteration: int) -> None:
    sampler = CommonSampler(cast(GaitDataset, SimpleNamespace(labels=["000"] * count)), size, seed=3)
    batch = sampler.batch(iteration)
    assert len(batch) == len(sampler) == size
    assert set(batch.tolist()) <= set(range(count))
    if size <= count:
        assert len(set(batch.tolist())) == size
    np.testing.assert_array_equal(batch, sampler.batch(iteration))
    dealt = [position for rank in range(world_size) for position in sampler.positions(rank, world_size)]
    assert sorted(dealt) == list(range(size))


def test_common_sampler_has_no_epochs_and_leaves_nobody_out() -> None:
    dataset = cast(GaitDataset, SimpleNamespace(labels=["000"] * 10))
    batches = [CommonSampler(dataset, 4, seed=1).batch(iteration) for iteration in range(30)]
    assert len({tuple(batch) for batch in batches}) > 20
    assert set(np.concatenate(batches).tolist()) == set(range(10))
    with pytest.raises(ValueError, match="CommonSampler takes a whole number"):
        CommonSampler(dataset, cast(Any, [2, 4]))
