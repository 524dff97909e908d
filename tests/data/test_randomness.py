"""Random numbers depend on their key and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from opengait.data.randomness import generator, uniforms


def test_the_key_decides() -> None:
    keys = [("a", 0, 0, 0), ("b", 0, 0, 0), ("a", 1, 0, 0), ("a", 0, 1, 0), ("a", 0, 0, 1), ("a", 2**32, 0, 0)]
    drawn = [generator(*key).random() for key in keys]
    assert len(set(drawn)) == len(keys)
    assert drawn == [generator(*key).random() for key in keys]


@pytest.mark.parametrize("key", [(-1, 0, 0), (0, -1, 0), (0, 0, -5), (2**64, 0, 0)])
def test_keys_out_of_range_are_refused(key: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        generator("a", *key)


def test_a_position_has_its_number_in_any_batch() -> None:
    positions = np.arange(100)
    together = uniforms("flip", 3, 12, positions)
    shuffled = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(uniforms("flip", 3, 12, shuffled), together[shuffled])
    np.testing.assert_array_equal(uniforms("flip", 3, 12, positions[40:41]), together[40:41])


def test_uniforms_are_uniform_and_unrelated() -> None:
    positions = np.arange(20000)
    first, second = uniforms("flip", 0, 0, positions), uniforms("flip", 0, 1, positions)
    assert first.min() >= 0
    assert first.max() < 1
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-square with 19 degrees of freedom: p < 1e-4
    for pair in ((first, second), (first[:-1], first[1:])):
        assert abs(np.corrcoef(*pair)[0, 1]) < 0.03
