"""Batch norms folded into convolutions: the same results, and a network that is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import test_gaitedge
import test_gaitssb
import torch
from laws import random_statistics, sils
from test_deepgaitv2 import small
from test_models import GAITSET, RESNET
from torch import Tensor, nn

from opengait import Inputs, build_model
from opengait.modeling.backbones.resnet import ResNet9
from opengait.modeling.folding import folded
from opengait.modeling.modules import BasicBlock2D, SetBlockWrapper

BOTTLENECK = {
    **RESNET,
    "backbone_cfg": {**RESNET["backbone_cfg"], "block": "Bottleneck", "channels": [2, 2, 3, 3]},
    "SeparateFCs": {"in_channels": 12, "out_channels": 5, "parts_num": 7},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "gaitset": GAITSET,
    "resnet": RESNET,
    "bottleneck": BOTTLENECK,
    "deepgaitv2 2d": small("2d"),
    "deepgaitv2 p3d": small("p3d"),
    "deepgaitv2 3d": small("3d"),
    "gaitssb pretraining": test_gaitssb.PRETRAIN,
    "gaitssb fine-tuning": test_gaitssb.FINETUNE,
    "segmentation": test_gaitedge.SEGMENTATION,
    "gaitedge": test_gaitedge.cfg(True, True),
}


def frames_for(model_cfg: dict[str, Any], s: int) -> list[Tensor]:
    """One sequence of every modality."""
    if model_cfg["model"] in ("GaitEdge", "Segmentation"):
        ratio, rgb, mask = test_gaitedge.streams(1, s, 0)
        return [ratio, rgb, mask] if model_cfg["model"] == "GaitEdge" else [rgb, mask]
    return sils(1, s)


def outputs(model: nn.Module, ipts: list[Tensor], seqL: Tensor | None) -> dict[str, Tensor]:
    return {**model(Inputs(ipts, seqL=seqL))["inference_feat"]}


@pytest.mark.parametrize("model_cfg", NETWORKS.values(), ids=NETWORKS)
def test_folded_networks_give_the_same(model_cfg: dict[str, Any]) -> None:
    model = random_statistics(build_model(model_cfg))
    norms = sum(isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d) for layer in model.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = list(model.parameters())
    ipts, seqL = frames_for(model_cfg, 5), torch.tensor([[2, 3]])
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        model = model.to(dtype)
        given = [one.to(dtype) for one in ipts]
        with torch.inference_mode():
            expected = outputs(model, given, seqL)
            with folded(model):
                assert sum("forward" in vars(layer) for layer in model.modules()) == 2 * norms
                found = outputs(model, given, seqL)
                assert list(model.state_dict()) == list(before)
            again = outputs(model, given, seqL)
        for name, value in expected.items():
            largest = float(value.abs().max())
            torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * largest)
            torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    assert not any("forward" in vars(layer) for layer in model.modules())
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    for key, value in model.float().state_dict().items():
        assert torch.equal(value, before[key]), key


def folds(model: nn.Module) -> int:
    """Batch norms that would be folded."""
    with torch.no_grad(), folded(model):
        return sum("forward" in vars(layer) for layer in model.modules()) // 2


def test_nothing_is_folded_where_it_would_show() -> None:
    block = BasicBlock2D(2, 2).eval()
    with folded(block):  # gradients are recorded
        assert not any("forward" in vars(layer) for layer in block.modules())
    assert folds(block) == 2
    assert folds(block.train()) == 0
    block.eval().bn1.train()
    assert folds(block) == 1
    block.eval().bn1.register_forward_hook(lambda *given: None)
    assert folds(block) == 1
    block.conv2.register_forward_pre_hook(lambda *given: None)
    assert folds(block) == 0

    weighed = BasicBlock2D(2, 2).eval()
    nn.utils.parametrizations.weight_norm(weighed.conv1)
    assert folds(weighed) == 1


def test_shared_layers_stay_as_they_are() -> None:
    block = BasicBlock2D(2, 2).eval()
    block.conv2 = block.conv1
    assert folds(block) == 0


def test_an_error_inside_leaves_nothing_behind() -> None:
    block = BasicBlock2D(2, 2).eval()
    with pytest.raises(RuntimeError, match="on the way"), torch.no_grad(), folded(block):
        raise RuntimeError("on the way")
    assert not any("forward" in vars(layer) for layer in block.modules())


def test_only_classes_that_vouch_for_their_forward_pass_are_folded() -> None:
    class LooksInside(BasicBlock2D):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv1(x)

    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))

    assert folds(LooksInside(2, 2).eval()) == 0
    assert folds(Takes().eval()) == 0
    assert folds(SetBlockWrapper(Takes().layers).eval()) == 1
    assert folds(ResNet9().eval()) == 16
