"""Laws that every network keeps, for tests of one network to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from opengait import Inputs, build_model

Streams = Callable[[int, int, int], list[Tensor]]
"""(n, s, seed) -> one tensor [n, s, ...] a modality."""


def sils(n: int, s: int, seed: int = 0, height: int = 64, width: int = 44) -> list[Tensor]:
    """Random blobs, [n, s, h, w] of 0 and 1."""
    noise = torch.rand(n * s, 1, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    frames = nn.functional.interpolate(noise, size=(height, width), mode="bilinear")
    return [(frames > 0.5).float().view(n, s, height, width)]


def features(model: nn.Module, ipts: Sequence[Tensor], seqL: Tensor | None = None) -> Mapping[str, Tensor]:
    with torch.no_grad():
        return model(Inputs(ipts, seqL=seqL))["inference_feat"]


def embed(model: nn.Module, ipts: Sequence[Tensor], seqL: Tensor | None = None) -> Tensor:
    return features(model, ipts, seqL)["embeddings"]


def random_statistics(model: nn.Module) -> nn.Module:
    """Batch norms as after training, so that empty frames would not stay empty behind them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                module.bias.normal_(0, 0.3, generator=generator)
    return model


def check_batched_and_packed(model_cfg: Mapping[str, Any], streams: Streams = sils) -> None:
    """Eval mode: fixed and packed batches give what one sequence at a time gives, in the order of sequences."""
    model = random_statistics(build_model(model_cfg))
    together = streams(3, 4, 0)
    alone = torch.cat([embed(model, [stream[i : i + 1] for stream in together]) for i in range(3)])
    torch.testing.assert_close(embed(model, together), alone, rtol=1e-4, atol=1e-5)

    lengths = [2, 1, 5, 2]
    runs = [streams(1, length, seed) for seed, length in enumerate(lengths)]
    packed = embed(model, [torch.cat(parts, 1) for parts in zip(*runs, strict=True)], torch.tensor([lengths]))
    torch.testing.assert_close(packed, torch.cat([embed(model, run) for run in runs]), rtol=1e-4, atol=1e-5)


def check_packed_training(model_cfg: Mapping[str, Any], streams: Streams = sils) -> None:
    """Training mode: a packed batch of equal lengths has the outputs, gradients and statistics of a fixed one."""
    fixed = random_statistics(build_model(model_cfg, training=True)).double()
    packed = build_model(model_cfg, training=True).double()
    packed.load_state_dict(fixed.state_dict())
    for model in (fixed, packed):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
    ipts = [stream.double() for stream in streams(3, 3, 0)]
    one = fixed(Inputs(ipts))["inference_feat"]["embeddings"]
    rows = [stream.flatten(0, 1)[None] for stream in ipts]
    other = packed(Inputs(rows, seqL=torch.tensor([[3, 3, 3]])))["inference_feat"]["embeddings"]
    torch.testing.assert_close(one, other)
    one.square().sum().backward()
    other.square().sum().backward()
    for (name, a), b in zip(fixed.named_parameters(), packed.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, a), b in zip(fixed.named_buffers(), packed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
