"""Batch-all triplet loss, without forming the triplets."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from opengait.modeling.losses.base import BaseLoss
from opengait.modeling.modules.precision import full_precision, no_autocast


class TripletLoss(BaseLoss):
    """Batch-all triplet loss of each part, mean over its non-zero triplets.

    A triplet is an anchor a, a positive b of the same label (a itself included) and a negative k of another; its term
    is max(d[a, b] - d[a, k] + margin, 0) with Euclidean d. All of them count, in groups of any size. They are not
    formed: each anchor's negatives are sorted once, then one binary search for each positive finds how many negatives
    lie within its margin, and prefix sums (in double precision) give the sum of those terms. Time n^2 log n and
    memory n^2 a part, instead of n^3; exact, with the exact gradient.

    Source: In Defense of the Triplet Loss (Hermans et al., 2017, arXiv 1703.07737), per part as in GaitSet.

    Args:
        margin: how much farther than a positive a negative has to be.
        loss_term_weight: factor of this loss in the total.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, margin: float, loss_term_weight: float = 1.0) -> None:
        super().__init__(loss_term_weight)
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """embeddings [n, c, p], labels [n] -> loss [p]; 0 for a part without non-zero triplets.

        info, each [p]: `loss`, `hard_loss` (largest term), `loss_num` (non-zero triplets), `mean_dist` (mean distance
        of all n^2 pairs).

        Raises:
            ValueError: shapes that do not fit.
        """
        if embeddings.ndim != 3 or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"expected embeddings [n, c, p] and labels [n], found {list(embeddings.shape)}, {list(labels.shape)}"
            )
        with no_autocast(embeddings):
            return self.of_distances(pairwise_distances(full_precision(embeddings).permute(2, 0, 1)), labels)

    def of_distances(self, distances: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """distances [p, n, n], labels [n] -> as `forward`."""
        with no_autocast(distances):
            loss, hard_loss, loss_num = _BatchAll.apply(distances, labels, self.margin)
        mean_dist = distances.detach().mean((1, 2))
        loss = loss + 0 * mean_dist  # a NaN or an infinity may hide where sorting puts it; it has to be seen
        info = {"loss": loss.detach(), "hard_loss": hard_loss, "loss_num": loss_num, "mean_dist": mean_dist}
        return loss, info


def pairwise_distances(x: Tensor) -> Tensor:
    """Euclidean distances of all pairs: [p, n, c] -> [p, n, n]. Where a distance is 0, so is its gradient."""
    return _PairwiseDistances.apply(x)


class _PairwiseDistances(torch.autograd.Function):
    """|x_i|^2 + |x_j|^2 - 2 x_i.x_j, on embeddings moved to their mean, where the expansion loses fewer digits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()  # one copy at most; none for embeddings that come from a per-part head
        x = x - x.mean(1, keepdim=True)
        norms = x.square().sum(-1)
        squared = torch.baddbmm(norms[:, :, None] + norms[:, None, :], x, x.mT, alpha=-2)
        distances = squared.clamp_(min=0).sqrt_()
        distances.diagonal(dim1=1, dim2=2).zero_()
        ctx.save_for_backward(x, distances)
        return distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, distances = ctx.saved_tensors
        weight = torch.where(distances > 0, grad / distances, 0)
        weight = weight + weight.mT
        return weight.sum(-1, keepdim=True) * x - torch.bmm(weight, x)


class _BatchAll(torch.autograd.Function):
    """distances [p, n, n], labels [n] -> loss, largest term, number of non-zero triplets; each [p]."""

    @staticmethod
    def forward(ctx: Any, distances: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
        same = labels[:, None] == labels[None, :]
        members = _members(same)
        is_member = same.gather(1, members)
        members = members.expand(len(distances), -1, -1)

        negatives, order = distances.masked_fill(same, float("inf")).sort(-1)
        limits = (distances.gather(2, members) + margin).masked_fill_(~is_member, float("-inf"))
        # within[., a, b]: how many negatives of anchor a are nearer than its positive b plus the margin.
        within = torch.searchsorted(negatives, limits)
        sums = negatives.masked_fill(negatives == float("inf"), 0).cumsum(-1, dtype=torch.float64)
        below = F.pad(sums, (1, 0)).gather(2, within)
        total = (within * limits.masked_fill(~is_member, 0).double() - below).sum((1, 2))
        count = within.sum((1, 2)).to(distances.dtype)
        loss = (total / (count.double() + 1e-9)).to(distances.dtype)
        hard_loss = (limits - negatives[..., :1]).amax((1, 2)).clamp(min=0)

        ctx.save_for_backward(order, members, is_member, within, count)
        ctx.mark_non_differentiable(hard_loss, count)
        return loss, hard_loss, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        order, members, is_member, within, count = ctx.saved_tensors
        p, n, _ = order.shape
        # A positive distance appears in as many non-zero triplets as it has negatives within its margin; the j-th
        # nearest negative in as many as there are positives with more than j negatives within theirs.
        ends = grad_loss.new_zeros(p, n, n + 1).scatter_add_(2, within, is_member.to(grad_loss.dtype).expand(p, -1, -1))
        reached_by = is_member.sum(1).to(grad_loss.dtype)[:, None] - ends.cumsum(-1)[..., :-1]
        grad = torch.zeros_like(reached_by).scatter_(2, order, -reached_by)
        grad.scatter_add_(2, members, within.to(grad.dtype))
        return grad * (grad_loss / (count + 1e-9))[:, None, None], None, None


def _members(same: Tensor) -> Tensor:
    """For each anchor the sequences of its label, in front; [n, size of the largest class], bool [n, n] given."""
    # On a GPU the size would have to be waited for; there all n columns are kept, and the caller's mask decides.
    largest = int(same.sum(1).max()) if same.device.type == "cpu" and len(same) else len(same)
    return same.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :largest]
