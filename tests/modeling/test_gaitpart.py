"""GaitPart: the reference's numbers, and temporal aggregation of all parts at once against loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import check_probe, ellipses, fill_probe
from laws import check_batched_and_packed, check_packed_training
from torch import Tensor

from opengait import Inputs, build_model
from opengait.modeling.models.gaitpart import TemporalFeatureAggregator


def cfg(layers: list[str], channels: int, parts: int = 16) -> dict[str, Any]:
    return {
        "model": "GaitPart",
        "backbone_cfg": {"type": "Plain", "in_channels": 1, "layers_cfg": layers},
        "SeparateFCs": {"in_channels": channels, "out_channels": channels, "parts_num": parts},
        "bin_num": [parts],
    }


SMALL = cfg(["BC-32", "BC-32", "M", "FC-64-2", "FC-64-2", "M", "FC-128-3", "FC-128-3"], 128)
LARGE = cfg(
    ["BC-32", "BC-32", "M", "BC-64", "BC-64", "M", "FC-128-3", "FC-128-3", "FC-256-3", "FC-256-3"],
    256,
)
TINY = cfg(["BC-4", "M", "FC-8-1", "M"], 8, 4)


@pytest.mark.parametrize(
    ("model_cfg", "keys", "parameters", "expected"),
    [
        (
            SMALL,
            71,
            1_204_000,
            (-0.00333215, 0.361786, [0.459437, -0.279339, 0.451218, 0.00707372]),
        ),
        (
            LARGE,
            73,
            4_841_248,
            (-0.00197124, 0.178885, [-0.166917, 0.132887, -0.167976, -0.0859416]),
        ),
    ],
    ids=["small", "large"],
)
def test_probe(model_cfg: dict[str, Any], keys: int, parameters: int, expected: tuple[Any, ...]) -> None:
    model = build_model(model_cfg)
    assert len(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == parameters
    fill_probe(model)
    with torch.no_grad():
        check_probe(model(Inputs([ellipses(2, 6)]))["inference_feat"]["embeddings"], *expected)


def test_keys_and_shapes() -> None:
    shapes = {key: tuple(value.shape) for key, value in build_model(SMALL).state_dict().items()}
    assert list(shapes)[:7] == [
        *(f"Backbone.forward_block.feature.{i}.conv.weight" for i in (0, 2, 5, 7, 10, 12)),
        "Head.fc_bin",
    ]
    assert shapes["TFA.pooling_func.conv1d3x1.0.0.conv.weight"] == (32, 128, 3)
    assert shapes["TFA.pooling_func.conv1d3x1.15.2.conv.weight"] == (128, 32, 1)
    assert shapes["TFA.pooling_func.conv1d3x3.3.0.conv.weight"] == (32, 128, 3)
    assert shapes["TFA.pooling_func.conv1d3x3.15.2.conv.weight"] == (128, 32, 3)
    assert list(shapes)[-1] == "TFA.pooling_func.conv1d3x3.15.2.conv.weight"


def slow_aggregation(tfa: TemporalFeatureAggregator, x: Tensor) -> Tensor:
    """One part and one sequence after the other."""
    rows = []
    for sequence in x:
        parts = []
        for q in range(x.shape[3]):
            strip = sequence[None, :, :, q]
            gate3, gate5 = tfa.conv1d3x1[q](strip).sigmoid(), tfa.conv1d3x3[q](strip).sigmoid()
            window3 = F.avg_pool1d(strip, 3, 1, 1) + F.max_pool1d(strip, 3, 1, 1)
            window5 = F.avg_pool1d(strip, 5, 1, 2) + F.max_pool1d(strip, 5, 1, 2)
            parts.append((window3 * gate3 + window5 * gate5).max(-1).values)
        rows.append(torch.stack(parts, -1))
    return torch.cat(rows)


def test_all_parts_at_once_equal_the_loop() -> None:
    tfa = TemporalFeatureAggregator(8, 3).double()
    lengths = [1, 4, 2, 7, 3]
    runs = [torch.randn(1, 8, length, 3, dtype=torch.float64) - 0.5 for length in lengths]
    weights = torch.randn(len(lengths), 8, 3, dtype=torch.float64)
    expected = torch.cat([slow_aggregation(tfa, run) for run in runs])
    packed = tfa(torch.cat(runs, 2), torch.tensor([lengths]))
    torch.testing.assert_close(packed, expected)
    for a, b in zip(
        torch.autograd.grad((packed * weights).sum(), list(tfa.parameters())),
        torch.autograd.grad((expected * weights).sum(), list(tfa.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    fixed = torch.randn(3, 8, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(tfa(fixed), slow_aggregation(tfa, fixed))


def test_batched_and_packed_equal_one_at_a_time() -> None:
    check_batched_and_packed(TINY)


def test_a_packed_batch_trains_like_a_fixed_one() -> None:
    check_packed_training(TINY)


def test_order_of_frames_matters() -> None:
    model = build_model(TINY)
    frames = ellipses(1, 6)
    with torch.no_grad():
        forwards, shuffled = (
            model(Inputs([x]))["inference_feat"]["embeddings"] for x in (frames, frames[:, [3, 0, 5, 1, 4, 2]])
        )
    assert not torch.allclose(forwards, shuffled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bin_num": [8]}, r"SeparateFCs.parts_num is 4, but bin_num \[8\] gives 8 parts"),
        ({"SeparateFCs": {**TINY["SeparateFCs"], "in_channels": 6}}, "in_channels is 6, not divisible by 4"),
        ({"bin_nums": [4]}, "did you mean 'bin_num'"),
    ],
)
def test_configuration_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model({**TINY, **change})
