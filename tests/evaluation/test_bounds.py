"""Bounds from single precision hold, and a ranking by them is the one by exact distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from opengait.evaluation import bounds, chunks, ranking
from opengait.evaluation.distances import Distances
from opengait.evaluation.ranking import Ranking, rank

FloatArray = NDArray[np.float32]


def near_and_far(seed: int, count: int, channels: int, parts: int) -> FloatArray:
    """Points at all distances from one another: equal, a rounding apart, near, far."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, channels, parts))
    points[count // 2 :] = points[: count - count // 2] * (1 + 10.0 ** rng.integers(-9, 1, (count - count // 2, 1, 1)))
    return points.astype(np.float32)


def between(
    distances: Distances, probes: int | None = None, at_once: int = 64
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of the first sequences to the others; None: of all to all."""
    everyone = np.arange(len(distances))
    first, second = (everyone, everyone) if probes is None else (everyone[:probes], everyone[probes:])
    ((_, exact),) = distances.rows(first, second)
    spaces = [bounds.Workspace(torch.device("cpu")) for _ in range(3)]
    spans = [bounds.span(distances, distances.take(some), spaces.pop()) for some in (first, second)]
    low, high = bounds.interval(distances.metric, *spans, spaces.pop(), at_once)
    return low.numpy(), exact.numpy(), high.numpy()


@pytest.mark.parametrize("metric", ["euc", "cos"])
@pytest.mark.parametrize(("channels", "parts"), [(1, 1), (3, 9), (256, 2), (700, 1)])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-9, 0), (1e9, 0), (1, 1000)])
@pytest.mark.parametrize("at_once", [64, 1000])
def test_exact_distances_lie_between_the_bounds(
    metric: str, channels: int, parts: int, scale: float, offset: float, at_once: int
) -> None:
    embeddings = near_and_far(0, 60, channels, parts) * np.float32(scale) + np.float32(offset)
    embeddings[7, :, 0] = 0
    distances = Distances(embeddings, metric)
    assert bounds.in_range(distances)
    low, exact, high = between(distances, at_once=at_once)
    assert (low <= exact).all()  # also where a distance of noise was set to zero
    assert (exact <= high).all()


def test_bounds_are_narrow() -> None:
    distances = Distances(np.random.default_rng(0).normal(size=(50, 256, 62)).astype(np.float32))
    low, exact, high = between(distances, 20)
    assert (high - low < 2e-5 * exact).all()
    low, exact, high = between(distances, 20, at_once=256)
    assert (high - low < 5e-5 * exact).all()
    # Where a sequence meets itself, those beside it are known less well, and well enough.
    low, exact, high = between(distances)
    apart = exact > 0
    assert ((high - low)[apart] < 1e-2 * exact[apart]).all()


def test_narrow_bounds_are_taken_where_wide_ones_leave_too_much_in_doubt() -> None:
    narrowness = bounds.Narrowness()
    chosen = []
    for in_doubt in (0.0, 0.1, 0.002, 0.0001, 0.002):
        narrowness.left(in_doubt)
        chosen.append(narrowness.channels(256))
    assert chosen == [256, 64, 64, 256, 256]


def test_what_single_precision_cannot_square_is_ranked_exactly() -> None:
    for scale in (1e-13, 1e20):
        embeddings = np.arange(8, dtype=np.float32).reshape(8, 1, 1) * np.float32(scale)
        distances = Distances(embeddings)
        assert not bounds.in_range(distances)
        found = rank(distances, np.array([0]), np.arange(1, 8), np.array([0, 1, 2, 0, 3, 4, 5, 0]))
        assert found.first.item() == 3


def test_products_are_taken_in_full_precision_and_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    multiply = torch.mm

    def watched(*tensors: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return multiply(*tensors, out=out)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        monkeypatch.setattr(torch, "mm", watched)
        between(Distances(near_and_far(1, 6, 4, 2)))
        assert set(seen) == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["euc", "cos"]),
    st.sampled_from([1, 4000, 1 << 22]),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
)
@example(1800, "euc", 4000, 0.0, False)  # blocks of another height, and so of another padding
def test_ranking_by_bounds_is_the_exact_one(
    seed: int, metric: str, memory: int, dense: float, nearest_only: bool
) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 60))
    coarse = rng.integers(0, 3, size=(count, 3, 2)).astype(np.float32) * 0.1  # many ties
    embeddings = coarse if seed % 2 else rng.normal(size=(count, 5, 3)).astype(np.float32)
    labels, views = rng.integers(0, 6, count), rng.integers(0, 3, count)
    probes, gallery = rng.integers(0, count, 9), rng.permutation(count)[: rng.integers(1, count + 1)]
    segments = rng.integers(0, 3, len(gallery)) if seed % 3 else None
    exclusion = [None, labels * 3 + views, views][seed % 5 % 3]

    def found(always_bounds: bool) -> Ranking:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "DENSE", 1.0 if always_bounds else -1.0)
            patch.setattr(ranking, "DENSE", dense)  # 0: every block in doubt is computed whole
            distances = Distances(embeddings, metric, memory=memory)
            options = {"segments": segments, "exclusion": exclusion, "nearest_only": nearest_only}
            return rank(distances, probes, gallery, labels, **options)  # type: ignore[arg-type]

    by_bounds, exact = found(True), found(False)
    for name in Ranking.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(by_bounds, name), getattr(exact, name))


def test_single_pairs_are_as_far_apart_as_in_the_matrix() -> None:
    rng = np.random.default_rng(3)
    for metric in ("euc", "cos"):
        embeddings = rng.normal(size=(30, 16, 3)).astype(np.float32)
        embeddings[4, :, 1] = 0
        distances = Distances(embeddings, metric, memory=50_000)
        ((_, exact),) = Distances(embeddings, metric).rows(np.arange(30), np.arange(30))
        one, other = rng.integers(0, 30, (2, 200))
        np.testing.assert_array_equal(distances.any_pairs(one, other), exact.numpy()[one, other])


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_single_pairs_tie_where_the_matrix_does(metric: str) -> None:
    for seed in range(5):
        embeddings = near_and_far(seed, 40, 8, 2)
        distances = Distances(embeddings, metric)
        ((_, exact),) = distances.rows(np.arange(40), np.arange(40))
        one, other = (index.ravel() for index in np.indices((40, 40)))
        found = distances.any_pairs(one, other).reshape(40, 40)
        np.testing.assert_array_equal(found == 0, exact.numpy() == 0)
        np.testing.assert_allclose(found, exact.numpy(), rtol=1e-3)
