"""A loss for larger variance between classes, after Generalized Inter-class Loss.

Source: Generalized Inter-class Loss for Gait Recognition (Yu et al., ACM MM 2022, arXiv 2210.06779). What is taken from
where, and what is not known, stands in the docstring of `InterClassLoss`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from opengait.modeling.losses.base import BaseLoss
from opengait.modeling.losses.triplet import TripletLoss, pairwise_distances
from opengait.modeling.modules.precision import full_precision, no_autocast


class InterClassLoss(BaseLoss):
    """Weighted triplets, a contrast of pairs, and (if asked for) evenly spread classes; feed it as `TripletLoss`.

    This is not the paper's loss equation by equation: those could not be verified. What the parts stand on:

    - The paper's aims: pairs of different classes get a weight of their own instead of an equal penalty, the margin
      between classes adjusts itself, and the classes' features spread evenly over a sphere.
    - Weighted triplets and contrast of pairs are those of the code its authors released, with its margin 0.2,
      temperature 0.1 and weights 1 and 1. Whether they are the paper's final form, or the form behind its published
      figures, is not known.
    - The uniformity term is a choice made here, off by default: the released code has none. It is the uniformity of
      Wang and Isola (Understanding Contrastive Representation Learning, ICML 2020), on the means of the classes.

    Args:
        margin: of the weighted triplets.
        temperature: of the contrast of pairs.
        contrast_weight: factor of the contrast of pairs; 0 leaves it out.
        uniformity_weight: factor of the uniformity term; 0 leaves it out.
        uniformity_scale: t of the uniformity term, the width of its Gaussian (larger is narrower).
        loss_term_weight: factor of this loss in the total.
    """

    pairwise: ClassVar[bool] = True

    def __init__(
        self,
        margin: float = 0.2,
        temperature: float = 0.1,
        contrast_weight: float = 1.0,
        uniformity_weight: float = 0.0,
        uniformity_scale: float = 2.0,
        loss_term_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_term_weight)
        self.margin = margin
        self.temperature = temperature
        self.contrast_weight = contrast_weight
        self.uniformity_weight = uniformity_weight
        self.uniformity_scale = uniformity_scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """embeddings [n, c, p], labels [n] -> loss [p].

        info, each [p]: `loss`, then `triplet_loss`, `hard_loss`, `loss_num`, `mean_dist` as in TripletLoss but of the
        weighted distances, and `contrast_loss`, `uniformity_loss` where they are used.

        Raises:
            ValueError: shapes that do not fit.
        """
        if embeddings.ndim != 3 or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"expected embeddings [n, c, p] and labels [n], found {list(embeddings.shape)}, {list(labels.shape)}"
            )
        with no_autocast(embeddings):
            parts = full_precision(embeddings).permute(2, 0, 1)
            loss, info = weighted_triplets(parts, labels, self.margin)
            info = {"loss": loss, "triplet_loss": info.pop("loss"), **info}
            if self.contrast_weight:
                contrast = pairwise_contrast(parts, labels, self.temperature)
                loss = loss + self.contrast_weight * contrast
                info["contrast_loss"] = contrast.detach()
            if self.uniformity_weight:
                uniformity = class_uniformity(parts, labels, self.uniformity_scale)
                loss = loss + self.uniformity_weight * uniformity
                info["uniformity_loss"] = uniformity.detach()
        info["loss"] = loss.detach()
        return loss, info


def weighted_triplets(x: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Batch-all triplets on distances that grow with the angle of their pair: [p, n, c], [n] -> [p] and info.

    A distance is multiplied by 1 + w / max(w) with w = 1.01 - (1 + cosine) / 2, the maximum over all pairs and parts,
    without gradient: pairs of one direction keep it, opposite ones have it doubled. So among pairs of different classes
    close ones count more, and the margin that is effective depends on the pair.
    """
    with torch.no_grad():
        unit = F.normalize(x, dim=-1)
        weight = 1.01 - (1 + unit @ unit.mT) / 2
        weight = 1 + weight / weight.max()
    return TripletLoss(margin).of_distances(pairwise_distances(x) * weight, labels)


def pairwise_contrast(x: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over all triplets of log(1 + exp((g[a, k] - g[a, b]) / temperature)), g the dot products: [p, n, c] -> [p].

    A triplet is an anchor a, a positive b of its label (a itself included) and a negative k of another. 0 where there
    is none.
    """
    return _PairwiseContrast.apply((x @ x.mT) / temperature, labels)


class _PairwiseContrast(torch.autograd.Function):
    """similarities [p, n, n], labels [n] -> [p]. Triplets are taken by shifts of the batch, n^2 at a time a part, so
    memory stays that of the similarities, where autograd would keep all n^3."""

    @staticmethod
    def forward(ctx: Any, similarities: Tensor, labels: Tensor) -> Tensor:
        n = len(labels)
        anchors = torch.arange(n, device=labels.device)
        same = labels[:, None] == labels[None, :]
        count = (same.sum(1) * (~same).sum(1)).sum().clamp(min=1)
        total = similarities.new_zeros(len(similarities), dtype=torch.float64)
        grad = torch.zeros_like(similarities)
        for shift in range(n):
            positives = (anchors + shift) % n
            is_triplet = (labels == labels[positives])[:, None] & ~same
            if labels.device.type == "cpu" and not bool(is_triplet.any()):
                continue
            difference = similarities - similarities[:, anchors, positives, None]
            total += torch.where(is_triplet, F.softplus(difference), 0).sum((1, 2), dtype=torch.float64)
            slope = torch.where(is_triplet, torch.sigmoid(difference), 0)
            grad += slope
            grad[:, anchors, positives] -= slope.sum(-1)
        ctx.save_for_backward(grad / count)
        return (total / count).to(similarities.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_loss[:, None, None], None


def class_uniformity(x: Tensor, labels: Tensor, scale: float) -> Tensor:
    """log of the mean, over all pairs of classes, of exp(-scale |f_i - f_j|^2): [p, n, c], labels [n] -> [p].

    f are the means of the classes, scaled to unit length. The further apart all classes are, the lower; 0 where there
    is only one.
    """
    same = (labels[:, None] == labels[None, :]).to(x.dtype)
    share = same / same.sum(1, keepdim=True)
    # Every sequence stands for its class, with a weight of one over the sequences of the class.
    means = F.normalize(share @ x, dim=-1)
    squared = (2 - 2 * means @ means.mT).clamp(min=0)
    per_class = 1 / same.sum(1)
    pairs = per_class[:, None] * per_class[None, :] * (1 - same)
    total = pairs.sum()
    mean = ((-scale * squared).exp() * pairs).sum((1, 2)) / total.clamp(min=1)
    return torch.where(total > 0, mean.clamp(min=torch.finfo(x.dtype).tiny).log(), 0 * mean)
