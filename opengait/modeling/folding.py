"""Batch norms folded into the convolutions before them, for as long as a network only infers.

In eval mode a batch norm is a factor and an offset a channel; the weights of the convolution take the factor, its bias
the offset, and a pass over the maps is saved. Only pairs that certainly follow one another are folded: those that a
class declares, and neighbours in a Sequential that is certainly run as a whole.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from opengait.modeling.modules import BasicConv2d, SequenceConv3d, SetBlockWrapper
from opengait.modeling.modules.convolutions import Conv2d, Conv3d, Conv3x3

DECLARED = "norms_behind"
"""Class attribute of a module that vouches for its own forward pass: {name of a convolution: name of the batch norm
that alone sees its result}, and Sequentials among its children run from first to last. Subclasses say it anew."""

Convolution = nn.Conv2d | nn.Conv3d
KINDS = (nn.Conv2d, nn.Conv3d, Conv2d, Conv3d, Conv3x3, SequenceConv3d)


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """Inside, convolutions of `model` do the work of the batch norms behind them, which pass on what they are given.

    Parameters, buffers and state dict stay as they are throughout. Where gradients are recorded, nothing is folded; nor
    are batch norms in training mode, shared layers, or layers with hooks.
    """
    pairs = [] if torch.is_grad_enabled() else _foldable(model)
    try:
        for convolution, norm in pairs:
            vars(convolution)["forward"] = _joined(convolution, norm).forward
            vars(norm)["forward"] = _unchanged
        yield
    finally:
        for layer in itertools.chain.from_iterable(pairs):
            vars(layer).pop("forward", None)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _joined(convolution: Convolution, norm: _BatchNorm) -> nn.Module:
    """A convolution with parameters of its own that does what both do."""
    weight, bias = convolution.weight, convolution.bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    factor = (variance.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    offset = ((0 if bias is None else bias.double()) - mean.double()) * factor
    if norm.bias is not None:
        offset = offset + norm.bias.double()
    scaled = weight.double() * factor.view(-1, *(1,) * (weight.ndim - 1))
    joined = copy.copy(convolution)
    vars(joined)["_parameters"] = {"weight": scaled.to(weight.dtype), "bias": offset.to(weight.dtype)}
    return joined


def _foldable(model: nn.Module) -> list[tuple[Convolution, _BatchNorm]]:
    """Pairs of a convolution and the batch norm behind it, each layer of them used once in the network."""
    uses = Counter(id(layer) for _, layer in model.named_modules(remove_duplicate=False))
    found = []
    for first, norm in _pairs(model, runs_in_order=False):
        convolution = first.conv if isinstance(first, BasicConv2d) else first
        if (
            isinstance(convolution, Convolution)
            and isinstance(norm, _BatchNorm)
            and type(first) in (BasicConv2d, *KINDS)
            and type(convolution) in KINDS
            and _is_fixed(norm)
            and all(uses[id(layer)] == 1 and not _is_altered(layer) for layer in (first, convolution, norm))
        ):
            found.append((convolution, norm))
    return found


def _pairs(module: nn.Module, runs_in_order: bool) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Neighbours in the order of the forward pass.

    Args:
        runs_in_order: whether `module`, if it is a Sequential, is certainly run from its first child to the last.
    """
    declared = vars(type(module)).get(DECLARED)
    for name, behind in (declared or {}).items():
        yield getattr(module, name), getattr(module, behind)
    in_order = runs_in_order and type(module) is nn.Sequential
    if in_order:
        yield from itertools.pairwise(module.children())
    whole = in_order or declared is not None or type(module) is SetBlockWrapper
    for child in module.children():
        yield from _pairs(child, whole)


def _is_fixed(norm: _BatchNorm) -> bool:
    """Whether a batch norm uses running statistics, in torch's own forward pass."""
    return type(norm).forward is _BatchNorm.forward and not norm.training and norm.running_mean is not None


def _is_altered(layer: nn.Module) -> bool:
    """Whether somebody looks at the layer's results, or has put another forward pass or weights into it."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return bool(hooked) or parametrize.is_parametrized(layer)
