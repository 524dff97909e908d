"""What is computed in which type, and which steps count."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from opengait.engine.optimizer import build_optimizer, build_scheduler, learning_rate, load_optimizer
from opengait.engine.precision import Precision, precision_name

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("cfg", "device", "expected"),
    [
        ({"enable_float16": True}, CUDA, "fp16"),
        ({"enable_float16": True}, CPU, "fp32"),
        ({"enable_float16": False}, CUDA, "fp32"),
        ({}, CUDA, "fp32"),
        ({"enable_float16": True, "precision": "bf16"}, CPU, "bf16"),
        ({"enable_float16": True, "precision": "fp32"}, CUDA, "fp32"),
        ({"enable_float16": False, "precision": "fp16"}, CUDA, "fp16"),
        ({"enable_float16": True, "precision": None}, CUDA, "fp16"),
    ],
)
def test_which_precision(cfg: dict[str, Any], device: torch.device, expected: str) -> None:
    assert precision_name(cfg, device) == expected


def test_fp16_on_a_cpu_is_said_once_and_a_wrong_name_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="opengait"):
        precision_name({"enable_float16": True}, CPU)
    assert [record.getMessage() for record in caplog.records if "no effect on a CPU" in record.getMessage()]
    with pytest.raises(ValueError, match="expected one of fp32, bf16, fp16"):
        precision_name({"precision": "tf32"}, CPU)


def test_a_cpu_that_emulates_bf16_is_warned_about(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fast in (True, False):
        monkeypatch.setattr("opengait.engine.precision.has_fast_bf16", lambda device, fast=fast: fast)
        caplog.clear()
        precision_name({"precision": "bf16"}, CPU)
        assert bool(caplog.records) is not fast


def test_autocast_reaches_the_forward_pass() -> None:
    x, layer = torch.randn(2, 3), nn.Linear(3, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with Precision(name, CPU).autocast():
            assert layer(x).dtype == dtype


def scaled_run(gradients: list[float], **options: Any) -> tuple[list[bool], list[float]]:
    """One weight, loss = weight * gradient: which steps counted, and the scale after each."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision = Precision("fp16", CPU, training=True, scaler_options=options)
    counted, scales = [], []
    for gradient in gradients:
        optimizer.zero_grad()
        precision.backward((weight * gradient).sum())
        counted.append(precision.step(optimizer))
        scales.append(precision.state_dict()["scale"])
    return counted, scales


def test_growth_of_the_scale_is_a_good_step_and_overflow_a_skipped_one() -> None:
    counted, scales = scaled_run([1.0] * 4, init_scale=8.0, growth_interval=2)
    assert counted == [True] * 4
    assert scales == [8.0, 16.0, 16.0, 32.0]
    counted, scales = scaled_run([1.0, float("inf"), 1.0], init_scale=8.0, growth_interval=100)
    assert counted == [True, False, True]
    assert scales == [8.0, 4.0, 4.0]


def test_an_infinite_gradient_is_bad_without_a_scaler_and_an_overflow_with_one() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.full((1,), float("inf"))
    assert bool(Precision("fp32", CPU, training=True).non_finite(torch.ones(()), optimizer))
    assert not bool(Precision("fp16", CPU, training=True).non_finite(torch.ones(()), optimizer))
    assert bool(Precision("fp16", CPU, training=True).non_finite(torch.tensor(float("nan")), optimizer))


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_clipping_bounds_the_norm_of_unscaled_gradients(name: str) -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision = Precision(name, CPU, training=True, clip_grad_norm=0.5)
    precision.backward((weight * 3).sum())
    assert precision.step(optimizer)
    assert float(weight.detach().norm()) == pytest.approx(0.5, rel=1e-3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def parameter_groups(self, optimizer_cfg: dict[str, Any]) -> list[dict[str, Any]]:
        slow = {"params": self.a.parameters(), "lr": optimizer_cfg["lr"] * optimizer_cfg["slow"]}
        return [slow, {"params": self.b.parameters()}]


def test_the_model_decides_its_groups_and_other_keys_do_not_reach_the_class() -> None:
    cfg = {"solver": "SGD", "lr": 0.1, "momentum": 0.9, "slow": 0.5}
    optimizer = build_optimizer(cfg, Net())
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    assert optimizer.param_groups[1]["momentum"] == 0.9
    assert learning_rate(optimizer) == 0.05


def test_wrong_names_and_arguments_of_optimisers_and_schedules() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="did you mean 'AdamW'"):
        build_optimizer({"solver": "AdmW", "lr": 0.1}, net)
    with pytest.raises(ValueError, match=r"SGD refuses its arguments: Invalid learning rate: -1"):
        build_optimizer({"solver": "SGD", "lr": -1}, net)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        build_optimizer({"solver": "SGD", "lr": 0.1}, nn.ReLU())
    optimizer = build_optimizer({"solver": "SGD", "lr": 0.1}, net)
    with pytest.raises(ValueError, match="did you mean 'MultiStepLR'"):
        build_scheduler({"scheduler": "MultistepLr"}, optimizer)
    with pytest.raises(ValueError, match="ReduceLROnPlateau': it needs a figure"):
        build_scheduler({"scheduler": "ReduceLROnPlateau"}, optimizer)
    with pytest.raises(ValueError, match="StepLR needs step_size"):
        build_scheduler({"scheduler": "StepLR", "gamma": 0.1}, optimizer)


def test_a_restored_optimiser_keeps_this_runs_way_of_stepping() -> None:
    net = nn.Linear(2, 2)
    fused = build_optimizer({"solver": "Adam", "lr": 0.1}, net)
    plain = build_optimizer({"solver": "Adam", "lr": 0.2, "fused": False}, net)
    load_optimizer(plain, fused.state_dict())
    assert plain.param_groups[0]["lr"] == 0.1
    assert not plain.param_groups[0]["fused"]
    assert fused.param_groups[0]["fused"]
    net(torch.ones(1, 2)).sum().backward()
    plain.step()
    stored = plain.state_dict()
    stored["state"] = {key: {**one, "step": one["step"].double()} for key, one in stored["state"].items()}
    load_optimizer(fused, stored)
    # A plain step's counter would be left as it came; a fused one's is brought to type and device of the kernel.
    assert {one["step"].dtype for one in fused.state.values()} == {torch.float32}
