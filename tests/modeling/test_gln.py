"""GLN: the reference's numbers in both phases, and what phase 2 adds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Case, check_probe, ellipses, fill_probe
from laws import check_batched_and_packed, check_packed_training, embed, sils

from opengait import Inputs, build_model
from opengait.modeling.losses import LossAggregator
from opengait.modeling.models.gln import GLN

Shared = Callable[[str], Path]


def cfg(phase: int, channels: tuple[int, ...] = (1, 32, 64, 128), lateral: int = 256, classes: int = 74) -> Any:
    return {
        "model": "GLN",
        "in_channels": list(channels),
        "lateral_dim": lateral,
        "hidden_dim": lateral,
        "dropout": 0.9,
        "class_num": classes,
        "SeparateFCs": {"in_channels": lateral, "out_channels": lateral, "parts_num": 93},
        "bin_num": [16, 8, 4, 2, 1],
        "Lateral_pretraining": phase == 1,
    }


SMALL = {phase: cfg(phase, (1, 4, 6, 8), 8, 5) for phase in (1, 2)}


@pytest.mark.parametrize("kind", ["eval", "packed"])
def test_golden_embeddings(shared: Shared, kind: str) -> None:
    Case.read(shared, "gln_phase1").check_inference(kind)


def test_golden_training_step(shared: Shared) -> None:
    Case.read(shared, "gln_phase1").check_training()


@pytest.mark.parametrize(
    ("phase", "parameters", "mean", "std", "elements"),
    [
        (1, 8_541_984, 0.00740575, 1.01601, [1.25224, -0.119749, 1.27688, 0.257631]),
        (2, 14_703_904, 0.0105658, 0.80694, [0.105704, -0.336282, 0.108306, -0.33629]),
    ],
)
def test_probe(phase: int, parameters: int, mean: float, std: float, elements: list[float]) -> None:
    model = build_model(cfg(phase))
    assert sum(p.numel() for p in model.parameters()) == parameters
    fill_probe(model)
    with torch.no_grad():
        result = model(Inputs([ellipses(2, 4, 128, 88)]))
    check_probe(result["inference_feat"]["embeddings"], mean, std, elements)
    if phase == 2:
        logits = result["training_feat"]["softmax"]["logits"]
        assert logits.shape == (2, 74, 1)
        check_probe(logits, 0.0196672, 0.541451, [1.16015, 1.14597, 1.14461, 0.155282])


def test_compat_interchanges_classes_and_parts_of_the_logits() -> None:
    model, reference = build_model(SMALL[2]), build_model({**SMALL[2], "compat": "reference"})
    reference.load_state_dict(model.state_dict())
    inputs = Inputs(sils(2, 3), torch.zeros(2, dtype=torch.int64))
    with torch.no_grad():
        ours, theirs = model(inputs), reference(inputs)
    logits, odd = (result["training_feat"]["softmax"]["logits"] for result in (ours, theirs))
    assert odd.shape == (2, 1, 5)  # the reference implementation's shape
    torch.testing.assert_close(odd, logits.transpose(1, 2), rtol=0, atol=0)
    torch.testing.assert_close(theirs["inference_feat"], ours["inference_feat"], rtol=0, atol=0)
    with pytest.raises(ValueError, match="compat: reference"):
        LossAggregator({"type": "CrossEntropyLoss", "log_prefix": "softmax"}, ignore_unfed=True)(
            {"softmax": theirs["training_feat"]["softmax"]}
        )


@pytest.mark.parametrize("phase", [1, 2])
def test_batched_and_packed_equal_one_at_a_time(phase: int) -> None:
    check_batched_and_packed(SMALL[phase])


def test_a_packed_batch_trains_like_a_fixed_one() -> None:
    check_packed_training(SMALL[2], partial(sils, height=64, width=44))


def test_phase_2_keys_and_frozen_biases() -> None:
    first, second = build_model(SMALL[1]), build_model(SMALL[2], training=True)
    added = [key for key in second.state_dict() if key not in first.state_dict()]
    assert len(first.state_dict()) == 17
    assert len(second.state_dict()) == 29
    assert [key for key in added if "bn" not in key] == ["reduce_fc.weight", "reduce_cls.weight"]
    frozen = [name for name, parameter in second.named_parameters() if not parameter.requires_grad]
    assert frozen == ["encoder_bn.bias", "reduce_bn.bias"]


def test_phase_2_goes_on_from_phase_1() -> None:
    first, second = build_model(SMALL[1]), build_model(SMALL[2])
    result = second.load_state_dict(first.state_dict(), strict=False)
    assert not result.unexpected_keys
    torch.testing.assert_close(embed(first, sils(2, 3)), embed(second, sils(2, 3)))


def test_phase_2_learns_every_class() -> None:
    torch.manual_seed(0)
    model = build_model(SMALL[2], training=True)
    losses = LossAggregator([
        {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2},
        {"type": "CrossEntropyLoss", "log_prefix": "softmax", "log_accuracy": True},
    ])  # fmt: skip
    total, info = losses(model(Inputs(sils(5, 2), torch.arange(5)))["training_feat"])
    total.backward()
    assert model.reduce_cls.weight.grad is not None
    assert (model.reduce_cls.weight.grad.abs().sum(1) > 0).all()
    assert 0 <= float(info["scalar/softmax/accuracy"]) <= 1


def test_compact_block_keeps_float32_under_autocast() -> None:
    model = build_model(SMALL[2])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        feat = model(Inputs(sils(2, 2)))["training_feat"]
    assert feat["softmax"]["logits"].dtype == feat["triplet"]["embeddings"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_num": None}, "class_num: missing; phase 2"),
        ({"bin_num": [16]}, "parts_num is 93, but bin_num .* gives 48 parts"),
        ({"lateral_dim": 9}, "in_channels is 8, but lateral_dim is 9"),
        ({"hidden_dim": 9}, "out_channels is 8, but hidden_dim is 9"),
    ],
)
def test_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model({**SMALL[2], **change})


def test_frames_that_cannot_be_halved_or_cut() -> None:
    model = build_model(SMALL[1])
    assert isinstance(model, GLN)
    model.check_frame_size(128, 88)
    with pytest.raises(ValueError, match="128x90 is not divisible by 4"):
        model.check_frame_size(128, 90)
    with pytest.raises(ValueError, match="does not cut evenly"):
        model.check_frame_size(36, 44)
