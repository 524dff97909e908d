"""Laws of several processes: what they compute together is what one computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_worker
import numpy as np
import pytest
import torch
from engine_tiny import write_tree

BATCH_NORMS = [
    {"dims": 1, "shares": [2, 4], "momentum": 0.1, "affine": True},
    {"dims": 2, "shares": [5, 2], "momentum": 0.1, "affine": True},
    {"dims": 2, "shares": [1, 3], "momentum": None, "affine": False},
    {"dims": 3, "shares": [2, 1], "momentum": 0.3, "affine": True},
]
TRAININGS: dict[str, dict[str, Any]] = {
    # A seed with few cancellations: in float32 a mere change of order moves small biases by 2e-5 with others.
    "even shares, SGD": {"trainer_cfg__sampler__batch_size": [2, 4], "trainer_cfg__seed": 3},
    "odd shares, SGD": {"trainer_cfg__sampler__batch_size": [3, 3]},
    "odd shares, Adam in float64": {
        "model_cfg__double": True,
        "optimizer_cfg": {"solver": "Adam", "lr": 0.01, "weight_decay": 0.0},
    },
    "Baseline, odd shares, in float64": {
        "model_cfg": {
            "model": "DoubleBaseline",
            "backbone_cfg": {
                "type": "ResNet9",
                "block": "BasicBlock",
                "channels": [4, 4, 8, 8],
                "layers": [1, 1, 1, 1],
                "strides": [1, 2, 2, 1],
                "maxpool": False,
            },
            "SeparateFCs": {"in_channels": 8, "out_channels": 8, "parts_num": 3},
            "SeparateBNNecks": {"class_num": 4, "in_channels": 8, "parts_num": 3},
            "bin_num": [2, 1],
        },
    },
    "GaitSSB, odd shares of two views, in float64": {
        "model_cfg": {
            "model": "DoubleGaitSSB",
            "backbone_cfg": {
                "type": "ResNet9",
                "block": "BasicBlock",
                "channels": [4, 4, 6, 6],
                "layers": [1, 1, 1, 1],
                "strides": [1, 2, 2, 1],
                "maxpool": False,
            },
            "parts_num": 31,
        },
        "loss_cfg": [
            {"type": "CrossEntropyLoss", "log_prefix": "softmax1", "scale": 16, "log_accuracy": True},
            {"type": "CrossEntropyLoss", "log_prefix": "softmax2", "scale": 16, "log_accuracy": True},
        ],
        # Statistics of five rows magnify rounding a thousandfold an iteration.
        "trainer_cfg__total_iter": 2,
        "trainer_cfg__sampler": {
            "type": "BilateralSampler",
            "batch_size": [1, 5],
            "sample_type": "fixed_ordered",
            "frames_num_fixed": 3,
            "frames_skip_num": 1,
        },
    },
    "GaitSet without batch norm": {
        "model_cfg": {
            "model": "GaitSet",
            "in_channels": [1, 4, 8, 16],
            "SeparateFCs": {"in_channels": 16, "out_channels": 8, "parts_num": 10},
            "bin_num": [4, 1],
        },
        "loss_cfg": {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2, "loss_term_weight": 1.0},
    },
}
GOLDEN = "golden/losses/triplet_world2.npz"
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def two(
    in_processes: Callable[..., Results],
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    shared: Callable[[str], Path],
) -> Results:
    """All jobs in one start of two processes."""
    jobs: dict[str, Any] = {"gather": {}, "collect": {}, "failure": {}}
    jobs |= {f"batch_norm:{number}": case for number, case in enumerate(BATCH_NORMS)}
    place = {"root": str(root), "output": str(tmp_path_factory.mktemp("output"))}
    jobs |= {f"train:{name}": {**place, "changes": changes} for name, changes in TRAININGS.items()}
    jobs["score"] = {**place, "changes": {}}
    with contextlib.suppress(pytest.skip.Exception):
        jobs["golden_triplet"] = {"path": str(shared(GOLDEN))}
    return in_processes(jobs)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).double().norm() / expected.double().norm().clamp_min(1e-12))


def test_unequal_rows_are_gathered_in_rank_order_and_own_rows_keep_their_gradient(two: Results) -> None:
    whole = torch.cat([one["gather"]["own"] for one in two])
    for one in two:
        torch.testing.assert_close(one["gather"]["rows"], whole, rtol=0, atol=0)
        torch.testing.assert_close(one["gather"]["grad"], 2 * one["gather"]["own"])
        assert one["gather"]["flags"].dtype == torch.bool
        assert one["gather"]["flags"].shape == (1, 3)


def test_rows_are_collected_by_index_and_a_missing_one_is_an_error(two: Results) -> None:
    torch.testing.assert_close(two[0]["collect"]["table"], torch.arange(7.0).double()[:, None] * 10)
    assert "1 are missing [1] and 1 repeated [0]" in two[0]["collect"]["error"]


def test_an_error_on_the_main_process_reaches_all_with_its_cause(two: Results) -> None:
    assert two[0]["failure"]["error"] == "KeyError: 'the cause'"
    assert "the cause" in two[1]["failure"]["error"]


@pytest.mark.parametrize("number", range(len(BATCH_NORMS)))
def test_synchronised_batch_norm_is_batch_norm_of_the_whole_batch(two: Results, number: int) -> None:
    expected = engine_worker.batch_norm(**BATCH_NORMS[number])
    found = [one[f"batch_norm:{number}"] for one in two]
    for key in ("y0", "dx0", "y1", "dx1"):
        torch.testing.assert_close(torch.cat([one[key] for one in found]), expected[key], rtol=1e-4, atol=1e-4)
    for position, gradient in enumerate(expected["affine"]):
        total = sum(one["affine"][position] for one in found)
        torch.testing.assert_close(total, gradient, rtol=1e-5, atol=1e-4)
    for one in found:
        assert one["state"].keys() == expected["state"].keys()
        for key, value in expected["state"].items():
            torch.testing.assert_close(one["state"][key], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one["eval"], expected["eval"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one(two: Results, root: Path, tmp_path: Path, name: str) -> None:
    expected = engine_worker.train(str(root), str(tmp_path), TRAININGS[name])
    for one in two:
        found = one[f"train:{name}"]
        assert sum(found["shares"]) == sum(expected["shares"])
        # A bias whose effect a later batch norm takes away has a gradient of rounding alone.
        floor = 1e-9 * max(float(value.norm()) for value in expected["gradients"].values())
        for key, value in expected["gradients"].items():
            difference = float((found["gradients"][key] - value).norm())
            assert difference < 1e-5 * max(float(value.norm()), floor), key
        for key, value in expected["weights"].items():
            assert relative(found["weights"][key], value) < 1e-5, key
        for step, means in enumerate(expected["info"]):
            for key, value in means.items():
                assert found["info"][step][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    for key, value in two[0][f"train:{name}"]["weights"].items():
        assert torch.equal(value, two[1][f"train:{name}"]["weights"][key]), key


def test_figures_do_not_depend_on_the_number_of_processes(two: Results, root: Path, tmp_path: Path) -> None:
    expected = engine_worker.score(str(root), str(tmp_path), {})
    found = two[0]["score"]
    assert torch.equal(found["features"], expected["features"])
    assert {key: found[key] for key in expected if key != "features"} == {
        key: value for key, value in expected.items() if key != "features"
    }


def test_gathered_triplet_loss_equals_the_golden_one(two: Results, shared: Callable[[str], Path]) -> None:
    expected = np.load(shared(GOLDEN))
    for rank, one in enumerate(two):
        job = one["golden_triplet"]
        for key in ("loss", "grad"):
            value = expected[f"rank{rank}/{key}"]
            assert np.abs(job[key].numpy() - value).max() < 1e-4 * np.abs(value).max()
        for key, value in job["info"].items():
            golden = expected[f"rank{rank}/info/{key}"]
            tolerance = 1 if key == "loss_num" else 1e-4 * np.abs(golden).max()
            assert np.abs(value.numpy() - golden).max() <= tolerance
