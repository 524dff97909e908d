"""Cross entropy of a classifier whose classes are spread over the processes: the value and gradients of the whole one.

Every process computes the logits of its own classes for the sequences of all. What is sent are features and three
numbers a row, never logits or weights.

Source: Partial FC (An et al., ICCV-W 2021, arXiv 2010.05222), without its sampling of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from opengait.engine.distributed import GatheredLoss, gather_rows, rank, world_size
from opengait.modeling.losses.cross_entropy import CrossEntropyLoss, check_labels
from opengait.modeling.modules.heads import ShardedLogits
from opengait.modeling.modules.precision import no_autocast


def takes_shards(loss: Callable[..., Any]) -> bool:
    """Whether a loss class is fed by a classifier that is spread over processes."""
    return getattr(loss, "forward", None) is CrossEntropyLoss.forward


class ShardedLoss(GatheredLoss):
    """A loss over all processes, also where its logits are those of a classifier spread over them.

    Its value is that of the whole batch then, and so is `info`.
    """

    def __call__(self, **arguments: Any) -> tuple[Tensor, Any]:
        if not any(isinstance(value, ShardedLogits) for value in arguments.values()):
            return super().__call__(**arguments)
        if not takes_shards(type(self.loss)) or arguments.keys() != {"logits", "labels"}:
            raise ValueError(
                f"{type(self.loss).__name__} is fed the logits of a classifier whose classes are spread over processes "
                "(trainer_cfg.shard_classes), which CrossEntropyLoss alone takes, as logits beside labels; "
                "set shard_classes: false"
            )
        logits, labels = arguments["logits"], arguments["labels"]
        (shares,) = self._shares([len(logits.features)])
        return _sharded_cross_entropy(self.loss, logits, labels, shares)  # type: ignore[arg-type]


def _sharded_cross_entropy(
    loss: CrossEntropyLoss, logits: ShardedLogits, labels: Tensor, shares: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `loss` gives for the logits of all classes and the sequences of all processes."""
    if labels.shape != logits.features.shape[:1]:
        raise ValueError(
            f"expected logits [n, k, p] and labels [n], found {list(logits.features.shape)} before the classifier, "
            f"{list(labels.shape)}"
        )
    labels = gather_rows(labels.long(), shares)
    check_labels(labels, logits.classes)
    with no_autocast(labels):
        value, right = _CrossEntropy.apply(logits.features, logits.weight, labels, logits, loss, shares)
    info = {"loss": value.detach()}
    if right is not None:
        info["accuracy"] = right
    return value, info


class _CrossEntropy(torch.autograd.Function):
    """(features [n, c, p] of the own sequences, weight [p, c, k'] of the own classes, labels of all sequences [m])
    -> mean cross entropy [] of all sequences and classes, share of right classes [] or None.

    The gradient of the features is multiplied by the number of processes, since it is averaged over them later on;
    that of the weight is whole already.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        logits: ShardedLogits,
        loss: CrossEntropyLoss,
        shares: Sequence[int],
    ) -> tuple[Tensor, Tensor | None]:
        everyone = gather_rows(features, shares).permute(2, 0, 1).contiguous()  # [p, m, c]
        own_classes = torch.arange(logits.begin, logits.begin + weight.shape[2], device=labels.device)
        target = (labels[:, None] == own_classes).to(weight.dtype)  # [m, k']
        target = target.mul_(1 - loss.smoothing).add_(loss.smoothing / logits.classes)

        scores = torch.bmm(everyone, weight)  # [p, m, k']
        right = _accuracy(scores, labels, logits) if loss.log_accuracy else None
        scores.mul_(loss.scale)
        highest = scores.amax(2)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        scores.sub_(highest[..., None])
        # The target's classes add up to one, so what was subtracted here and below cancels out.
        expected = (scores * target).sum(2)
        sums = torch.stack([scores.exp_().sum(2), expected])  # [2, p, m]
        dist.all_reduce(sums)
        value = (sums[0].log() - sums[1]).mean()

        # In place: this is the one large tensor, of the size that logits of a whole classifier have.
        residual = scores.div_(sums[0, ..., None]).sub_(target)
        ctx.save_for_backward(everyone, weight, residual)
        ctx.factor = loss.scale / highest.numel()
        ctx.shares = list(shares)
        if right is not None:
            ctx.mark_non_differentiable(right)
        return value, right

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        everyone, weight, residual = ctx.saved_tensors  # [p, m, c], [p, c, k'], [p, m, k']
        factor = gradients[0] * ctx.factor
        of_features = of_weight = None
        if ctx.needs_input_grad[0]:
            of_everyone = torch.bmm(residual, weight.transpose(1, 2))
            dist.all_reduce(of_everyone)
            of_own = of_everyone.split(ctx.shares, dim=1)[rank()]
            of_features = of_own.permute(1, 2, 0) * (factor * world_size())
        if ctx.needs_input_grad[1]:
            of_weight = torch.bmm((everyone * factor).transpose(1, 2), residual)
        return of_features, of_weight, None, None, None, None


def _accuracy(scores: Tensor, labels: Tensor, logits: ShardedLogits) -> Tensor:
    """Share of sequences and parts whose label has the highest of all scores; of equal ones the first class counts."""
    best, place = scores.max(2)  # [p, m]
    best_of_all = best.clone()
    dist.all_reduce(best_of_all, dist.ReduceOp.MAX)
    found = torch.where(best == best_of_all, place + logits.begin, logits.classes)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return (found == labels).to(scores.dtype).mean()
