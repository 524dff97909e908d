"""Convolutions by Winograd's algorithm are the convolutions of torch: values, gradients, layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from laws import random_statistics
from torch import Tensor, nn

from opengait.modeling.folding import folded
from opengait.modeling.modules import BasicBlock3D, SequenceConv3d, SetBlockWrapper, ways, winograd
from opengait.modeling.modules.convolutions import Conv2d, Conv3d, Conv3x3

CHANNELS = (3, 5)
SIZES = [(1, 1), (2, 3), (5, 4), (8, 6), (7, 9)]
LAYERS: dict[str, Callable[[], Conv2d | Conv3d]] = {
    "2d": lambda: Conv3x3(*CHANNELS),
    "3d": lambda: Conv3d(*CHANNELS, 3, padding=1),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What does not go to torch, in order."""
    made: list[str] = []

    def listed(module: object, function: str) -> None:
        compute = getattr(module, function)

        def counted(*given: object) -> object:
            made.append(function)
            return compute(*given)

        monkeypatch.setattr(module, function, counted)

    listed(winograd, "convolve")
    listed(winograd, "weight_gradient")
    return made


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> list[str]:
    """Uses Winograd's algorithm for any number of channels and pixels, in portions of a few tiles."""
    monkeypatch.setattr(ways, "LEAST_FOR_MAPS", 0)
    monkeypatch.setattr(ways, "LEAST_FOR_WEIGHTS", 0)
    monkeypatch.setattr(ways, "LEAST_SIDE", 1)
    monkeypatch.setattr(winograd, "VALUES_AT_ONCE", 13 * max(CHANNELS))
    return calls


def layouts(x: Tensor) -> tuple[torch.memory_format, ...]:
    return torch.contiguous_format, torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def check(layer: Conv2d | Conv3d, x: Tensor) -> None:
    """Values and gradients of a layer are torch's, in both layouts of its input."""

    def by_torch(x: Tensor) -> Tensor:
        convolve = F.conv2d if x.ndim == 4 else F.conv3d
        return convolve(x, layer.weight, layer.bias, padding=layer.padding)

    for layout in layouts(x):
        results = []
        for convolve in (layer, by_torch):
            layer.zero_grad()
            leaf = x.clone(memory_format=layout).requires_grad_()
            y = F.leaky_relu(convolve(leaf), inplace=True)
            y.sin().sum().backward()
            assert leaf.grad is not None
            assert all(one.grad is not None for one in layer.parameters())
            results.append([y.detach(), leaf.grad, *(one.grad for one in layer.parameters())])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        ours, theirs = results[0][0], results[1][0]
        assert ours.is_contiguous(memory_format=layout) or ours.stride() == theirs.stride()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("values_at_once", [1, 13 * max(CHANNELS), 10**6])
@pytest.mark.parametrize("frames", [None, 1, 2, 7])
def test_values_and_gradients_are_those_of_torch(
    size: tuple[int, int], frames: int | None, values_at_once: int, always: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "VALUES_AT_ONCE", values_at_once)
    torch.manual_seed(0)
    layer = LAYERS["2d" if frames is None else "3d"]().double()
    shape = size if frames is None else (frames, *size)
    check(layer, torch.randn(4, CHANNELS[0], *shape, dtype=torch.float64))
    assert always == 2 * ["convolve", "convolve", "weight_gradient"]  # the second is the gradient of the map


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_the_weights_alone(name: str, always: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "LEAST_FOR_MAPS", 10**6)
    layer = LAYERS[name]().double()
    x = torch.randn(2, CHANNELS[0], *layer.kernel_size, dtype=torch.float64)
    check(layer, x)
    assert always == 2 * ["weight_gradient"]
    with torch.no_grad():
        layer(x)
    layer.weight.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert always == 2 * ["weight_gradient"]


@pytest.mark.parametrize(
    ("layer", "size"), [(Conv3x3(256, 160), (16, 11)), (Conv3d(128, 96, 3, padding=1, bias=False), (3, 8, 11))]
)
def test_rounding_is_no_coarser_than_that_of_the_direct_sum(
    layer: Conv2d | Conv3d, size: tuple[int, ...], calls: list[str]
) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, layer.in_channels, *size)
    with torch.no_grad():
        nn.init.kaiming_uniform_(layer.weight)
        convolve = F.conv2d if x.ndim == 4 else F.conv3d
        exact = convolve(x.double(), layer.weight.double(), padding=1)
        assert float((layer(x) - exact).abs().max()) < 2e-6 * float(exact.abs().max())
    assert calls == ["convolve"]


@pytest.mark.parametrize("name", LAYERS)
def test_a_part_that_does_not_learn_gets_no_gradient(name: str, always: list[str]) -> None:
    layer = LAYERS[name]()
    x = torch.rand(1, CHANNELS[0], *layer.kernel_size)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert always == ["convolve", "weight_gradient"]
    frozen = LAYERS[name]().requires_grad_(False)
    frozen(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert frozen.weight.grad is None


def test_packed_sequences_stay_apart(always: list[str]) -> None:
    torch.manual_seed(0)
    layer = SequenceConv3d(*CHANNELS, 3, padding=1, bias=False).double()
    x, lengths = torch.randn(1, CHANNELS[0], 9, 6, 5, dtype=torch.float64), [1, 5, 3]
    together = layer(x, torch.tensor([lengths]))
    alone = torch.cat([layer(one) for one in x.split(lengths, dim=2)], dim=2)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert always == 4 * ["convolve"]


def test_what_it_is_not_made_for_goes_to_torch(always: list[str]) -> None:
    x = torch.rand(1, 4, 6, 6)
    assert Conv3x3(4, 3, stride=2)(x).shape == (1, 3, 3, 3)
    assert Conv2d(4, 4, 3, padding=1, groups=2)(x).shape == (1, 4, 6, 6)
    assert Conv2d(4, 3, 3, padding=2, dilation=2)(x).shape == (1, 3, 6, 6)
    assert Conv2d(4, 3, 3)(x).shape == (1, 3, 4, 4)
    assert Conv2d(4, 3, 3, padding="same")(x).shape == (1, 3, 6, 6)
    assert Conv2d(4, 3, 3, padding=1, padding_mode="circular")(x).shape == (1, 3, 6, 6)
    assert Conv2d(4, 3, 5, padding=2)(x).shape == (1, 3, 6, 6)
    assert Conv3d(4, 3, (3, 1, 1), padding=(1, 0, 0))(x[:, :, None]).shape == (1, 3, 1, 6, 6)
    assert Conv2d(4, 3, 3, padding=1)(x[0]).shape == (3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Conv3x3(4, 3)(x).dtype == torch.bfloat16
    assert Conv3x3(4, 3).bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert Conv3x3(4, 3).to("meta")(x.to("meta")).shape == (1, 3, 6, 6)
    assert not always
    Conv3x3(4, 3)(x)
    assert always


def test_it_takes_a_folded_batch_norm(always: list[str]) -> None:
    wrapper = random_statistics(SetBlockWrapper(nn.Sequential(Conv3x3(3, 3), nn.BatchNorm2d(3)))).double()
    block = random_statistics(BasicBlock3D(3, 3)).double()
    x = torch.rand(2, 3, 3, 6, 5, dtype=torch.float64)
    for layer in (wrapper, block):
        layer.eval()
        with torch.no_grad():
            expected = layer(x)
            with folded(layer):
                assert sum("forward" in vars(one) for one in layer.modules()) in (2, 4)
                torch.testing.assert_close(layer(x), expected)
    assert len(always) == 6
