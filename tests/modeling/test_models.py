"""Laws of every network, and of how it is built."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from opengait import BaseModel, Inputs, build_model
from opengait.modeling.backbones.plain import Plain
from opengait.modeling.backbones.resnet import ResNet9
from opengait.modeling.modules import SetBlockWrapper

GAITSET: dict[str, Any] = {
    "model": "GaitSet",
    "in_channels": [1, 4, 6, 8],
    "SeparateFCs": {"in_channels": 8, "out_channels": 5, "parts_num": 14},
    "bin_num": [4, 2, 1],
}
PLAIN: dict[str, Any] = {
    "model": "Baseline",
    "backbone_cfg": {"type": "Plain", "layers_cfg": ["BC-4", "M", "FC-6-1", "M"]},
    "SeparateFCs": {"in_channels": 6, "out_channels": 5, "parts_num": 7},
    "SeparateBNNecks": {"in_channels": 5, "class_num": 3, "parts_num": 7},
    "bin_num": [4, 2, 1],
}
RESNET: dict[str, Any] = {
    **PLAIN,
    "backbone_cfg": {"type": "ResNet9", "channels": [4, 4, 6, 6], "layers": [1, 1, 1, 1], "maxpool": False},
}
NETWORKS = pytest.mark.parametrize("model_cfg", [GAITSET, PLAIN, RESNET], ids=["gaitset", "plain", "resnet"])


def sils(n: int, s: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(n, s, 16, 12, generator=torch.Generator().manual_seed(seed)) > 0.5).float()


def embed(model: nn.Module, *inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(Inputs(*inputs))["inference_feat"]["embeddings"]


@NETWORKS
def test_batched_and_packed_equal_one_at_a_time(model_cfg: dict[str, Any]) -> None:
    model = build_model(model_cfg)
    together = sils(3, 5)
    alone = torch.cat([embed(model, [one[None]]) for one in together])
    torch.testing.assert_close(embed(model, [together]), alone, rtol=1e-5, atol=1e-6)

    lengths = [1, 5, 2, 7]
    runs = [sils(1, length, seed) for seed, length in enumerate(lengths)]
    packed = embed(model, [torch.cat(runs, 1)], None, None, None, torch.tensor([lengths]))
    torch.testing.assert_close(packed, torch.cat([embed(model, [run]) for run in runs]), rtol=1e-5, atol=1e-6)


@NETWORKS
def test_a_packed_batch_trains_like_a_fixed_one(model_cfg: dict[str, Any]) -> None:
    torch.manual_seed(0)
    fixed = build_model(model_cfg, training=True).double()
    packed = build_model(model_cfg, training=True).double()
    packed.load_state_dict(fixed.state_dict())
    frames = sils(4, 3).double()
    one = fixed(Inputs([frames]))["inference_feat"]["embeddings"]
    other = packed(Inputs([frames.flatten(0, 1)[None]], seqL=torch.tensor([[3] * 4])))["inference_feat"]["embeddings"]
    torch.testing.assert_close(one, other)
    one.square().sum().backward()
    other.square().sum().backward()
    for (name, a), b in zip(fixed.named_parameters(), packed.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")


@NETWORKS
def test_contract_of_forward(model_cfg: dict[str, Any]) -> None:
    model = build_model(model_cfg)
    frames = sils(2, 3)
    result = model(([frames], None, None, None, None))
    assert list(result) == ["training_feat", "visual_summary", "inference_feat"]
    image = result["visual_summary"]["image/sils"]
    assert image.shape == (6, 1, 16, 12)
    assert image.data_ptr() == frames.data_ptr()
    assert result["inference_feat"]["embeddings"].shape == (
        2,
        5,
        sum(model_cfg["bin_num"]) * (1 + (model_cfg is GAITSET)),
    )


@NETWORKS
def test_checkpoints_hold_contiguous_float32(model_cfg: dict[str, Any]) -> None:
    model = build_model(model_cfg, training=True)
    model(Inputs([sils(2, 3)]))["inference_feat"]["embeddings"].sum().backward()
    assert all(value.is_contiguous() for value in model.state_dict().values())
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("model_cfg", [GAITSET, PLAIN, RESNET], ids=["gaitset", "plain", "resnet"])
def test_bf16_autocast_keeps_float32_embeddings(model_cfg: dict[str, Any]) -> None:
    model = build_model(model_cfg)
    full = embed(model, [sils(2, 3)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = embed(model, [sils(2, 3)])
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, full, rtol=0, atol=0.05 * float(full.abs().max()))


def test_order_of_frames_does_not_matter_to_gaitset() -> None:
    model, frames = build_model(GAITSET), sils(2, 6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(embed(model, [frames]), embed(model, [frames[:, order]]), rtol=1e-5, atol=1e-6)


def test_statistics_of_many_pixels_do_not_drift() -> None:
    single = ResNet9(channels=[4, 4, 4, 4], layers=[0, 0, 0, 0], maxpool=False)
    frames = sils(4, 40)[:, None].transpose(0, 1).reshape(1, 1, 160, 16, 12).repeat(1, 1, 4, 1, 1)
    y = SetBlockWrapper(single)(frames)
    expected = SetBlockWrapper(single.double())(frames.double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-5)


def test_build_model_is_the_constructor() -> None:
    model = build_model(RESNET, training=True)
    assert model.training
    assert not build_model(RESNET).training
    torch.manual_seed(0)
    one = build_model(RESNET).state_dict()
    torch.manual_seed(0)
    other = type(model)({"model_cfg": RESNET, "data_cfg": {}}, False).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = build_model(RESNET)
    conv = model.get_parameter("Backbone.forward_block.layer2.0.conv1.weight")
    bound = (6 / ((4 + 4) * 9)) ** 0.5
    assert 0.9 * bound < conv.abs().max() <= bound
    norm = model.get_parameter("BNNecks.bn1d.weight")
    assert norm.std() < 0.04
    assert abs(norm.mean() - 1) < 0.02
    gaitset = build_model(GAITSET)
    assert not torch.equal(
        gaitset.get_parameter("gl_block2.0.conv.weight"),
        gaitset.get_parameter("set_block2.forward_block.0.conv.weight"),
    )


def test_parameter_groups_leave_frozen_ones_out() -> None:
    model = build_model(GAITSET)
    model.Head.fc_bin.requires_grad_(False)
    (group,) = model.parameter_groups({})
    assert len(group["params"]) == 10


def changed(model_cfg: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {**model_cfg, **keys}


@pytest.mark.parametrize(
    ("model_cfg", "message"),
    [
        ({}, "needs 'model', one of Baseline, DeepGaitV2"),
        ({"model": "GaitSett"}, "did you mean 'GaitSet'"),
        ({"model": None}, "unknown model 'None'; known: Baseline"),
        ({"model": ["GaitSet"]}, "unknown model .*GaitSet.*; known: Baseline"),
        ({"model": "GaitSet"}, "in_channels: missing\n  SeparateFCs: missing"),
        (changed(GAITSET, bin_nums=[1]), r"bin_nums: unknown key \(did you mean 'bin_num'\?\)"),
        (
            changed(GAITSET, SeparateFCs={**GAITSET["SeparateFCs"], "part_num": 1}),
            "SeparateFCs.part_num: .* 'parts_num'",
        ),
        (changed(GAITSET, in_channels=[1, 4, 6]), "in_channels: List should have at least 4 items"),
        (changed(GAITSET, in_channels=[1, 4, 6, 9]), "SeparateFCs.in_channels is 8, but the last block has 9"),
        (changed(GAITSET, bin_num=[4, 2]), r"SeparateFCs.parts_num is 14, but bin_num \[4, 2\].* gives 12"),
        (changed(PLAIN, bin_num=[4, 2]), r"SeparateFCs.parts_num is 7, but bin_num \[4, 2\] gives 6"),
        (changed(PLAIN, backbone_cfg={"type": "Plane"}), "unknown backbone 'Plane' .did you mean 'Plain'"),
        (changed(PLAIN, backbone_cfg={"layers_cfg": []}), "backbone_cfg needs 'type', one of Plain, ResNet9"),
        (changed(PLAIN, backbone_cfg={"type": "Plain", "layers_cfg": ["BC-4", "FC-8"]}), "'FC-8' is no layer"),
        (changed(PLAIN, backbone_cfg={"type": "ResNet9", "block": "Basic"}), "one of BasicBlock, Bottleneck"),
        (changed(PLAIN, backbone_cfg={"type": "ResNet9", "layers": [1]}), "four stages need four numbers"),
    ],
)
def test_configuration_mistakes(model_cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(model_cfg)


def test_frame_sizes() -> None:
    gaitset = build_model(GAITSET)
    gaitset.check_frame_size(64, 44)
    with pytest.raises(ValueError, match="64x22 is not divisible by 4"):
        gaitset.check_frame_size(64, 22)
    with pytest.raises(ValueError, match=r"maps of 3x3, which model_cfg.bin_num \[4, 2, 1\].*\[4, 2\]"):
        gaitset.check_frame_size(12, 12)
    model = build_model(RESNET, training=True)
    before = model.state_dict()["Backbone.forward_block.bn1.running_mean"].clone()
    model.check_frame_size(64, 44)
    with pytest.raises(ValueError, match="maps of 3x3"):
        model.check_frame_size(12, 12)
    assert torch.equal(before, model.state_dict()["Backbone.forward_block.bn1.running_mean"])
    assert model.Backbone.training


def test_a_research_model_needs_only_two_methods() -> None:
    class OneConvolution(BaseModel):
        def build_network(self, model_cfg: Any) -> None:
            self.Backbone = self.get_backbone(model_cfg["backbone_cfg"])

        def forward(self, inputs: Inputs) -> dict[str, Any]:
            ipts, _, _, _, _ = inputs
            return {"inference_feat": {"embeddings": self.Backbone[0](ipts[0]).amax((2, 3))[..., None]}}

    backbones = [{"type": "Plain", "layers_cfg": ["BC-4"], "in_channels": 3}] * 2
    model = OneConvolution({"model_cfg": {"backbone_cfg": backbones, "anything": 1}}, training=False)
    assert len(model.Backbone) == 2
    assert embed(model, [sils(2, 3)]).shape == (2, 4, 1)


def test_backbones_stand_alone() -> None:
    assert list(Plain(["BC-4", "BC-4", "M", "FC-8-2"]).state_dict()) == [f"feature.{i}.conv.weight" for i in (0, 2, 5)]
    deep = ResNet9("Bottleneck", [2, 2, 4, 4], layers=[1, 0, 2, 1], strides=[1, 2, 2, 1])
    assert deep(torch.zeros(1, 1, 16, 12)).shape == (1, 16, 4, 3)
    assert not any(key.startswith("layer2") for key in deep.state_dict())


def test_import_opengait_needs_no_torch() -> None:
    code = (
        "import sys, opengait; assert 'torch' not in sys.modules; opengait.build_model; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
