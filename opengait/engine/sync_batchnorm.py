"""Batch normalisation over the batches of all processes, on CPU (gloo) and CUDA (NCCL).

What one process computes on the whole batch: outputs, gradients and running statistics are the same, also when the
processes hold different numbers of sequences (their statistics are weighted by count).

Source: Ioffe and Szegedy, Batch Normalization, ICML 2015; the statistics are merged as in Chan, Golub and LeVeque,
Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from opengait.engine.distributed import world_size

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[c] -> [1, c, 1, ...] with as many axes as `like`."""
    return values.view(1, -1, *(1,) * (like.dim() - 2))


def _statistic_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _merge(stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[processes, 2 c + 1] of mean, sum of squared deviations, count -> mean [c], squared deviations [c], count []."""
    channels = (stats.shape[1] - 1) // 2
    means, squares, counts = stats[:, :channels], stats[:, channels:-1], stats[:, -1:]
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    return mean, (squares + counts * (means - mean) ** 2).sum(0), total


class _SynchronisedNorm(torch.autograd.Function):
    """(x [n, c, ...], weight [c], bias [c], eps) -> normalised x, mean [c], biased variance [c], count []."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = _statistic_type(x)
        axes = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1]
        # Summed in float64, as torch's own batch norm does on a CPU: float32 sums would cost two digits of gradients.
        mean = x.sum(axes, dtype=torch.float64) / max(count, 1)
        squares = (x.to(kind) - _per_channel(mean.to(kind), x)).square_().sum(axes, dtype=torch.float64)
        own = torch.cat([mean, squares, mean.new_full((1,), count)])
        everyone = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(everyone, own)
        mean, squares, total = _merge(torch.stack(everyone))
        variance = squares / total
        mean, variance, inverse = mean.to(kind), variance.to(kind), torch.rsqrt(variance + eps).to(kind)
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        ctx.save_for_backward(x, weight, mean, inverse, total)
        ctx.has_bias = bias is not None
        y = torch.addcmul(_per_channel(shift, x), x.to(kind), _per_channel(scale, x)).to(x.dtype)
        ctx.mark_non_differentiable(mean, variance, total)
        return y, mean, variance, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse, total = ctx.saved_tensors
        kind = mean.dtype
        axes = [0, *range(2, x.dim())]
        dy = gradients[0].to(kind)
        normalised = (x.to(kind) - _per_channel(mean, x)) * _per_channel(inverse, x)
        sums = torch.stack([dy.sum(axes, dtype=torch.float64), (dy * normalised).sum(axes, dtype=torch.float64)])
        # The affine gradients are those of the own rows: the average over processes is taken with all other gradients.
        grad_bias = sums[0].to(kind, copy=True) if ctx.has_bias else None
        grad_weight = sums[1].to(kind, copy=True) if weight is not None else None
        dx = None
        if ctx.needs_input_grad[0]:
            dist.all_reduce(sums)
            sums = (sums / total).to(kind)
            scale = inverse if weight is None else inverse * weight
            dx = dy - _per_channel(sums[0], x) - normalised * _per_channel(sums[1], x)
            dx = (dx * _per_channel(scale, x)).to(x.dtype)
        return dx, grad_weight, grad_bias, None


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Forward pass of the synchronised kinds; with one process, or in eval mode, that of `nn.BatchNorm*d`."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, ...] -> the same shape.

        Raises:
            ValueError: one value a channel over all processes, which has no variance.
        """
        self._check_input_dim(x)
        use_batch = self.training or self.running_mean is None
        if world_size() == 1 or not use_batch:
            return super().forward(x)
        y, mean, variance, total = _SynchronisedNorm.apply(x, self.weight, self.bias, self.eps)
        if self.training and self.track_running_stats:
            self._track(mean, variance, total)
        return y

    def _track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Moves the running statistics towards the batch's, whose variance is made unbiased by the global count."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            factor = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
            unbiased = (variance * (total / (total - 1))).to(self.running_var.dtype)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
            self.running_var.lerp_(unbiased, factor)


class SyncBatchNorm1d(SyncBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes."""


class SyncBatchNorm2d(SyncBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes."""


class SyncBatchNorm3d(SyncBatchNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` over all processes."""


_SYNCHRONISED: dict[type[nn.Module], type[SyncBatchNorm]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
}


def convert_sync_batchnorm(module: Module) -> Module:
    """Every `nn.BatchNorm*d` inside becomes its synchronised kind, with the same parameter and buffer objects.

    A subclass of these has a forward pass of its own and is left alone, with a warning.
    """
    kind = _SYNCHRONISED.get(type(module))
    if kind is not None:
        converted = kind.__new__(kind)
        converted.__dict__.update(module.__dict__)
        return converted  # type: ignore[return-value]
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SyncBatchNorm):
        logger.warning("sync_BN: %s is not one of nn.BatchNorm1d, 2d, 3d and stays as it is", type(module).__name__)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batchnorm(child))
    return module


def fix_batchnorm(module: nn.Module) -> None:
    """`fix_BN`: batch norm keeps its running statistics (eval mode); weight and bias are still trained."""
    for child in module.modules():
        if "BatchNorm" in type(child).__name__:
            child.eval()


def unsynchronised_batchnorm(module: nn.Module) -> list[str]:
    """Names of the batch norms that see only the own process's sequences in training."""
    return [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
        and child.training
        and not isinstance(child, SyncBatchNorm)
    ]
