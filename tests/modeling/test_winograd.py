"""3x3 convolutions by Winograd's algorithm are the convolutions of torch: values, gradients, layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from opengait.modeling.folding import folded
from opengait.modeling.modules import SetBlockWrapper, winograd
from opengait.modeling.modules.winograd import Conv3x3


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Uses the algorithm for any number of channels, in portions of a few tiles; counts its calls."""
    calls: list[int] = []
    convolve = winograd._convolve

    def counted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return convolve(x, weight)

    monkeypatch.setattr(winograd, "LEAST_PRODUCT", 1)
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 13)
    monkeypatch.setattr(winograd, "_convolve", counted)
    return calls


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (8, 6), (7, 9)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(
    size: tuple[int, int], layout: torch.memory_format, always: list[int]
) -> None:
    torch.manual_seed(0)
    ours = Conv3x3(3, 5).double()
    x = torch.randn(4, 3, *size, dtype=torch.float64).contiguous(memory_format=layout)
    results = []
    for convolve in (ours, lambda one: F.conv2d(one, ours.weight, padding=1)):
        ours.weight.grad, leaf = None, x.clone().requires_grad_()
        y = convolve(leaf)
        y.sin().sum().backward()
        assert leaf.grad is not None
        assert ours.weight.grad is not None
        results.append((y.detach(), leaf.grad, ours.weight.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert results[0][0].is_contiguous(memory_format=layout)
    assert always == [4, 4]  # forward, and the gradient of the map


def test_rounding_is_no_coarser_than_that_of_the_direct_sum(always: list[int]) -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(256, 64), torch.rand(2, 256, 16, 11)
    with torch.no_grad():
        exact = F.conv2d(x.double(), layer.weight.double(), padding=1)
        largest = float(exact.abs().max())
        assert float((layer(x) - exact).abs().max()) < 2e-6 * largest
    assert always


def test_a_part_that_does_not_learn_gets_no_gradient(always: list[int]) -> None:
    layer = Conv3x3(2, 3)
    layer(torch.rand(1, 2, 4, 4)).sum().backward()
    assert layer.weight.grad is not None
    assert always == [1]
    frozen, x = Conv3x3(2, 3).requires_grad_(False), torch.rand(1, 2, 4, 4, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None
    assert frozen.weight.grad is None


def test_strides_autocast_and_other_types_go_to_torch(always: list[int]) -> None:
    x = torch.rand(1, 2, 4, 4)
    assert Conv3x3(2, 3, stride=2)(x).shape == (1, 3, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Conv3x3(2, 3)(x).dtype == torch.bfloat16
    assert Conv3x3(2, 3).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert not always
    Conv3x3(2, 3)(x)
    assert always


def test_it_takes_a_folded_batch_norm(always: list[int]) -> None:
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.get_buffer("running_mean"))
    nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 1.5)
    wrapper = SetBlockWrapper(nn.Sequential(Conv3x3(2, 3), norm)).double().eval()
    x = torch.rand(2, 2, 3, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = wrapper(x)
        with folded(wrapper):
            assert "forward" in vars(norm)
            torch.testing.assert_close(wrapper(x), expected)
