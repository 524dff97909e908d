"""Batch-all triplet loss, without forming the triplets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from opengait.modeling.losses.base import BaseLoss
from opengait.modeling.modules.precision import full_precision, no_autocast


class TripletLoss(BaseLoss):
    """Batch-all triplet loss of each part, mean over its non-zero triplets.

    A triplet is an anchor a, a positive b of the same label (a itself included) and a negative k of another; its term
    is max(d[a, b] - d[a, k] + margin, 0) with Euclidean d. All of them count, in groups of any size. They are not
    formed: each anchor's k limits, the distances of its positives plus the margin, are sorted, and one binary search
    for each negative finds how many of them it lies below. Those counts give the number of terms, their sum (in double
    precision) and the gradient. Time n^2 log k and memory n^2 a part, instead of n^2 k; exact, with the exact gradient.

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
    """distances [p, n, n], labels [n] -> loss, largest term, number of non-zero triplets; each [p].

    The gradient is found on the way, while what it needs is at hand: it is as large as the distances, and that would be
    many times larger. A few parts are done at a time, for the same reason and for the caches.
    """

    @staticmethod
    def forward(ctx: Any, distances: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
        same = labels[:, None] == labels[None, :]
        members = _members(same)
        is_member = same.gather(1, members)
        needed = ctx.needs_input_grad[0]
        gradient = torch.empty_like(distances) if needed else distances.new_empty(0)
        results = []
        for first, part in _in_portions(distances):
            *result, slope = _of_parts(part, same, members, is_member, margin, needed)
            results.append(result)
            if slope is not None:
                gradient[first : first + len(part)] = slope
        loss, hard_loss, count = (torch.cat(values) for values in zip(*results, strict=True))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hard_loss, count)
        return loss, hard_loss, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss[:, None, None], None, None


def _in_portions(distances: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Runs of parts that fit the caches of a CPU, or that are worth a GPU's while, with the place of the first."""
    size = (1 << 17) if distances.device.type == "cpu" else (1 << 25)
    portion = max(1, size // max(1, distances[0].numel()))
    for first in range(0, len(distances), portion):
        yield first, distances[first : first + portion]


def _of_parts(
    distances: Tensor, same: Tensor, members: Tensor, is_member: Tensor, margin: float, needed: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """[p, n, n] -> loss, largest term and number of non-zero triplets, each [p], and the loss's gradient [p, n, n].

    k is the size of the largest class; a smaller one has limits of minus infinity, which nothing is below.
    """
    members = members.expand(len(distances), -1, -1)
    limits = (distances.gather(2, members) + margin).masked_fill_(~is_member, float("-inf"))
    limits, order = limits.sort(-1)
    negatives = distances.masked_fill(same, float("inf"))
    hard_loss = (limits[..., -1] - negatives.amin(-1)).amax(1).clamp(min=0)

    # missed[., a, j]: how many limits of anchor a its negative j is not below; all k for those of its own label.
    missed = torch.searchsorted(limits, negatives, right=True)
    k = limits.shape[-1]
    reached_by = (k - missed).to(distances.dtype)
    # within[., a, b]: how many negatives are below the b-th limit of anchor a.
    ends = limits.new_zeros(*limits.shape[:2], k + 1).scatter_add_(2, missed, torch.ones_like(negatives))
    within = ends[..., :k].cumsum(-1)
    count = within.sum((1, 2), dtype=torch.float64)
    total = (within.double() * limits.masked_fill_(limits == float("-inf"), 0)).sum((1, 2))
    total -= (reached_by.double() * distances).sum((1, 2))
    loss = (total / (count + 1e-9)).to(distances.dtype)
    count = count.to(distances.dtype)
    if not needed:
        return loss, hard_loss, count, None

    # A positive distance appears in as many non-zero triplets as it has negatives within its margin, a negative one in
    # as many as there are positives that reach it.
    slope = reached_by.neg_().scatter_add_(2, members.gather(2, order), within)
    return loss, hard_loss, count, slope.div_((count + 1e-9)[:, None, None])


def _members(same: Tensor) -> Tensor:
    """For each anchor the sequences of its label, in front; [n, size of the largest class], bool [n, n] given."""
    # On a GPU the size would have to be waited for; there all n columns are kept, and the caller's mask decides.
    largest = int(same.sum(1).max()) if same.device.type == "cpu" and len(same) else len(same)
    return same.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :largest]
