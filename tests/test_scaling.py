"""docs/scaling.md holds what its script computes, and the script computes from what the recipes say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from opengait import load_config

PROJECT_ROOT = Path(__file__).resolve().parent.parent
ANEW = "python benchmarks/scaling.py --count --write"


@pytest.fixture(scope="module")
def scaling(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("scaling")


def test_the_document_holds_the_tables(scaling: ModuleType) -> None:
    text = (PROJECT_ROOT / "docs" / "scaling.md").read_text()
    assert text == scaling.filled(text, scaling.tables(scaling.read_inputs())), f"run {ANEW}"
    with pytest.raises(ValueError, match="<!-- training --> was expected once, found 0 times"):
        scaling.filled(text.replace("<!-- training -->", ""), scaling.tables(scaling.read_inputs()))


def test_counts_are_those_of_the_recipes(scaling: ModuleType) -> None:
    inputs = scaling.read_inputs()
    for recipe, stored in inputs["counted"].items():
        trainer = load_config(f"configs/{recipe}").trainer_cfg
        assert stored["iterations"] == trainer.total_iter, f"{recipe}: run {ANEW}"
        assert stored["batch"] == trainer.sampler.batch_size[0] * trainer.sampler.batch_size[1], f"{recipe}: run {ANEW}"
    recipe = "gaitset/gaitset.yaml"
    found, stored = scaling.count(recipe), inputs["counted"][recipe]
    for key, value in stored.items():
        # Bytes depend a little on how torch takes operations apart.
        tolerance = 0.1 if "bytes" in key else 0
        assert found[key] == pytest.approx(value, rel=tolerance, abs=0), f"{recipe}, {key}: run {ANEW}"


def test_the_formulas_are_what_they_say(scaling: ModuleType) -> None:
    """A network of round numbers: 10 TFLOP and 67 GB a sequence, 1e9 parameters under SGD with momentum."""
    counts = scaling.Counts(16, 30, 1, 100, 10**9, 1, 10**13, 67 * 10**9, 0, 10**9, 0, 1000)
    published = {"half_flops": 1e15, "float_flops": 1e14, "memory": 3.35e12, "memory_size": 80e9, "nvlink": 1e12,
                 "network": 5e10, "gpus_a_node": 8}  # fmt: skip
    measured = {"iteration_s": 0.02, "read_s": 1e-4, "ranking_s": 5.0, "ranking_pairs": 1e6}
    data = {"train": 10, "test": 100, "frames": 50, "probes": 1000, "gallery": 2000}
    run = scaling.Run("D", "N", counts, data, published, measured, 0.5)
    step = 4e9 * 5 / 3.35e12
    for gpus, sequences in ((1, 16), (8, 2), (64, 1)):
        assert run.bound(gpus) == pytest.approx(sequences * 0.01 + step)
        assert run.computing(gpus) == pytest.approx(max(2 * run.bound(gpus), 0.02))
    assert run.exchange(1) == 0
    assert run.exchange(8) == pytest.approx(2 * 7 / 8 * 4e9 / 5e11)
    assert run.exchange(64) == pytest.approx(run.exchange(8) + 2 * 7 / 8 * 4e9 / 5e10)
    assert run.embedding(8) == pytest.approx(100 * 50 * 1e-6 / 0.5 / 8)
    assert run.ranking(1) == pytest.approx(2 * 2e6 * 1000 / 1e14)
    assert run.ranking_on_a_core() == pytest.approx(5.0 * 2 * 1000 / 15872)
    assert run.useful() == pytest.approx(16 * 0.01 / (0.5 * 0.02 - step))


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.01234, "0.0123"), (9.996, "10.0"), (1234567, "1,230,000"), (99.96, "100")]
)
def test_numbers_are_shown_with_the_digits_that_count(scaling: ModuleType, value: float, shown: str) -> None:
    assert scaling.number(value) == shown
