"""The networks give the reference implementation's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Case, check_probe, ellipses, fill_probe

from opengait import Inputs, build_model

Shared = Callable[[str], Path]

CASES = ["gaitset", "baseline_plain", "gaitbase_casiab"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["eval", "packed"])
def test_embeddings(shared: Shared, name: str, kind: str) -> None:
    Case.read(shared, name).check_inference(kind)


@pytest.mark.parametrize("name", CASES)
def test_training_step(shared: Shared, name: str) -> None:
    Case.read(shared, name).check_training()


def gaitset_cfg(channels: list[int]) -> dict[str, Any]:
    head = {"in_channels": channels[-1], "out_channels": 256, "parts_num": 62}
    return {"model": "GaitSet", "in_channels": channels, "SeparateFCs": head, "bin_num": [16, 8, 4, 2, 1]}


@pytest.mark.parametrize(
    ("channels", "parameters", "mean", "std", "elements"),
    [
        ([1, 32, 64, 128], 2_594_592, 0.00222229, 0.476531, [0.193383, 0.313857, 0.19297, -0.402767]),
        ([1, 64, 128, 256], 6_313_536, -0.00453249, 0.541762, [0.0671194, 0.00410271, 0.075989, 0.270675]),
    ],
)
def test_gaitset_probe(channels: list[int], parameters: int, mean: float, std: float, elements: list[float]) -> None:
    model = build_model(gaitset_cfg(channels))
    assert sum(p.numel() for p in model.parameters()) == parameters
    fill_probe(model)
    with torch.no_grad():
        check_probe(model(Inputs([ellipses(2, 6)]))["inference_feat"]["embeddings"], mean, std, elements)
