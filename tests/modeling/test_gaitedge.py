"""GaitEdge and its segmentation: the reference's numbers, the synthesis and the crop against slow twins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from golden import Case, check_info, check_probe, close_to_peak, ellipses, fill_probe, uniform
from laws import check_batched_and_packed, check_packed_training, features
from torch import Tensor

from opengait import Inputs, build_model
from opengait.modeling.losses.binary_cross_entropy import BinaryCrossEntropyLoss
from opengait.modeling.modules import GaitAlign

Shared = Callable[[str], Path]


def cfg(edge: bool, align: bool, channels: tuple[int, ...] = (3, 4, 5)) -> dict[str, Any]:
    return {
        "model": "GaitEdge",
        "GaitGL": {"channels": list(channels), "class_num": 74 if channels[0] == 32 else 6},
        "Segmentation": {"type": "U_Net", "in_channels": 3, "freeze_half": True},
        "edge": edge,
        "align": align,
        "seg_lr": 1.0e-5,
    }


SEGMENTATION: dict[str, Any] = {"model": "Segmentation", "backbone_cfg": {"type": "U_Net", "in_channels": 3}}


def prepared(frames: np.ndarray) -> Tensor:
    """RGB [n, s, 3, h, w] normalised, masks [n, s, h, w] to [0, 1], ratios [n, s] as they are."""
    if frames.ndim == 2:
        return torch.from_numpy(frames)
    if frames.ndim == 4:
        return torch.from_numpy(frames / np.float32(255))
    mean, std = (255 * np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return torch.from_numpy(((frames - mean) / std).astype(np.float32))


def golden(shared: Shared, name: str) -> Case:
    return replace(Case.read(shared, name), transform=prepared)


@pytest.mark.parametrize(
    ("name", "kind"), [("gaitedge_e2e", "eval"), ("gaitedge_e2e", "packed"), ("gaitedge_segmentation", "eval")]
)
def test_golden_inference(shared: Shared, name: str, kind: str) -> None:
    golden(shared, name).check_inference(kind)


@pytest.mark.parametrize("name", ["gaitedge_e2e", "gaitedge_segmentation"])
def test_golden_training_step(shared: Shared, name: str) -> None:
    golden(shared, name).check_training()


@pytest.mark.parametrize(
    ("edge", "align", "embeddings", "roi"),
    [
        (True, True, (0.00915619, 0.23167, [0.0773037, 0.307529, -0.0441249, -0.132353]), (0.242724, 0.413894)),
        (False, True, (0.00989112, 0.1394, [0.150053, 0.240725, -0.0610851, -0.108758]), (0.32525, 0.185481)),
        (True, False, (0.00877357, 0.228453, [0.0554987, 0.310984, 0.0144305, -0.0989029]), (0.288429, 0.435491)),
    ],
    ids=["edge", "end to end", "edge without align"],
)
def test_probe(edge: bool, align: bool, embeddings: tuple[Any, ...], roi: tuple[float, float]) -> None:
    model = build_model(cfg(edge, align, (32, 64, 128)))
    assert len(model.state_dict()) == 137
    assert sum(p.numel() for p in model.parameters()) == 3_634_098
    fill_probe(model)
    rgb = torch.from_numpy(4 * uniform((1, 6, 3, 128, 128)) - 2).float()
    ratios = torch.from_numpy(0.35 + 0.1 * uniform((1, 6))).float()
    with torch.no_grad():
        result = model(Inputs([ratios, rgb, ellipses(1, 6, 128, 128)]))
    check_probe(result["inference_feat"]["embeddings"], *embeddings)
    check_probe(result["visual_summary"]["image/roi"], *roi, [0, 0, 0, 0])


def test_segmentation_probe() -> None:
    model = build_model(SEGMENTATION)
    assert len(model.state_dict()) == 121
    fill_probe(model)
    rgb = torch.from_numpy(4 * uniform((1, 6, 3, 128, 128)) - 2).float()
    with torch.no_grad():
        logits = model(Inputs([rgb, ellipses(1, 6, 128, 128)]))["visual_summary"]["image/logits"]
    check_probe(logits, 0.437282, 0.0299617, [0.457562, 0.480348, 0.478345, 0.459023])


def test_align_probe() -> None:
    masks = ellipses(1, 6, 128, 128).transpose(0, 1)
    maps = masks * torch.from_numpy(uniform((6, 1, 128, 128))).float()
    ratios = torch.from_numpy(0.35 + 0.1 * uniform((6,))).float()
    check_probe(GaitAlign()(maps, masks, ratios), 0.122456, 0.215442, [0, 0, 0, 0])


def slow_box(mask: np.ndarray, ratio: float, height: int = 64, width: int = 44) -> list[float]:
    """The box of one mask, row by row and column by column."""
    h, w = mask.shape
    on = [y for y in range(h) if mask[y].sum() >= 1]
    top, bottom = on[0], on[-1] + 1
    mass, center = 0.0, 0
    while mass + mask[:, center].sum() < mask.sum() / 2:
        mass += mask[:, center].sum()
        center += 1
    person = height * ratio
    margin = max(0.0, (width - person) / 2) / (person / w)
    half = (bottom - top) * w / h / 2 + margin
    left, right = (min(max(center + 22 + side * half, 0.0), w + 44.0) for side in (-1, 1))
    return [left, top, right, bottom]


def test_align_boxes_equal_the_loop() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 1, 32, 32), np.float32)
    for mask in masks[:, 0]:
        y, x = rng.integers(0, 16, 2)
        mask[y : y + rng.integers(4, 16), x : x + rng.integers(2, 16)] = 1
    ratios = rng.uniform(0.2, 1.0, 8).astype(np.float32)
    found = GaitAlign().boxes(torch.from_numpy(masks), torch.from_numpy(ratios))
    pairs = enumerate(zip(masks[:, 0], ratios, strict=True))
    expected = [[i, *slow_box(mask, float(ratio))] for i, (mask, ratio) in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_empty_mask_gives_finite_frames() -> None:
    maps = torch.rand(2, 1, 32, 32, requires_grad=True)
    found = GaitAlign()(maps, torch.zeros(2, 1, 32, 32), torch.tensor([0.3, 0.4]))
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_synthesis_equals_morphology(kernel_size: int) -> None:
    model = build_model({**cfg(True, True), "kernel_size": kernel_size})
    masks = (np.random.default_rng(1).random((4, 24, 24)) > 0.9).astype(np.uint8)
    masks[:, 5:20, 4:18] = 1
    probability = torch.rand(4, 1, 24, 24)
    element = np.ones((kernel_size, kernel_size), np.uint8)
    for mask, q in zip(masks, probability, strict=True):
        dilated, eroded = cv2.dilate(mask, element), cv2.erode(mask, element)
        expected = np.where(dilated != eroded, q[0], eroded * mask)
        found = model.synthesize(q[None], torch.from_numpy(mask).float()[None, None])
        np.testing.assert_array_equal(found[0, 0], expected)


def streams(n: int, s: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = ellipses(n, s + seed, 32, 32)[:, seed:]
    rgb = torch.randn(n, s, 3, 32, 32, generator=generator) + 2 * masks[:, :, None]
    return [0.3 + 0.2 * torch.rand(n, s, generator=generator), rgb, masks]


@pytest.mark.parametrize(("edge", "align"), [(True, True), (False, True), (True, False)])
def test_batched_and_packed_equal_one_at_a_time(edge: bool, align: bool) -> None:
    check_batched_and_packed(cfg(edge, align), streams)


def test_a_packed_batch_trains_like_a_fixed_one() -> None:
    check_packed_training(cfg(True, True), streams)


def test_segmentation_of_a_packed_batch_is_that_of_its_frames() -> None:
    model = build_model(SEGMENTATION)
    runs = [streams(1, length, length)[1:] for length in (2, 1, 3)]
    packed = features(model, [torch.cat(parts, 1) for parts in zip(*runs, strict=True)], torch.tensor([[2, 1, 3]]))
    single = [features(model, run) for run in runs]
    for name in ("pred", "mask"):
        torch.testing.assert_close(packed[name], torch.cat([one[name] for one in single]))


def test_the_frozen_encoder_follows_the_data_and_does_not_learn() -> None:
    model = build_model(cfg(True, True), training=True)
    before = {name: value.clone() for name, value in model.named_buffers()}
    result = model(Inputs(streams(2, 3, 0)))
    (
        result["training_feat"]["bce"]["logits"].mean() + result["inference_feat"]["embeddings"].square().mean()
    ).backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(tuple(f"Backbone.Conv{i}." for i in range(1, 5)))
        assert parameter.requires_grad != frozen
        assert (parameter.grad is None) == (frozen or name == "Head1.fc_bin")
    moved = [name for name, value in model.named_buffers() if not torch.equal(value, before[name])]
    assert "Backbone.Conv1.conv.1.running_mean" in moved
    learning = build_model({**SEGMENTATION, "backbone_cfg": {"type": "U_Net", "freeze_half": False}}, training=True)
    learning(Inputs(streams(1, 2, 0)[1:]))["training_feat"]["bce"]["logits"].mean().backward()
    assert all(parameter.grad is not None for parameter in learning.parameters())


def test_gradients_of_recognition_reach_the_decoder_through_the_band() -> None:
    model = build_model(cfg(True, True), training=True)
    model(Inputs(streams(2, 3, 0)))["inference_feat"]["embeddings"].square().mean().backward()
    assert float(model.Backbone.Conv_1x1.weight.grad.abs().sum()) > 0


def test_parameter_groups() -> None:
    model = build_model(cfg(True, True, (32, 64, 128)))
    segmentation, rest = model.parameter_groups({"lr": 1e-4})
    assert segmentation["lr"] == 1.0e-5
    assert "lr" not in rest
    sizes = [(len(group["params"]), sum(p.numel() for p in group["params"])) for group in (segmentation, rest)]
    assert sizes == [(38, 242_945), (13, 3_096_673)]
    assert "lr" not in build_model({**cfg(True, True), "seg_lr": None}).parameter_groups({})[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": 4}, "4 is even"),
        ({"GaitGL": {"channels": [3, 4, 5]}}, "class_num is missing"),
        ({"segmentation": {}}, "did you mean 'Segmentation'"),
    ],
)
def test_configuration_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model({**cfg(True, True), **change})


def test_sizes_that_do_not_fit() -> None:
    for model_cfg in (SEGMENTATION, cfg(True, True)):
        model = build_model(model_cfg)
        model.check_frame_size(128, 128)
        with pytest.raises(ValueError, match="100x128 is not divisible by 8"):
            model.check_frame_size(100, 128)
    with pytest.raises(ValueError, match="12x16 is not divisible by 8"):
        model.Backbone(torch.zeros(1, 3, 12, 16))
    with pytest.raises(ValueError, match=r"a map and a mask \[n, 1, h, w\]"):
        GaitAlign()(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), torch.ones(1))
    with pytest.raises(ValueError, match="2 maps need as many ratios, found 3"):
        GaitAlign()(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), torch.ones(3))


def test_torchvision_is_imported_by_the_crop_alone() -> None:
    code = f"""
