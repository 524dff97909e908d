"""SMPLGait: the reference's numbers, and frames that meet their own body model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Case, check_probe, cut_silhouettes, ellipses, fill_probe, uniform
from laws import check_batched_and_packed, check_packed_training, embed, sils
from torch import Tensor

from opengait import build_model

Shared = Callable[[str], Path]


def cfg(layers: list[str], channels: int, classes: int) -> dict[str, Any]:
    return {
        "model": "SMPLGait",
        "backbone_cfg": {"type": "Plain", "in_channels": 1, "layers_cfg": layers},
        "SeparateFCs": {"in_channels": channels, "out_channels": channels, "parts_num": 31},
        "SeparateBNNecks": {"class_num": classes, "in_channels": channels, "parts_num": 31},
        "bin_num": [16, 8, 4, 2, 1],
    }


FULL = cfg(["BC-64", "BC-64", "M", "BC-128", "BC-128", "M", "BC-256", "BC-256"], 256, 3000)
SMALL = cfg(["BC-4", "M", "BC-6", "M"], 6, 5)


def streams(n: int, s: int, seed: int) -> list[Tensor]:
    return [*sils(n, s, seed), torch.randn(n, s, 85, generator=torch.Generator().manual_seed(seed))]


def golden(shared: Shared) -> Case:
    def transform(frames: np.ndarray) -> Tensor:
        return cut_silhouettes(frames) if frames.ndim == 4 else torch.from_numpy(frames)

    return replace(Case.read(shared, "smplgait"), transform=transform)


@pytest.mark.parametrize("kind", ["eval", "packed"])
def test_golden_embeddings(shared: Shared, kind: str) -> None:
    golden(shared).check_inference(kind)


def test_golden_training_step(shared: Shared) -> None:
    golden(shared).check_training()


def test_probe() -> None:
    model = build_model(FULL)
    assert sum(p.numel() for p in model.parameters()) == 27_110_976
    assert len(model.state_dict()) == 34
    fill_probe(model)
    smpls = torch.from_numpy(uniform((2, 6, 85)) - 0.5).float()
    found = embed(model, [ellipses(2, 6), smpls])
    check_probe(found, -0.00948736, 0.659685, [-0.0767069, -0.0220442, -0.0399385, 1.01687])


def test_batched_and_packed_equal_one_at_a_time() -> None:
    check_batched_and_packed(SMALL, streams)


def test_a_packed_batch_trains_like_a_fixed_one() -> None:
    check_packed_training(SMALL, streams)


def test_frames_keep_their_own_body() -> None:
    model = build_model(SMALL)
    silhouettes, smpls = streams(1, 4, 0)
    order = torch.tensor([2, 0, 3, 1])
    both = embed(model, [silhouettes[:, order], smpls[:, order]])
    torch.testing.assert_close(both, embed(model, [silhouettes, smpls]), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(both, embed(model, [silhouettes, smpls[:, order]]), atol=1e-4)


def test_inputs_that_do_not_fit() -> None:
    model = build_model(SMALL)
    with pytest.raises(ValueError, match="silhouettes and SMPL vectors, found 1 modalities"):
        embed(model, sils(1, 2))
    with pytest.raises(ValueError, match="expected maps of 16 x"):
        embed(model, [*sils(1, 2, 0, 32, 44), torch.zeros(1, 2, 85)])
    model.check_frame_size(64, 44)
    with pytest.raises(ValueError, match="SMPLGait multiplies maps of 16x16"):
        model.check_frame_size(128, 88)
