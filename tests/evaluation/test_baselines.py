"""Chance is what random orders give on average; gait energy images are mean silhouettes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from casia_layout import casia_names

from opengait.evaluation import evaluate
from opengait.evaluation.baselines import _expected, chance, gait_energy_images
from opengait.evaluation.ranking import Ranking, positions_of_positives


@pytest.mark.parametrize(("positives", "candidates"), [(1, 1), (1, 7), (3, 7), (7, 7), (2, 40)])
def test_expected_measures_equal_the_mean_over_random_orders(positives: int, candidates: int) -> None:
    rng = np.random.default_rng(0)
    orders = torch.from_numpy(np.stack([rng.permutation(candidates) for _ in range(4000)]).astype(np.float32))
    own = torch.zeros(4000, candidates, dtype=torch.bool)
    own[:, :positives] = True
    positions = positions_of_positives(orders, own).numpy()
    assert _expected("Rank-1", positives, candidates) == pytest.approx((positions[:, 0] <= 1).mean(), abs=0.03)
    assert _expected("Rank-5", positives, candidates) == pytest.approx((positions[:, 0] <= 5).mean(), abs=0.03)
    average = (np.arange(1, positives + 1) / positions).mean()
    assert _expected("mAP", positives, candidates) == pytest.approx(average, abs=0.02)
    assert _expected("mINP", positives, candidates) == pytest.approx((positives / positions[:, -1]).mean(), abs=0.02)


def test_chance_of_casia_is_one_in_so_many_subjects() -> None:
    names = casia_names(5)
    found = chance("evaluate_indoor_dataset", *names, dataset="CASIA-B")
    assert found.exact == {f"scalar/test_accuracy/{c}@R1": pytest.approx(20.0) for c in ("NM", "BG", "CL")}
    assert found.protocol.endswith("expected figures of a random ranking")
    # Cross-view: the subject's three sequences at the probe's own view take no part, at the three other views they do.
    cross = chance("evaluate_indoor_dataset", *names, dataset="CASIA-B", cross_view_gallery=True)
    assert cross.exact["scalar/test_accuracy/NM-Rank@1"] == pytest.approx(100 * 9 / (5 * 12 - 3))


def test_chance_is_not_defined_where_the_truth_is_hidden() -> None:
    with pytest.raises(ValueError, match="truth is known"):
        chance("GREW_submission", ["1"], ["01"], ["x"])


def test_energy_images_are_mean_silhouettes_and_identify_shapes() -> None:
    labels, types, views = casia_names(4, ["000", "090"])
    rng = np.random.default_rng(0)
    shapes = {label: rng.random((8, 6)) for label in sorted(set(labels))}
    frames = [(255 * (rng.random((10, 8, 6)) < shapes[label])).astype(np.uint8) for label in labels]
    images = gait_energy_images(frames)
    assert images.shape == (len(labels), 48, 1)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[3, :, 0], frames[3].mean(axis=0).ravel() / 255, rtol=1e-6)
    np.testing.assert_array_equal(gait_energy_images([list(f) for f in frames]), images)
    figures = evaluate("evaluate_indoor_dataset", images, labels, types, views, dataset="Walkers")
    assert min(figures.values()) > 80


def test_energy_images_refuse_what_has_no_mean() -> None:
    frame = np.zeros((2, 4, 4), dtype=np.uint8)
    for sequences, message in [
        ([], "no sequence"),
        ([frame[:0]], "at least one frame"),
        ([frame, np.zeros((2, 5, 4), dtype=np.uint8)], "20 pixels, those before 16"),
    ]:
        with pytest.raises(ValueError, match=message):
            gait_energy_images(sequences)


def test_measures_of_a_ranking_by_name() -> None:
    first = np.array([[1], [6], [0]])
    ranking = Ranking(first, first / 10, first / 20, first, first)
    assert ranking.measure("Rank-5").ravel().tolist() == [1, 0, 0]
    assert ranking.measure("mAP").ravel().tolist() == [0.1, 0.6, 0.0]
    assert ranking.measure("mINP").ravel().tolist() == [0.05, 0.3, 0.0]
