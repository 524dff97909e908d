"""Distances: as computed directly, exact for near vectors, the same for any chunks and input type."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from opengait.evaluation.distances import Distances


def full(embeddings: object, metric: str, *, memory: int = 1 << 26) -> NDArray[np.float32]:
    everyone = np.arange(len(embeddings))  # type: ignore[arg-type]
    rows = Distances(embeddings, metric, memory=memory).rows(everyone, everyone)  # type: ignore[arg-type]
    return np.concatenate([chunk.numpy() for _, chunk in rows])


def direct(embeddings: NDArray[np.floating], metric: str) -> NDArray[np.float64]:
    x = embeddings.astype(np.float32).astype(np.float64)
    matrix = np.empty((len(x), len(x)))
    for i, a in enumerate(x):
        for j, b in enumerate(x):
            if metric == "euc":
                matrix[i, j] = np.mean([np.sqrt(((a[:, p] - b[:, p]) ** 2).sum()) for p in range(a.shape[1])])
            else:
                away = []
                for p in range(a.shape[1]):
                    one, other = np.linalg.norm(a[:, p]), np.linalg.norm(b[:, p])
                    apart = a[:, p] / (one or 1) - b[:, p] / (other or 1)
                    # 1 - cosine of unit vectors without the loss of digits; no direction, no cosine
                    away.append((apart**2).sum() / 2 if one and other else 1.0)
                matrix[i, j] = np.mean(away)
    return matrix


@pytest.fixture
def embeddings() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(23, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_chunked_equals_direct(embeddings: NDArray[np.float32], metric: str) -> None:
    np.testing.assert_allclose(full(embeddings, metric), direct(embeddings, metric), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_chunk_sizes_do_not_matter(embeddings: NDArray[np.float32], metric: str) -> None:
    for memory in (1, 3000, 20000):
        np.testing.assert_array_equal(full(embeddings, metric, memory=memory), full(embeddings, metric))


@pytest.mark.parametrize("metric", ["euc", "cos"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_vector_lies_at_zero_from_itself_whatever_its_length(metric: str, offset: float) -> None:
    embeddings = (np.random.default_rng(1).normal(size=(40, 256, 2)) * 10 + offset).astype(np.float32)
    matrix = full(embeddings, metric)
    assert (np.diag(matrix) == 0).all()
    assert (matrix + np.eye(40) > 0).all()


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_near_vectors_far_from_the_origin_keep_their_digits(metric: str) -> None:
    step = np.linspace(0, 1, 20)[:, None, None] * np.random.default_rng(2).normal(size=(1, 64, 1))
    embeddings = (1000 + 1e-2 * step).astype(np.float32)
    np.testing.assert_allclose(full(embeddings, metric), direct(embeddings, metric), rtol=1e-4, atol=1e-18)


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_equal_embeddings_are_equally_far_from_every_other(metric: str) -> None:
    rng = np.random.default_rng(3)
    points = (rng.normal(size=(50, 32, 3)) * 100).astype(np.float32)
    embeddings = points[rng.permutation(np.repeat(np.arange(50), 7))]
    matrix = full(embeddings, metric, memory=60000)
    same = (embeddings[:, None] == embeddings[None]).all(axis=(2, 3))
    for row in same[:40]:
        twins = np.flatnonzero(row)
        assert (matrix[:, twins] == matrix[:, twins[:1]]).all()
        assert (matrix[np.ix_(twins, twins)] == 0).all()


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_half_precision_is_cast_up(metric: str) -> None:
    embeddings = (np.random.default_rng(4).normal(size=(9, 256, 2)) * 20).astype(np.float16)
    expected = direct(embeddings, metric)
    np.testing.assert_allclose(full(embeddings, metric), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(full(torch.from_numpy(embeddings), metric), expected, rtol=1e-6, atol=1e-7)


def test_any_input_type_gives_the_same(embeddings: NDArray[np.float32]) -> None:
    coarse = np.round(embeddings * 4) / 4  # exact in every type
    frozen = coarse.copy()
    frozen.setflags(write=False)
    expected = full(coarse, "euc")
    for same in (coarse.astype(np.float64), coarse.astype(np.float16), frozen, torch.from_numpy(coarse).bfloat16()):
        np.testing.assert_array_equal(full(same, "euc"), expected)


def test_cosine_ignores_length_and_a_part_without_direction_is_at_one(embeddings: NDArray[np.float32]) -> None:
    scale = np.random.default_rng(5).uniform(0.1, 10, size=(len(embeddings), 1, 1)).astype(np.float32)
    np.testing.assert_allclose(full(embeddings * scale, "cos"), full(embeddings, "cos"), atol=1e-6)
    embeddings[[2, 3], :, 1] = 0
    np.testing.assert_allclose(full(embeddings, "cos"), direct(embeddings, "cos"), atol=1e-6)


def test_one_part_may_be_left_out_of_the_shape(embeddings: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(full(embeddings[:, :, 0], "euc"), full(embeddings[:, :, :1], "euc"))


def test_bad_input_is_refused(embeddings: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="did you mean 'cos'"):
        Distances(embeddings, "cosi")
    with pytest.raises(ValueError, match="expected one of: euc, cos"):
        Distances(embeddings, "manhattan")
    with pytest.raises(ValueError, match=r"expected \[n, c, p\]"):
        Distances(embeddings[0, 0], "euc")
    with pytest.raises(ValueError, match=r"expected \[n, c, p\]"):
        Distances(embeddings[:0], "euc")
    with pytest.raises(ValueError, match=r"of type <U.*expected floats"):
        Distances(embeddings.astype(str), "euc")
    wide = embeddings.astype(np.float64)
    for bad in (np.nan, np.inf, -1e300, 1e39):  # the last two are finite in double precision only
        wide[4, 0, 0] = bad
        for given in (wide, torch.from_numpy(wide)):
            with pytest.raises(ValueError, match=r"1 of 23 sequences .* index 4"):
                Distances(given, "euc")
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    with pytest.raises(ValueError, match=r"1 of 23 sequences .* index 4"):
        Distances(narrow, "cos")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_gpu_equals_cpu(embeddings: NDArray[np.float32], metric: str) -> None:
    everyone = np.arange(len(embeddings))
    ((_, chunk),) = Distances(embeddings, metric, device="cuda").rows(everyone, everyone)
    np.testing.assert_allclose(chunk.cpu().numpy(), full(embeddings, metric), rtol=1e-6, atol=1e-7)


def test_chunks_stay_within_the_memory_given(embeddings: NDArray[np.float32]) -> None:
    everyone = np.arange(len(embeddings))
    for memory in (6000, 20000):
        chunks = list(Distances(embeddings, memory=memory).rows(everyone, everyone, bytes_per_pair=24))
        assert len(chunks) > 1
        assert all(chunk.numel() * 24 <= memory for _, chunk in chunks)
        assert [i for rows, _ in chunks for i in range(rows.start, rows.stop)] == everyone.tolist()
