"""Verification and open-set figures equal loops over all pairs."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from casia_layout import casia_names, subject_embeddings

from opengait.evaluation import run_protocol
from opengait.evaluation import verification as module
from opengait.evaluation.distances import Distances
from opengait.evaluation.verification import NOT_RESOLVABLE, Comparisons, verification, verification_lines


def case(seed: int, noise: float) -> tuple[Distances, Comparisons]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(12), 8)
    points = rng.normal(size=(12, 3, 2))[labels] + noise * rng.normal(size=(96, 3, 2))
    embeddings = np.round(points * 4).astype(np.float32) / 4  # a grid, so that distances tie
    order = rng.permutation(96)
    return Distances(embeddings, memory=30_000), Comparisons(order[:50], order[40:], labels)


def pairs(distances: Distances, compared: Comparisons) -> tuple[list[float], list[float], list[tuple[float, float]]]:
    genuine, impostor, searches = [], [], []
    for probe in compared.probes:
        own, other = [np.inf], [np.inf]
        for item in compared.gallery:
            if probe != item:
                apart = float(distances.any_pairs(np.array([probe]), np.array([item]))[0])
                (own if compared.labels[probe] == compared.labels[item] else other).append(apart)
        genuine += own[1:]
        impostor += other[1:]
        searches.append((min(own), min(other)))
    return genuine, impostor, searches


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_figures_equal_loops(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ERRORS_NEEDED", 2)
    distances, compared = case(5, noise)
    genuine, impostor, searches = pairs(distances, compared)
    found = verification(distances, compared)
    assert (found["genuine"], found["impostor"]) == (len(genuine), len(impostor))
    curve = [(np.mean(np.array(impostor) <= t), np.mean(np.array(genuine) <= t)) for t in sorted(genuine)]
    for rate in ("1e-02", "1e-03"):
        expected = max([accepted for false, accepted in curve if false <= float(rate)], default=0.0)
        assert found["TAR"][rate]["value"] == pytest.approx(100 * expected)
        low, high = found["TAR"][rate]["bounds"]
        assert 0 <= low <= found["TAR"][rate]["value"] <= high <= 100
    assert found["TAR"]["1e-05"] == NOT_RESOLVABLE
    assert len(found["ROC"]) == min(200, len(curve))
    assert all(any(np.allclose(told, point) for point in curve) for told in found["ROC"])
    crossing = [(f, 1 - a) for f, a in [(0.0, 0.0), *curve, (1.0, 1.0)]]
    for (f0, m0), (f1, m1) in itertools.pairwise(crossing):
        if f1 >= m1:
            share = (m0 - f0) / ((m0 - f0) + (f1 - m1))
            assert found["EER"]["value"] == pytest.approx(100 * (f0 + share * (f1 - f0)))
            break
    for rate in ("1e-01", "1e-02"):
        if len(searches) * float(rate) < 2:
            assert found["DIR"][rate] == NOT_RESOLVABLE
            continue
        limits = [np.inf, *(other for _, other in searches)]
        allowed = [t for t in limits if sum(other < t for _, other in searches) <= float(rate) * len(searches)]
        mated = [(own, other) for own, other in searches if np.isfinite(own)]
        expected = np.mean([own < other and own < max(allowed) for own, other in mated])
        assert found["DIR"][rate]["value"] == pytest.approx(100 * expected)


def test_a_collapsed_network_verifies_as_a_coin_does() -> None:
    _, compared = case(1, 0.5)
    found = verification(Distances(np.ones((96, 3, 1), dtype=np.float32)), compared)
    assert found["EER"]["value"] == pytest.approx(50)
    assert found["ROC"] == [[1.0, 1.0]] * len(found["ROC"])
    assert found["DIR"]["1e-01"] == NOT_RESOLVABLE


def test_bounds_hold_the_value_and_widen_with_fewer_subjects() -> None:
    rng = np.random.default_rng(0)

    def width(subjects: int) -> float:
        labels = np.repeat(np.arange(subjects), 6)
        points = rng.normal(size=(subjects, 4, 1))[labels] + 0.8 * rng.normal(size=(len(labels), 4, 1))
        everyone = np.arange(len(labels))
        low, high = verification(Distances(points), Comparisons(everyone, everyone, labels))["EER"]["bounds"]
        return high - low

    assert width(6) > 1.5 * width(100)


def test_pairs_without_impostor_or_genuine_are_refused() -> None:
    distances = Distances(np.arange(4, dtype=np.float32).reshape(4, 1, 1))
    two = np.arange(2), np.arange(2, 4)
    with pytest.raises(ValueError, match="needs an impostor pair"):
        verification(distances, Comparisons(*two, np.zeros(4, dtype=np.int64)))
    with pytest.raises(ValueError, match="needs a genuine pair"):
        verification(distances, Comparisons(*two, np.arange(4)))


@pytest.mark.parametrize("cross_view", [False, True])
def test_a_protocol_keeps_apart_what_it_keeps_apart_in_ranking(cross_view: bool) -> None:
    labels, types, views = casia_names(10)
    embeddings = subject_embeddings(labels, noise=0.3)
    options = {"dataset": "CASIA-B", "cross_view_gallery": cross_view, "verify": True}
    found = run_protocol("evaluate_indoor_dataset", embeddings, labels, types, views, **options)
    probes, gallery = (40, 120) if cross_view else (80, 160)
    expected = probes * 9 if cross_view else probes * 12
    assert found.verification["NM"]["genuine"] == expected
    every = probes * gallery if cross_view else probes * gallery * 3 // 4
    excluded = probes * 3 if cross_view else 0
    assert found.verification["NM"]["impostor"] == every - excluded - expected
    assert json.loads(found.to_json())["verification"].keys() == {"NM", "BG", "CL"}
    line = verification_lines(found.verification)[0]
    assert line.startswith(f"verification NM: {expected} genuine")
    assert "TAR at FAR 1e-05 not resolvable" in line
