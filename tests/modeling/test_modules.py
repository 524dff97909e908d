"""Layers: whole-batch forms equal looped ones, and the field's keys, initial values and precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opengait.modeling.modules import (
    BasicConv1d,
    BasicConv2d,
    BasicConv3d,
    FocalConv2d,
    HorizontalPoolingPyramid,
    PackSequenceWrapper,
    ParallelBN1d,
    SeparateBNNecks,
    SeparateFCs,
    SetBlockWrapper,
    frame_max,
)
from opengait.modeling.modules.convolutions import Conv3d


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_layout(x: Tensor, layout: str) -> Tensor:
    """[n, c, s, h, w] as convolutions leave it: frames before channels, channels first or last in memory."""
    order = (0, 2, 1, 3, 4) if layout == "channels first" else (0, 2, 3, 4, 1)
    back = (0, 2, 1, 3, 4) if layout == "channels first" else (0, 4, 1, 2, 3)
    return x.permute(order).contiguous().permute(back)


@pytest.mark.parametrize(
    ("layer", "last"),
    [
        (nn.Conv2d(4, 8, 3, 2, 1), True),
        (nn.Conv2d(8, 8, 1, 2), True),
        (nn.Conv2d(4, 8, 1, 1), True),
        (nn.Conv2d(4, 8, 1, 2), False),
    ],
)
def test_narrow_strided_shortcuts_are_kept_from_the_layout_that_torch_fails_in(layer: nn.Conv2d, last: bool) -> None:
    seen: list[Tensor] = []
    block = nn.Sequential(nn.Identity(), layer)
    block[0].register_forward_hook(lambda module, args, output: seen.append(output))
    SetBlockWrapper(block)(torch.randn(2, layer.in_channels, 3, 8, 6))
    assert [one.is_contiguous(memory_format=torch.channels_last) for one in seen] == [last]


def test_set_block_equals_frame_by_frame() -> None:
    block = BasicConv2d(3, 5, 3, 2, 1).double()
    x = random(2, 3, 4, 8, 6)
    expected = torch.stack([block(x[:, :, s]) for s in range(4)], dim=2)
    torch.testing.assert_close(SetBlockWrapper(block)(x), expected)


def test_set_block_around_the_pyramid() -> None:
    pyramid = HorizontalPoolingPyramid([2, 1])
    assert SetBlockWrapper(pyramid)(random(2, 3, 4, 8, 6)).shape == (2, 3, 4, 3)


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
@pytest.mark.parametrize("training", [True, False])
def test_frame_max_is_torch_max_value_and_gradient(layout: str, training: bool) -> None:
    # Few levels, so that frames tie everywhere: the gradient goes to one frame, the one torch.max names.
    values = random(2, 3, 5, 4, 2).round()
    x, twin = as_layout(values, layout).requires_grad_(training), values.clone().requires_grad_(training)
    pooled = frame_max(x)
    expected = twin.max(2).values
    assert torch.equal(pooled, expected)
    if training:
        weights = random(2, 3, 4, 2, seed=1)
        (pooled * weights).sum().backward()
        (expected * weights).sum().backward()
        assert torch.equal(x.grad, twin.grad)


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
def test_packed_frame_max_is_one_sequence_at_a_time(layout: str) -> None:
    values = random(1, 3, 9, 4, 2).round()
    lengths = torch.tensor([[4, 1, 2, 2]])
    x, twin = as_layout(values, layout).requires_grad_(), values.clone().requires_grad_()
    pooled = PackSequenceWrapper(torch.max)(x, lengths, options={"dim": 2})[0]
    expected = torch.cat([run.max(2).values for run in twin.split(lengths[0].tolist(), 2)])
    assert torch.equal(pooled, expected)
    weights = random(4, 3, 4, 2, seed=1)
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(x.grad, twin.grad)


def test_frame_max_over_another_axis() -> None:
    x = random(1, 7, 3)
    pooled = PackSequenceWrapper(torch.max)(x, torch.tensor([[3, 4]]), dim=1, options={"dim": 1})[0]
    torch.testing.assert_close(pooled, torch.cat([x[:, :3].max(1).values, x[:, 3:].max(1).values]))


def test_packing_of_other_functions() -> None:
    x = random(1, 3, 6, 4)
    lengths = torch.tensor([[2, 4]])
    mean = PackSequenceWrapper(torch.mean)(x, lengths, options={"dim": 2})
    torch.testing.assert_close(mean, torch.cat([x[:, :, :2].mean(2), x[:, :, 2:].mean(2)]))
    values, indices = PackSequenceWrapper(torch.median)(x, lengths, 2, {"dim": 2})
    assert values.shape == indices.shape == (2, 3, 4)
    torch.testing.assert_close(PackSequenceWrapper(torch.mean)(x, None, 2, {"dim": 2}), x.mean(2))


@pytest.mark.parametrize("function", [torch.max, torch.mean])
def test_packing_refuses_what_does_not_add_up(function: object) -> None:
    pool = PackSequenceWrapper(function)
    with pytest.raises(ValueError, match=r"seqL \[2, 3\] does not cut 6 frames"):
        pool(random(1, 3, 6, 4), torch.tensor([[2, 3]]), 2, {"dim": 2})
    with pytest.raises(ValueError, match=r"seqL \[0, 6\] does not cut 6 frames"):
        pool(random(1, 3, 6, 4), torch.tensor([[0, 6]]), 2, {"dim": 2})
    with pytest.raises(ValueError, match="one row, found 2 rows"):
        pool(random(2, 3, 6, 4), torch.tensor([[2, 4]]), 2, {"dim": 2})


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pyramid_equals_the_loop(memory_format: torch.memory_format) -> None:
    x = random(2, 3, 8, 4)
    strips = [strip for bins in (4, 2, 1) for strip in x.flatten(2).chunk(bins, dim=2)]
    expected = torch.stack([strip.mean(2) + strip.amax(2) for strip in strips], dim=2)
    pyramid = HorizontalPoolingPyramid([4, 2, 1])
    torch.testing.assert_close(pyramid(x.contiguous(memory_format=memory_format)), expected)


def test_pyramid_refuses_uneven_strips() -> None:
    with pytest.raises(ValueError, match=r"8x3 cannot be cut into \[16\] equal strips"):
        HorizontalPoolingPyramid()(random(1, 2, 8, 3))


@pytest.mark.parametrize(("halving", "height"), [(0, 8), (1, 8), (2, 8), (3, 8), (1, 7), (2, 11)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_focal_convolution_equals_the_loop(halving: int, height: int, memory_format: torch.memory_format) -> None:
    layer = FocalConv2d(3, 5, 3, halving, 1, 1).double()
    x = random(2, 3, height, 6)
    strips = x.split(height // 2**halving, dim=2)
    expected = torch.cat([F.conv2d(strip, layer.conv.weight, padding=1) for strip in strips], dim=2)
    torch.testing.assert_close(layer(x.contiguous(memory_format=memory_format)), expected)


def test_focal_convolution_refuses_too_low_a_map() -> None:
    with pytest.raises(ValueError, match="3 rows cannot be cut into 4 strips"):
        FocalConv2d(1, 1, 3, 2)(torch.zeros(1, 1, 3, 4))


@pytest.mark.parametrize("norm", [False, True])
def test_separate_fcs_equal_the_loop(norm: bool) -> None:
    layer = SeparateFCs(3, 4, 5, norm).double()
    x = random(2, 4, 3)
    weights = [F.normalize(w, dim=0) if norm else w for w in layer.fc_bin]
    torch.testing.assert_close(layer(x), torch.stack([x[:, :, q] @ weights[q] for q in range(3)], dim=2))


def test_heads_start_from_the_bound_of_the_whole_tensor() -> None:
    for layer, out in ((SeparateFCs(16, 512, 256), 256), (SeparateBNNecks(16, 512, 10), 10)):
        bound = math.sqrt(6 / (out * (512 + 16)))
        assert 0.99 * bound < layer.fc_bin.abs().max() <= bound


@pytest.mark.parametrize("training", [True, False])
def test_bnnecks_of_one_norm_and_of_many_are_the_same_map(training: bool) -> None:
    together, apart = SeparateBNNecks(3, 4, 6).double(), SeparateBNNecks(3, 4, 6, parallel_BN1d=False).double()
    assert [name for name, _ in apart.named_parameters()][1:3] == ["bn1d.0.weight", "bn1d.0.bias"]
    with torch.no_grad():
        apart.fc_bin.copy_(together.fc_bin)
        together.bn1d.weight.copy_(random(12))
        together.bn1d.running_mean.copy_(random(12, seed=1))
        for q, norm in enumerate(apart.bn1d):
            norm.weight.copy_(together.bn1d.weight.view(4, 3)[:, q])
            norm.running_mean.copy_(together.bn1d.running_mean.view(4, 3)[:, q])
    x = random(5, 4, 3)
    for one, other in zip(together.train(training)(x), apart.train(training)(x), strict=True):
        torch.testing.assert_close(one, other)


def test_bnneck_logits_are_cosines_of_the_returned_feature() -> None:
    layer = SeparateBNNecks(3, 4, 6).double()
    feature, logits = layer(random(5, 4, 3))
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(5, 3, dtype=torch.float64))
    classes = layer.fc_bin[1] / layer.fc_bin[1].norm(dim=0)
    torch.testing.assert_close(logits[:, :, 1], feature[:, :, 1] @ classes)
    assert logits.abs().max() <= 1


def test_parallel_bn_is_one_norm_a_channel_and_part() -> None:
    layer = ParallelBN1d(3, 4).double()
    y = layer(random(6, 4, 3))
    torch.testing.assert_close(y.mean(0), torch.zeros(4, 3, dtype=torch.float64))
    assert next(iter(layer.state_dict())) == "bn1d.weight"


@pytest.mark.parametrize("layer", [SeparateFCs(3, 4, 5), SeparateBNNecks(3, 4, 5), ParallelBN1d(3, 4)])
def test_heads_stay_in_float32_under_autocast(layer: nn.Module) -> None:
    x = random(6, 4, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    full = layer(x.float())
    for one, other in zip(
        (low,) if isinstance(low, Tensor) else low, (full,) if isinstance(full, Tensor) else full, strict=True
    ):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layer", [SeparateFCs(3, 4, 5), SeparateBNNecks(3, 4, 5), ParallelBN1d(3, 4)])
def test_heads_name_the_number_of_parts_they_expect(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"parts_num 3\), found \[6, 4, 2\]"):
        layer(torch.zeros(6, 4, 2))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), ((3, 1, 1), (3, 1, 1), 0), ((3, 1, 1), 1, (1, 0, 0))]
)
def test_one_short_sequence_gives_the_same_without_gradients(kernel: Any, stride: Any, padding: Any) -> None:
    torch.manual_seed(0)
    layer = Conv3d(2, 3, kernel, stride=stride, padding=padding)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        x = torch.randn(1, 2, 7, 6, 5).contiguous(memory_format=layout)
        with torch.no_grad():
            assert layer._hands_over(x)
            found = layer(x)
        assert not layer._hands_over(x)
        exact = F.conv3d(x.double(), layer.weight.double(), layer.bias.double(), layer.stride, layer.padding)
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_keys_of_the_basic_convolutions() -> None:
    assert list(BasicConv1d(2, 3, 3).state_dict()) == ["conv.weight"]
    assert list(BasicConv2d(2, 3, 3, 1, 1).state_dict()) == ["conv.weight"]
    assert list(BasicConv3d(2, 3).state_dict()) == ["conv3d.weight"]
    assert list(BasicConv3d(2, 3, bias=True).state_dict()) == ["conv3d.weight", "conv3d.bias"]
    assert BasicConv3d(2, 3, stride=(3, 1, 1))(torch.zeros(1, 2, 6, 4, 4)).shape == (1, 3, 2, 4, 4)
