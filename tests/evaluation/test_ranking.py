"""Counted ranks equal a slow form that sorts, with ties against the probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from opengait.evaluation.distances import Distances
from opengait.evaluation.ranking import cmc, positions_of_positives, rank, rank_k


def slow_positions(distances: list[float], positive: list[bool], valid: list[bool]) -> list[int]:
    """Sorts what takes part, wrong ones before right ones at equal distance."""
    kept = [(d, own) for d, own, take in zip(distances, positive, valid, strict=True) if take]
    return [place for place, (_, own) in enumerate(sorted(kept), start=1) if own]


def slow_average_precision(positions: list[int]) -> float:
    total = 0.0
    for so_far, position in enumerate(positions, start=1):
        total += so_far / position
    return total / len(positions)


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows of few distinct distances (ties), any positives (also none), any exclusions (also all)."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    size = rows * columns

    def grid(values: st.SearchStrategy[object], dtype: type) -> NDArray[np.generic]:
        return np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype=dtype).reshape(rows, columns)

    return grid(st.integers(0, 5), np.float32), grid(st.booleans(), bool), grid(st.booleans(), bool)  # type: ignore[return-value]


@settings(max_examples=150, deadline=None)
@given(cases())
def test_positions_equal_the_sorted_form(
    case: tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    distances, positive, valid = case
    tensors = [torch.from_numpy(array) for array in case]
    for everything in (False, True):
        take = np.ones_like(valid) if everything else valid
        mask = None if everything else tensors[2]
        found = positions_of_positives(tensors[0], tensors[1], mask).numpy()
        nearest = positions_of_positives(tensors[0], tensors[1], mask, nearest_only=True).numpy()
        for i, row in enumerate(found):
            expected = slow_positions(distances[i].tolist(), positive[i].tolist(), take[i].tolist())
            assert row[row > 0].tolist() == expected
            assert nearest[i].tolist() == (expected[:1] or [0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 4), st.sampled_from([1, 2000, 1 << 20]))
def test_ranking_of_embeddings_equals_loops(seed: int, count: int, views: int, memory: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(0, 3, size=(count, 2, 2)).astype(np.float32)  # a coarse grid: many ties
    labels, view = rng.integers(0, 5, count), rng.integers(0, views, count)
    probes, gallery = rng.integers(0, count, 7), rng.permutation(count)[: rng.integers(1, count + 1)]
    segments, exclusion = rng.integers(0, 3, len(gallery)), labels * views + view
    distances = Distances(embeddings, "euc", memory=memory)
    found = rank(distances, probes, gallery, labels, segments=segments, exclusion=exclusion)
    nearest = rank(distances, probes, gallery, labels, segments=segments, exclusion=exclusion, nearest_only=True)
    np.testing.assert_array_equal(found.first, nearest.first)
    for i, probe in enumerate(probes):
        for segment in range(int(segments.max()) + 1):
            own = gallery[segments == segment]
            valid = [not (labels[g] == labels[probe] and view[g] == view[probe]) for g in own]
            far = [np.float32(np.mean(np.sqrt(((embeddings[probe] - embeddings[g]) ** 2).sum(axis=0)))) for g in own]
            expected = slow_positions(far, [bool(labels[g] == labels[probe]) for g in own], valid)
            assert found.candidates[i, segment] == sum(valid)
            assert found.positives[i, segment] == len(expected)
            assert found.first[i, segment] == (expected[0] if expected else 0)
            if expected:
                assert found.average_precision[i, segment] == pytest.approx(slow_average_precision(expected))
                assert found.inverse_negative_penalty[i, segment] == pytest.approx(len(expected) / expected[-1])
            else:
                assert np.isnan(found.average_precision[i, segment])
                assert np.isnan(found.inverse_negative_penalty[i, segment])


def test_exclusion_may_leave_out_wrong_sequences_too() -> None:
    embeddings = np.array([0.0, 1.0, 2.0, 3.0], dtype=np.float32).reshape(4, 1, 1)
    labels, keys = np.array([0, 1, 0, 1]), np.array([7, 7, 8, 8])
    found = rank(Distances(embeddings), np.array([0]), np.array([1, 2, 3]), labels, exclusion=keys)
    assert (found.first[0, 0], found.positives[0, 0], found.candidates[0, 0]) == (1, 1, 2)


def test_constant_embeddings_rank_every_positive_last() -> None:
    labels = np.repeat(np.arange(6), 4)
    for value in (0.0, 0.1, 123.456):
        for metric in ("euc", "cos"):
            distances = Distances(np.full((24, 16, 3), value, dtype=np.float32), metric)
            found = rank(distances, np.arange(0, 24, 4), np.arange(24), labels)
            assert (found.first == 21).all()


def test_curve_rises_to_the_share_of_probes_with_a_positive() -> None:
    first = np.array([1, 3, 0, 2, 60])
    curve = cmc(first)
    assert curve.shape == (50,)
    assert curve[:3].tolist() == [0.2, 0.4, 0.6]
    assert (np.diff(curve) >= 0).all()
    assert rank_k(first, 60)[0] == 0.8
    with pytest.raises(ValueError, match="no probe"):
        rank_k(first[:0], 1)
