"""Frame choice: the laws of every sample type."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengait.data.frames import SAMPLE_TYPES, FrameChoice


def choice(sample_type: str, **numbers: Any) -> FrameChoice:
    defaults = {"frames_num_fixed": 6, "frames_num_min": 3, "frames_num_max": 9, "frames_skip_num": 2}
    return FrameChoice({"sample_type": sample_type} | defaults | numbers)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(sample_type=st.sampled_from(SAMPLE_TYPES), length=st.integers(1, 40), seed=st.integers(0, 1000))
def test_every_choice_lies_in_the_sequence_and_has_its_announced_number(
    sample_type: str, length: int, seed: int
) -> None:
    frames = choice(sample_type)
    chosen = frames.choose(length, rng(seed))
    assert chosen.dtype == np.int64
    assert 0 <= chosen.min() <= chosen.max() < length
    assert len(chosen) == frames.count(length, rng(seed))
    if frames.number == "fixed":
        assert len(chosen) == 6
    elif frames.number == "unfixed":
        assert 3 <= len(chosen) <= 9
    else:
        np.testing.assert_array_equal(chosen, np.arange(length))
    if "unordered" in sample_type and frames.number != "all" and length >= len(chosen):
        assert len(set(chosen)) == len(chosen)
    if "allordered" in sample_type:
        assert (np.diff(chosen) >= 0).all()


@given(length=st.integers(1, 40), count=st.integers(1, 12), skip=st.integers(0, 8), seed=st.integers(0, 100))
def test_ordered_frames_step_forward_with_bounded_gaps(length: int, count: int, skip: int, seed: int) -> None:
    chosen = choice("fixed_ordered", frames_num_fixed=count, frames_skip_num=skip).choose(length, rng(seed))
    steps = np.diff(chosen) % length  # short sequences go round
    if length > count + skip:
        assert (np.diff(chosen) > 0).all()
        assert (steps - 1).sum() <= skip
    if skip == 0:
        assert (steps == 1 % length).all()


def test_ordered_probabilities_are_those_of_the_window_rule() -> None:
    """T = 6, n = 3, skip = 2: two windows of five, ten triples each, sixteen different ones."""
    frames = choice("fixed_ordered", frames_num_fixed=3, frames_skip_num=2)
    expected: Counter[tuple[int, ...]] = Counter()
    for start in (0, 1):
        for triple in combinations(range(start, start + 5), 3):
            expected[triple] += 1 / 20
    assert len(expected) == 16
    draws, generator = 20000, rng()
    found = Counter(tuple(frames.choose(6, generator).tolist()) for _ in range(draws))
    assert set(found) == set(expected)
    chi_square = sum((found[triple] - draws * p) ** 2 / (draws * p) for triple, p in expected.items())
    assert chi_square < 45  # 15 degrees of freedom: p < 1e-4


def test_unordered_is_uniform_over_arrangements() -> None:
    frames, generator = choice("fixed_unordered", frames_num_fixed=2), rng()
    found = Counter(tuple(frames.choose(4, generator).tolist()) for _ in range(12000))
    assert len(found) == 12
    assert sum((count - 1000) ** 2 / 1000 for count in found.values()) < 40  # 11 degrees of freedom


def test_unordered_repeats_frames_of_short_sequences_only() -> None:
    generator = rng()
    assert len(set(choice("fixed_unordered").choose(6, generator))) == 6
    seen = {tuple(choice("fixed_unordered").choose(3, generator)) for _ in range(20)}
    assert len(seen) > 1
    assert all(max(chosen) < 3 for chosen in seen)


def test_unfixed_numbers_cover_their_range() -> None:
    generator = rng()
    numbers = {len(choice("unfixed_unordered").choose(50, generator)) for _ in range(300)}
    assert numbers == set(range(3, 10))


@pytest.mark.parametrize("order", ["ordered", "unordered", "allordered"])
def test_all_frames_up_to_the_limit(order: str) -> None:
    frames = choice(f"all_{order}", frames_all_limit=7)
    np.testing.assert_array_equal(frames.choose(10, rng()), np.arange(7))
    np.testing.assert_array_equal(frames.choose(5, rng()), np.arange(5))
    assert frames.cut(np.array([5, 7, 8, 100])) == 2


@pytest.mark.parametrize("sample_type", SAMPLE_TYPES)
def test_counts_of_a_set_are_those_of_its_sequences(sample_type: str) -> None:
    frames, lengths = choice(sample_type, frames_all_limit=8), np.arange(1, 30)
    counts = frames.counts(lengths, rng)
    np.testing.assert_array_equal(counts, [len(frames.choose(n, rng(i))) for i, n in enumerate(lengths)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sample_type": "fixed_unorderd"}, "did you mean 'fixed_unordered'"),
        ({"sample_type": None}, "unknown value None"),
        ({"sample_type": "fixed"}, "known: fixed_ordered"),
        ({"sample_type": "fixed_unordered", "frames_num_fixed": None}, "frames_num_fixed: is needed"),
        ({"sample_type": "fixed_unordered", "frames_num_fixed": 0}, "1 or more was expected, found 0"),
        ({"sample_type": "fixed_unordered", "frames_num_fixed": 3.0}, "found 3.0"),
        ({"sample_type": "fixed_ordered", "frames_skip_num": None}, "frames_skip_num: is needed"),
        ({"sample_type": "unfixed_ordered", "frames_num_min": 9, "frames_num_max": 3}, "9 is above frames_num_max 3"),
        ({"sample_type": "all_ordered", "frames_all_limit": 0}, "frames_all_limit"),
        ({"sample_type": "all_ordered", "points_in_use": {"points_num": 5}}, "point clouds"),
    ],
)
def test_mistakes(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="sampler") as error:
        choice(**settings)
    assert said in str(error.value)
