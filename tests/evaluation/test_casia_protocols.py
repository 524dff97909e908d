"""The CASIA-B protocols: golden figures, a loop-written twin, and what may not change a figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from casia_layout import VIEWS, casia_names, subject_embeddings
from numpy.typing import NDArray

from opengait.evaluation import evaluate, run_protocol, text_lines
from opengait.evaluation.baselines import chance

INDOOR = "evaluate_indoor_dataset"
PROBES = {"NM": ["nm-05", "nm-06"], "BG": ["bg-01", "bg-02"], "CL": ["cl-01", "cl-02"]}


@pytest.mark.parametrize("metric", ["euc", "cos"])
@pytest.mark.parametrize("dataset", ["CASIA-B", "CASIA-B*"])
def test_single_view_figures_are_the_golden_ones(shared: Callable[[str], Path], metric: str, dataset: str) -> None:
    case = json.loads(shared("golden/eval/casiab_single.json").read_text())
    embeddings = np.load(shared("golden/eval/casiab_single.npz"))["embeddings"]
    names = case["labels"], case["types"], case["views"]
    figures = evaluate(INDOOR, embeddings, *names, dataset=dataset, metric=metric)
    assert figures == pytest.approx(case["results"][metric]["returned"], abs=1e-4)


def far(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.mean(np.sqrt(((a.astype(np.float64) - b) ** 2).sum(axis=0))))


def slow_single_view(
    embeddings: NDArray[np.float32], labels: list[str], types: list[str], views: list[str], condition: str
) -> float:
    means = []
    for probe_view in sorted(set(views)):
        cells = []
        for gallery_view in sorted(set(views)):
            if gallery_view == probe_view:
                continue
            hits = []
            for i, kind in enumerate(types):
                if kind in PROBES[condition] and views[i] == probe_view:
                    gallery = [j for j, t in enumerate(types) if t <= "nm-04" and t > "nm" and views[j] == gallery_view]
                    ranked = sorted((far(embeddings[i], embeddings[j]), labels[j] == labels[i]) for j in gallery)
                    hits.append(ranked[0][1])
            cells.append(round(100 * sum(hits) / len(hits), 2))
        means.append(sum(cells) / len(cells))
    return sum(means) / len(means)


def slow_cross_view(
    embeddings: NDArray[np.float32], labels: list[str], types: list[str], views: list[str], condition: str
) -> tuple[float, float]:
    rank1, mean_ap = [], []
    for probe_view in sorted(set(views)):
        hits, precisions = [], []
        for i, kind in enumerate(types):
            if kind == f"{condition.lower()}-01" and views[i] == probe_view:
                gallery = [j for j, t in enumerate(types) if t in ("nm-02", "bg-02", "cl-02")]
                kept = [j for j in gallery if not (labels[j] == labels[i] and views[j] == views[i])]
                ranked = sorted((far(embeddings[i], embeddings[j]), labels[j] == labels[i]) for j in kept)
                hits.append(ranked[0][1])
                places = [place for place, (_, own) in enumerate(ranked, start=1) if own]
                precisions.append(sum(n / place for n, place in enumerate(places, start=1)) / len(places))
        rank1.append(round(100 * sum(hits) / len(hits), 2))
        mean_ap.append(round(100 * sum(precisions) / len(precisions), 2))
    return sum(rank1) / len(rank1), sum(mean_ap) / len(mean_ap)


def test_both_protocols_equal_loops_over_probes() -> None:
    names = casia_names(3)
    embeddings = subject_embeddings(names[0], noise=1.0)
    single = evaluate(INDOOR, embeddings, *names, dataset="CASIA-B")
    cross = evaluate(INDOOR, embeddings, *names, dataset="CASIA-B", cross_view_gallery=True)
    for condition in PROBES:
        expected = slow_single_view(embeddings, *names, condition)
        assert single[f"scalar/test_accuracy/{condition}@R1"] == pytest.approx(expected, abs=1e-9)
        rank1, mean_ap = slow_cross_view(embeddings, *names, condition)
        assert cross[f"scalar/test_accuracy/{condition}-Rank@1"] == pytest.approx(rank1, abs=1e-9)
        assert cross[f"scalar/test_accuracy/{condition}-mAP"] == pytest.approx(mean_ap, abs=1e-9)


@pytest.mark.parametrize("cross_view", [False, True])
@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_order_scale_chunks_and_type_do_not_matter(cross_view: bool, metric: str) -> None:
    labels, types, views = casia_names(6)
    embeddings = subject_embeddings(labels, noise=0.8)
    options = {"dataset": "CASIA-B", "metric": metric, "cross_view_gallery": cross_view}
    expected = run_protocol(INDOOR, embeddings, labels, types, views, **options).exact
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = [[column[i] for i in order] for column in (labels, types, views)]
    assert run_protocol(INDOOR, embeddings[order], *shuffled, **options).exact == pytest.approx(expected)
    assert run_protocol(INDOOR, embeddings, labels, types, views, memory=50_000, **options).exact == expected
    assert run_protocol(INDOOR, embeddings * 8, labels, types, views, **options).exact == expected
    assert run_protocol(INDOOR, embeddings.tolist(), labels, types, views, **options).exact == expected
    tensor = torch.from_numpy(embeddings).double()
    assert run_protocol(INDOOR, tensor, labels, types, views, device="cpu", **options).exact == expected
    if metric == "cos":
        lengths = np.random.default_rng(2).uniform(0.5, 2, size=(len(labels), 1, 1)).astype(np.float32)
        assert run_protocol(INDOOR, embeddings * lengths, labels, types, views, **options).exact == expected


@pytest.mark.parametrize("cross_view", [False, True])
@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_a_collapsed_network_scores_nothing(cross_view: bool, metric: str) -> None:
    names = casia_names(5)
    options = {"dataset": "CASIA-B", "metric": metric, "cross_view_gallery": cross_view}
    for value in (0.0, 0.1, -7.7):
        constant = np.full((len(names[0]), 6, 2), value, dtype=np.float32)
        figures = evaluate(INDOOR, constant, *names, **options)
        assert all(figure == 0 for tag, figure in figures.items() if "mAP" not in tag)
    by_view = subject_embeddings(names[2], noise=0.0)  # knows the view and nothing of the subject
    figures = evaluate(INDOOR, by_view, *names, **options)
    assert all(figure == 0 for tag, figure in figures.items() if "mAP" not in tag)


@pytest.mark.parametrize("cross_view", [False, True])
def test_shuffled_embeddings_score_chance(cross_view: bool) -> None:
    names = casia_names(20)
    options = {"dataset": "CASIA-B", "cross_view_gallery": cross_view}
    expected = chance(INDOOR, *names, **options).exact
    embeddings = subject_embeddings(names[0], noise=0.1)
    assert min(evaluate(INDOOR, embeddings, *names, **options).values()) > 95
    runs = [
        evaluate(INDOOR, np.random.default_rng(seed).permutation(embeddings), *names, **options) for seed in range(12)
    ]
    for tag, figure in expected.items():
        assert np.mean([run[tag] for run in runs]) == pytest.approx(figure, abs=1.5)


def test_rounding_is_the_published_one_and_exact_is_kept() -> None:
    names = casia_names(3)
    found = run_protocol(INDOOR, subject_embeddings(names[0], noise=1.5), *names, dataset="CASIA-B")
    for tag, figure in found.figures.items():
        thirds = found.exact[tag] * 6 * len(VIEWS) * (len(VIEWS) - 1) / 100
        assert thirds == pytest.approx(round(thirds))
        assert figure == pytest.approx(found.exact[tag], abs=5e-3)
    assert found.figures != found.exact


def test_walkers_use_the_layout_and_say_what_they_are() -> None:
    names = casia_names(4)
    embeddings = subject_embeddings(names[0], noise=1.0)
    walkers = run_protocol(INDOOR, embeddings, *names, dataset="Walkers")
    real = run_protocol(INDOOR, embeddings, *names, dataset="CASIA-B")
    assert walkers.figures == real.figures
    assert "generated walkers" in walkers.protocol
    assert "not an official protocol" in walkers.protocol
    assert real.protocol == (
        "CASIA-B; single-view gallery nm-01..nm-04, identical views excluded; "
        "Euclidean distance; not re-ranked; official protocol"
    )


def test_the_result_is_told_as_table_and_json() -> None:
    names = casia_names(4)
    found = run_protocol(INDOOR, subject_embeddings(names[0], noise=1.0), *names, dataset="CASIA-B")
    (table,) = found.tables
    assert table.columns == tuple(VIEWS)
    assert [(row[0], row[2]) for row in table.rows] == [
        (condition, found.figures[f"scalar/test_accuracy/{condition}@R1"]) for condition in PROBES
    ]
    lines = text_lines(table)
    assert lines[1].split() == [*VIEWS, "mean"]
    assert len({len(line) for line in lines[1:]}) == 1
    told = json.loads(found.to_json())
    assert told["figures"] == found.figures
    assert told["probes"] == {"NM": 32, "BG": 32, "CL": 32}
    assert told["protocol"] == found.protocol


def test_a_view_that_some_sequences_lack_is_left_out_and_told() -> None:
    labels, types, views = casia_names(4)
    kept = [i for i, (t, v) in enumerate(zip(types, views, strict=True)) if not (t.startswith("cl") and v == "090")]
    kept = [i for i in kept if not (types[i].startswith("nm-0") and types[i] < "nm-05" and views[i] == "036")]
    names = [[column[i] for i in kept] for column in (labels, types, views)]
    found = run_protocol(INDOOR, subject_embeddings(names[0], noise=0.0), *names, dataset="CASIA-B")
    assert set(found.figures.values()) == {100.0}
    assert "CL: no probe at view 090" in found.notes
    assert "NM: no gallery at view 036" in found.notes
    assert dict((row[0], row[1]) for row in found.tables[0].rows)["CL"][2] is None
    assert "-" in text_lines(found.tables[0])[-1].split()
    json.loads(found.to_json())


def test_a_condition_without_probes_is_left_out_and_told() -> None:
    labels, types, views = casia_names(3)
    kept = [i for i, t in enumerate(types) if not t.startswith("cl")]
    names = [[column[i] for i in kept] for column in (labels, types, views)]
    found = run_protocol(INDOOR, subject_embeddings(names[0], noise=0.0), *names, dataset="CASIA-B")
    assert list(found.figures) == ["scalar/test_accuracy/NM@R1", "scalar/test_accuracy/BG@R1"]
    assert any(note.startswith("CL: no probe") for note in found.notes)


def test_a_probe_whose_subject_is_not_in_the_gallery_is_a_miss() -> None:
    labels, types, views = casia_names(4)
    kept = [i for i, t in enumerate(types) if not (labels[i] == "075" and "nm-01" <= t <= "nm-04")]
    names = [[column[i] for i in kept] for column in (labels, types, views)]
    found = run_protocol(INDOOR, subject_embeddings(names[0], noise=0.0), *names, dataset="CASIA-B")
    assert set(found.figures.values()) == {75.0}
    assert "NM: 24 of 128 pairs of a probe and a gallery view have no gallery sequence" in found.notes[0]
    embeddings = subject_embeddings(names[0], noise=0.0)
    without = run_protocol(INDOOR, embeddings, *names, dataset="CASIA-B", remove_no_gallery=True)
    assert set(without.figures.values()) == {100.0}
    assert "probes without gallery left out" in without.protocol


def test_mistakes_are_told_with_what_was_expected() -> None:
    names = casia_names(2)
    embeddings = subject_embeddings(names[0], noise=1.0)
    mistakes = [
        ({"dataset": "CASIAB"}, "unknown data set .* 'CASIAB' .*did you mean 'CASIA-B'"),
        ({"dataset": None}, "needs the name of the data set: one of CASIA-B"),
        ({"dataset": "CASIA-B", "metric": "eucl"}, "unknown metric 'eucl' .*did you mean 'euc'"),
        ({"dataset": "CASIA-E", "cross_view_gallery": True}, "no cross-view gallery protocol for 'CASIA-E'"),
        ({"dataset": "CASIA-B", "rerank": True}, "takes no re-ranking"),
        ({"dataset": "OUMVLP"}, "nothing to test: NM: no probe .*types 00.* Found types bg-01"),
    ]
    for options, message in mistakes:
        with pytest.raises(ValueError, match=message):
            evaluate(INDOOR, embeddings, *names, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'evaluate_indoor_dataset'"):
        evaluate("evaluate_indoor", embeddings, *names, dataset="CASIA-B")
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluate(INDOOR, np.where(embeddings > 1, np.nan, embeddings), *names, dataset="CASIA-B")
    with pytest.raises(ValueError, match="for 80 labels"):
        evaluate(INDOOR, embeddings[1:], *names, dataset="CASIA-B")
    with pytest.raises(ValueError, match="79 views"):
        evaluate(INDOOR, embeddings, names[0], names[1], names[2][1:], dataset="CASIA-B")
    with pytest.raises(ValueError, match="no 'embeddings' among the inference features; found: logits"):
        evaluate(INDOOR, {"logits": embeddings}, *names, dataset="CASIA-B")
    one_view = casia_names(2, ["090"])
    with pytest.raises(ValueError, match="at least two views"):
        evaluate(INDOOR, subject_embeddings(one_view[0], noise=1.0), *one_view, dataset="CASIA-B")
    with pytest.raises(ValueError, match=r"nothing to test.*sequences"):
        evaluate(INDOOR, embeddings[:1], ["075"], ["nm-01"], ["000"], dataset="CASIA-B")
    with pytest.raises(ValueError, match=r"expected \[n, c, p\]"):
        evaluate(INDOOR, embeddings[:0], [], [], [], dataset="CASIA-B")