import sys
from opengait import build_model
build_model({cfg(True, True)!r})
assert "torchvision" not in sys.modules and "kornia" not in sys.modules and "cv2" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_binary_cross_entropy_golden(shared: Shared) -> None:
    case = np.load(shared("golden/losses/bce.npz"))
    probability = torch.from_numpy(case["logits"]).requires_grad_()
    loss, info = BinaryCrossEntropyLoss()(probability, torch.from_numpy(case["labels"]))
    close_to_peak(loss, case["loss"], "loss")
    assert set(info) == {"loss", "hard_loss", "miou"}
    for name, value in info.items():
        check_info(name, value, case[f"info/{name}"])
    loss.backward()
    close_to_peak(probability.grad, case["grad"], "grad")


def test_binary_cross_entropy_reference_values() -> None:
    probability = torch.from_numpy(uniform((2, 1, 4, 4))).float()
    loss, info = BinaryCrossEntropyLoss()(probability, (probability.flip(0) > 0.5).float())
    assert float(loss) == pytest.approx(1.377335, rel=1e-5)
    assert float(info["hard_loss"]) == pytest.approx(8.054852, rel=1e-4)
    np.testing.assert_allclose(info["miou"], [0.153846, 0.153846], rtol=1e-5)
    with pytest.raises(ValueError, match="logits and labels of one shape"):
        BinaryCrossEntropyLoss()(probability, probability[:, 0])


def test_intersection_over_union_golden(shared: Shared) -> None:
    case = np.load(shared("golden/eval/segmentation.npz"))
    _, info = BinaryCrossEntropyLoss()(*(torch.from_numpy(case[name]).float() for name in ("pred", "mask")))
    np.testing.assert_allclose(info["miou"], case["miou"], atol=1e-6)
