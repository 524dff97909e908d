"""Re-ranking from neighbours only equals the form that holds every matrix."""

from __future__ import annotations

import numpy as np
import pytest
from casia_layout import subject_embeddings
from numpy.typing import NDArray

from opengait.evaluation.distances import Distances
from opengait.evaluation.reranking import Reranked


def whole_matrices(matrix: NDArray[np.float64], probes: int, k1: int, k2: int, blend: float) -> NDArray[np.float64]:
    count = len(matrix)
    scaled = (matrix / matrix.max(axis=0)).T
    order = np.argsort(scaled, axis=1, kind="stable")

    def mutual(i: int, k: int) -> set[int]:
        return {int(j) for j in order[i, : k + 1] if i in order[j, : k + 1]}

    weights = np.zeros((count, count))
    for i in range(count):
        group = mutual(i, k1)
        for j in mutual(i, k1):
            theirs = mutual(j, round(k1 / 2))
            if len(theirs & mutual(i, k1)) > 2 / 3 * len(theirs):
                group |= theirs
        for j in group:
            weights[i, j] = np.exp(-scaled[i, j])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[order[i, :k2]].mean(axis=0) for i in range(count)])
    jaccard = np.empty((probes, count))
    for i in range(probes):
        shared = np.minimum(weights[i], weights).sum(axis=1)
        jaccard[i] = 1 - shared / (2 - shared)
    return ((1 - blend) * jaccard + blend * scaled[:probes])[:, probes:]


@pytest.mark.parametrize(("k1", "k2"), [(6, 6), (4, 1), (20, 3)])
@pytest.mark.parametrize("memory", [4000, 1 << 24])
def test_neighbours_only_equals_whole_matrices(k1: int, k2: int, memory: int) -> None:
    labels = [f"{i // 4:03d}" for i in range(60)]
    embeddings = subject_embeddings(labels, noise=0.7)
    order = np.random.default_rng(0).permutation(60)
    probes, gallery = order[:20], order[20:]
    distances = Distances(embeddings, "euc", memory=memory)
    ((_, matrix),) = Distances(embeddings, "euc").rows(order, order)
    expected = whole_matrices(matrix.double().numpy(), 20, k1, k2, 0.3)

    def found(dtype: type) -> NDArray[np.float32]:
        rows = Reranked(distances, probes, gallery, k1=k1, k2=k2, dtype=dtype).rows(probes, gallery)
        return np.concatenate([chunk.numpy() for _, chunk in rows])

    np.testing.assert_allclose(found(np.float64), expected, atol=1e-6)
    np.testing.assert_allclose(found(np.float16), expected, atol=3e-3)


def test_equal_embeddings_are_re_ranked_without_dividing_by_zero() -> None:
    distances = Distances(np.ones((12, 3, 1), dtype=np.float32))
    probes, gallery = np.arange(4), np.arange(4, 12)
    ((_, chunk),) = Reranked(distances, probes, gallery).rows(probes, gallery)
    assert np.isfinite(chunk.numpy()).all()
