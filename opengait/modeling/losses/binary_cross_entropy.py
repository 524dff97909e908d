"""Binary cross entropy of foreground probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from opengait.modeling.losses.base import BaseLoss
from opengait.modeling.modules.precision import full_precision, no_autocast


class BinaryCrossEntropyLoss(BaseLoss):
    """Mean over all pixels of -(y log(q + eps) + (1 - y) log(1 - q + eps)), q a probability.

    Args:
        loss_term_weight: factor of this loss in the total.
        eps: added to the probability inside the logarithm.
    """

    def __init__(self, loss_term_weight: float = 1.0, eps: float = 1.0e-9) -> None:
        super().__init__(loss_term_weight)
        self.eps = eps

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """logits (the field's name; probabilities in [0, 1]) and labels in [0, 1], both [n, 1, h, w] -> a scalar.

        info: `loss`, `hard_loss` (largest term of a pixel), `miou` [n] (intersection over union of each image).

        Raises:
            ValueError: shapes that differ.
        """
        if logits.shape != labels.shape:
            raise ValueError(
                f"expected logits and labels of one shape, found {list(logits.shape)}, {list(labels.shape)}"
            )
        with no_autocast(logits):
            probability, labels = full_precision(logits), full_precision(labels)
            positive = labels * torch.log(probability + self.eps)
            negative = (1 - labels) * torch.log(1 - probability + self.eps)
            terms = -(positive + negative)
            loss = terms.mean()
        info = {
            "loss": loss.detach(),
            "hard_loss": terms.detach().max(),
            "miou": intersection_over_union(probability.detach() > 0.5, labels),
        }
        return loss, info


def intersection_over_union(predicted: Tensor, labels: Tensor, eps: float = 1.0e-9) -> Tensor:
    """bool [n, ...] and labels in [0, 1] [n, ...] -> [n]; 0 where both are empty."""
    predicted = predicted.to(labels.dtype)
    intersection = (predicted * labels).flatten(1).sum(1)
    union = ((predicted + labels) > 0).flatten(1).sum(1)
    return intersection / (union + eps)
