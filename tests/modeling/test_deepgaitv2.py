"""DeepGaitV2: the reference's numbers in every mode, and sequences that never leak into one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Case, check_probe, ellipses, fill_probe
from laws import check_batched_and_packed, check_packed_training, features, sils

from opengait import Inputs, build_model
from opengait.modeling.modules import BasicBlock3D, SequenceConv3d

Shared = Callable[[str], Path]
MODES = pytest.mark.parametrize("mode", ["2d", "p3d", "3d"])


def cfg(mode: str, channels: tuple[int, ...] = (64, 128, 256, 512), layers: tuple[int, ...] = (1, 1, 1, 1)) -> Any:
    backbone = {"mode": mode, "in_channels": 1, "layers": list(layers), "channels": list(channels)}
    return {"model": "DeepGaitV2", "Backbone": backbone, "SeparateBNNecks": {"class_num": 74}}


def small(mode: str) -> Any:
    return cfg(mode, (4, 6, 8, 6), (1, 1, 2, 1))


@pytest.mark.parametrize(("name", "kind"), [("2d", "eval"), ("2d", "packed"), ("p3d", "eval")])
def test_golden_embeddings(shared: Shared, name: str, kind: str) -> None:
    Case.read(shared, f"deepgaitv2_{name}").check_inference(kind)


@pytest.mark.parametrize("name", ["2d", "p3d"])
def test_golden_training_step(shared: Shared, name: str) -> None:
    Case.read(shared, f"deepgaitv2_{name}").check_training()


Figures = tuple[float, float, list[float]]


@pytest.mark.parametrize(
    ("mode", "embeddings", "logits"),
    [
        ("2d", (0.00154797, 1.16914, [0.162002, -1.9283, 0.155728, 0.824432]),
               (-0.00140892, 0.0633138, [-0.0371024, -0.0747178, -0.0384554, -0.0298768])),
        ("p3d", (-0.00764057, 1.7275, [0.846451, -0.504843, 0.773262, 0.16198]),
                (0.00170975, 0.062933, [-0.0211118, 0.00684599, -0.0186167, -0.101291])),
        ("3d", (-0.00512219, 1.16299, [0.505288, -0.443436, 0.499719, 0.178424]),
               (0.00111363, 0.0646917, [0.0170711, -0.014605, 0.0169409, -0.0644275])),
    ],
    ids=["2d", "p3d", "3d"],
)  # fmt: skip
def test_probe(mode: str, embeddings: Figures, logits: Figures) -> None:
    model = build_model(cfg(mode))
    fill_probe(model)
    with torch.no_grad():
        feat = model(Inputs([ellipses(2, 6)]))["training_feat"]
    check_probe(feat["triplet"]["embeddings"], *embeddings)
    check_probe(feat["softmax"]["logits"], *logits)


@pytest.mark.parametrize(
    ("mode", "layers", "keys", "backbone"),
    [
        ("2d", (1, 1, 1, 1), 79, 4_896_960),
        ("p3d", (1, 1, 1, 1), 97, 5_930_944),
        ("3d", (1, 1, 1, 1), 79, 14_186_688),
        ("2d", (1, 4, 4, 1), 151, 9_325_248),
        ("p3d", (1, 4, 4, 1), 205, 11_098_816),
        ("3d", (1, 4, 4, 1), 151, 27_462_336),
        ("p3d", (1, 2, 2, 1), 133, 7_653_568),
        ("3d", (1, 4, 8, 1), 199, 41_622_208),
    ],
)
def test_sizes(mode: str, layers: tuple[int, ...], keys: int, backbone: int) -> None:
    with torch.device("meta"):
        model = build_model(cfg(mode, layers=layers))
    parameters = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(size for name, size in parameters.items() if name.startswith("layer")) == backbone
    assert len(model.state_dict()) == keys


@MODES
def test_batched_and_packed_equal_one_at_a_time(mode: str) -> None:
    check_batched_and_packed(small(mode))


@MODES
def test_a_packed_batch_trains_like_a_fixed_one(mode: str) -> None:
    check_packed_training(small(mode))


@MODES
def test_images_of_several_channels(mode: str) -> None:
    model = build_model({**small(mode), "Backbone": {**small(mode)["Backbone"], "in_channels": 2}})
    assert features(model, [torch.rand(2, 3, 2, 64, 44)])["embeddings"].shape == (2, 8, 16)


def test_use_emb2_tests_with_the_normalised_feature() -> None:
    found = features(build_model({**small("p3d"), "use_emb2": True}), sils(2, 3))["embeddings"]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, 16))


def test_convolution_over_frames_equals_one_sequence_at_a_time() -> None:
    for kernel, padding in ((3, 1), (5, 2), (1, 0)):
        layer = SequenceConv3d(2, 3, (kernel, 3, 3), padding=(padding, 1, 1)).double()
        runs = [torch.randn(1, 2, length, 4, 3, dtype=torch.float64) for length in (1, 4, 2)]
        packed = layer(torch.cat(runs, 2), torch.tensor([[1, 4, 2]], dtype=torch.int32))
        torch.testing.assert_close(packed, torch.cat([layer(run) for run in runs], 2))


def test_lengths_of_packed_sequences_are_checked() -> None:
    convolution = SequenceConv3d(2, 3, (3, 1, 1), padding=(1, 0, 0))
    x = torch.randn(1, 2, 6, 4, 4)
    torch.testing.assert_close(convolution(x, np.array([[2, 4]])), convolution(x, torch.tensor([[2, 4]])))
    with pytest.raises(ValueError, match=r"seqL \[2, 3\] does not cut 6 frames"):
        convolution(x, torch.tensor([[2, 3]]))
    with pytest.raises(ValueError, match="one row, found 2 rows"):
        convolution(torch.cat([x, x]), torch.tensor([[2, 4]]))


def test_a_temporal_stride_refuses_packed_sequences() -> None:
    shortcut = torch.nn.Conv3d(2, 2, 1, stride=(3, 1, 1))
    block = BasicBlock3D(2, 2, (3, 1, 1), shortcut)
    assert block(torch.randn(2, 2, 9, 4, 4)).shape == (2, 2, 3, 4, 4)
    with pytest.raises(ValueError, match="changes the lengths of packed sequences"):
        block(torch.randn(1, 2, 9, 4, 4), torch.tensor([[4, 5]]))
    with pytest.raises(ValueError, match="in one row, found 2 rows"):
        SequenceConv3d(2, 2, 3, padding=1)(torch.randn(2, 2, 9, 4, 4), torch.tensor([[4, 5]]))


def test_uncut_frames_are_refused() -> None:
    model = build_model(small("2d"))
    with pytest.raises(ValueError, match=r"frames are 64x64.*BaseSilCuttingTransform"):
        model.check_frame_size(64, 64)
    with pytest.raises(ValueError, match="frames are 64x64"):
        features(model, sils(1, 2, 0, 64, 64))


def test_settings() -> None:
    with pytest.raises(ValueError, match=r"Backbone.mode.*'2d', 'p3d' or '3d'"):
        build_model(cfg("4d"))
    with pytest.raises(ValueError, match=r"SeparateBNNecks\.class_num: missing"):
        build_model({**small("2d"), "SeparateBNNecks": {}})
