"""GaitGL: the reference's numbers, its layers against loops, and sequences that never mix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import Case, check_probe, close_to_peak, ellipses, fill_probe
from laws import check_batched_and_packed, check_packed_training, embed, random_statistics, sils
from torch import Tensor

from opengait import Inputs, build_model
from opengait.modeling.models.gaitgl import GLConv
from opengait.modeling.modules import GeMHPP

Shared = Callable[[str], Path]

SMALL: dict[str, Any] = {"model": "GaitGL", "channels": [3, 4, 5], "class_num": 6}
LARGE: dict[str, Any] = {"model": "GaitGL", "channels": [2, 3, 4, 5], "class_num": 6}
NECKS: dict[str, Any] = {**LARGE, "SeparateBNNecks": {"class_num": 6, "in_channels": 5, "parts_num": 64}}
FORMS = pytest.mark.parametrize("model_cfg", [SMALL, LARGE, NECKS], ids=["small", "large", "bnneck"])
CASES = pytest.mark.parametrize("name", ["gaitgl", "gaitgl_grew_bnneck"])


@CASES
@pytest.mark.parametrize("kind", ["eval", "packed"])
def test_golden_embeddings(shared: Shared, name: str, kind: str) -> None:
    Case.read(shared, name).check_inference(kind)


@CASES
def test_golden_embeddings_of_one_and_two_frames(shared: Shared, name: str) -> None:
    case = Case.read(shared, name)
    model = case.build()
    frames = case.inputs("eval").ipts[0][:1]
    for count in (1, 2):
        expected = case.arrays[f"short{count}/embeddings"]
        close_to_peak(embed(model, [frames[:, :count]]), expected, f"{count} frames")


@CASES
def test_golden_training_step(shared: Shared, name: str) -> None:
    Case.read(shared, name).check_training()


PROBE_SMALL: dict[str, Any] = {"model": "GaitGL", "channels": [32, 64, 128], "class_num": 74}
PROBE_LARGE: dict[str, Any] = {"model": "GaitGL", "channels": [32, 64, 128, 256], "class_num": 74}
PROBE_NECKS = {**PROBE_LARGE, "SeparateBNNecks": {"class_num": 74, "in_channels": 256, "parts_num": 64}}


@pytest.mark.parametrize(
    ("model_cfg", "frames", "expected", "logits"),
    [
        (
            PROBE_SMALL,
            11,
            (0.00213547, 0.419636, [-0.280211, 0.0863976, -0.136315, -0.0559524]),
            (0.00518938, 0.419478, [-0.0759358, 0.160088, 0.256855, 0.0243921]),
        ),
        (PROBE_SMALL, 2, (0.000894234, 0.111235, [0.0695339, 0.0956751, -0.00278084, 0.0120049]), None),
        (PROBE_LARGE, 11, (-0.00246302, 0.19964, [0.223032, 0.166575, -0.126666, -0.00379252]), None),
        (
            PROBE_NECKS,
            11,
            (0.000420696, 0.190615, [0.036311, 0.0936905, -0.0939442, 0.204714]),
            (-0.000430197, 0.0611874, [0.0803665, 0.0614759, -0.0217659, 0.0161489]),
        ),
    ],
    ids=["small", "two frames", "large", "bnneck"],
)
def test_probe(model_cfg: dict[str, Any], frames: int, expected: tuple[Any, ...], logits: tuple[Any, ...]) -> None:
    model = build_model(model_cfg)
    fill_probe(model)
    with torch.no_grad():
        result = model(Inputs([ellipses(1, frames)]))
    check_probe(result["inference_feat"]["embeddings"], *expected)
    if logits is not None:
        check_probe(result["training_feat"]["softmax"]["logits"], *logits)


@pytest.mark.parametrize(
    ("model_cfg", "keys", "parameters"),
    [(PROBE_SMALL, 16, 3_096_673), (PROBE_LARGE, 23, 95_620_449 - (5153 - 74) * 256 * 64)],
    ids=["small", "large"],
)
def test_sizes_of_the_published_networks(model_cfg: dict[str, Any], keys: int, parameters: int) -> None:
    model = build_model(model_cfg)
    assert len(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == parameters


@FORMS
def test_batched_and_packed_equal_one_at_a_time(model_cfg: dict[str, Any]) -> None:
    check_batched_and_packed(model_cfg)


@FORMS
def test_a_packed_batch_trains_like_a_fixed_one(model_cfg: dict[str, Any]) -> None:
    check_packed_training(model_cfg)


@FORMS
def test_gradients_of_packed_sequences_are_the_sum_of_single_ones(model_cfg: dict[str, Any]) -> None:
    packed = random_statistics(build_model(model_cfg)).double()  # eval mode: batch norm mixes sequences otherwise
    single = random_statistics(build_model(model_cfg)).double()
    single.load_state_dict(packed.state_dict())
    lengths = [4, 1, 3, 2, 8, 5]
    runs = [sils(1, length, seed)[0].double() for seed, length in enumerate(lengths)]
    weights = torch.randn(len(lengths), 5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    together = packed(Inputs([torch.cat(runs, 1)], seqL=torch.tensor([lengths])))["inference_feat"]["embeddings"]
    alone = torch.cat([single(Inputs([run]))["inference_feat"]["embeddings"] for run in runs])
    torch.testing.assert_close(together, alone)
    (together * weights).sum().backward()
    (alone * weights).sum().backward()
    for (name, a), b in zip(packed.named_parameters(), single.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_a_broken_sequence_spoils_no_other() -> None:
    model = random_statistics(build_model(SMALL))
    lengths = [3, 4, 5]
    runs = [sils(1, length, seed)[0] for seed, length in enumerate(lengths)]
    runs[1] = torch.full_like(runs[1], float("nan"))
    packed = embed(model, [torch.cat(runs, 1)], torch.tensor([lengths]))
    assert torch.isfinite(packed[[0, 2]]).all()
    torch.testing.assert_close(packed[[0, 2]], torch.cat([embed(model, [runs[0]]), embed(model, [runs[2]])]))


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("halving", "height"), [(0, 6), (1, 6), (2, 8), (2, 11)])
def test_folded_strips_equal_the_loop(
    concat: bool, memory_format: torch.memory_format, halving: int, height: int
) -> None:
    layer = GLConv(2, 3, halving, concat).double()
    x = torch.randn(2, 2, 4, height, 5, dtype=torch.float64).contiguous(memory_format=memory_format)
    of_map = layer.global_conv3d(x)
    of_strips = torch.cat([layer.local_conv3d(strip) for strip in x.split(height // 2**halving, 3)], 3)
    if concat:
        expected = F.leaky_relu(torch.cat([of_map, of_strips], 3))
    else:
        expected = F.leaky_relu(of_map) + F.leaky_relu(of_strips)
    torch.testing.assert_close(layer(x), expected)


def slow_gem(x: Tensor, parts: int, power: Tensor) -> Tensor:
    strips = x.clamp(min=1e-6).flatten(2).chunk(parts, 2)
    return torch.stack([strip.pow(power).mean(-1).pow(1 / power) for strip in strips], 2)


def test_generalised_mean_equals_its_formula_and_gradient() -> None:
    pool = GeMHPP([4, 2]).double()
    x = torch.randn(3, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    found = pool(x)
    expected = torch.cat([slow_gem(x, 4, pool.p), slow_gem(x, 2, pool.p)], 2)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), [x, pool.p]),
        torch.autograd.grad((expected * weights).sum(), [x, pool.p]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_generalised_mean_stays_finite_in_float32_where_nothing_is_positive() -> None:
    pool = GeMHPP([2], p=12.0)
    x = -torch.rand(1, 2, 4, 3)
    x.requires_grad_()
    found = pool(x)
    torch.testing.assert_close(found, torch.full_like(found, 1e-6))
    found.sum().backward()
    assert torch.isfinite(pool.p.grad).all()
    assert torch.isfinite(x.grad).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pool(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("model_cfg", "message"),
    [
        ({**SMALL, "variant": "large"}, r"variant is large, which takes 4 channels, but channels is \[3, 4, 5\]"),
        ({**LARGE, "variant": "small"}, "variant is small, which takes 3 channels"),
        ({**SMALL, "channels": [3, 4]}, "channels"),
        ({"model": "GaitGL", "channels": [3, 4, 5]}, "class_num is missing"),
        ({**SMALL, "SeparateBNNecks": {**NECKS["SeparateBNNecks"], "parts_num": 31}}, "parts_num 31 and in_channels 5"),
        ({**SMALL, "varaint": "small"}, "did you mean 'variant'"),
    ],
)
def test_configuration_mistakes(model_cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(model_cfg)


def test_variant_agrees_with_the_channels() -> None:
    keys = list(build_model(SMALL).state_dict())
    assert list(build_model({**SMALL, "variant": "small"}).state_dict()) == keys
    assert len(build_model({**LARGE, "variant": "large"}).state_dict()) == len(build_model(NECKS).state_dict()) == 23


def test_inputs_that_do_not_fit() -> None:
    model = build_model(SMALL)
    with pytest.raises(
        ValueError, match=r"takes silhouettes \[n, s, h, w\] without channels, found \[1, 4, 1, 64, 44\]"
    ):
        model(Inputs([torch.zeros(1, 4, 1, 64, 44)]))
    with pytest.raises(ValueError, match=r"seqL \[2, 3\] does not cut 4 frames"):
        model(Inputs([torch.zeros(1, 4, 64, 44)], seqL=torch.tensor([[2, 3]])))
    with pytest.raises(ValueError, match="one row, found 2 rows"):
        model(Inputs([torch.zeros(2, 4, 64, 44)], seqL=torch.tensor([[2, 2]])))
    model.check_frame_size(64, 44)
    with pytest.raises(ValueError, match="64 parts of equal size"):
        model.check_frame_size(60, 44)


def test_shown_silhouettes_are_those_that_are_seen() -> None:
    model = build_model(SMALL)
    shown = {count: model(Inputs(sils(2, count)))["visual_summary"]["image/sils"].shape[0] for count in (1, 2, 5)}
    assert shown == {1: 6, 2: 8, 5: 10}
