"""Supervised contrastive losses.

Source: Supervised Contrastive Learning (Khosla et al., NeurIPS 2020, arXiv 2004.11362).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from opengait.modeling.losses.base import BaseLoss
from opengait.modeling.modules.precision import full_precision, no_autocast


class SupConLoss_Re(BaseLoss):
    """Contrast of all views of all sequences, by dot products of vectors that the network has normalised.

    Every vector is an anchor; its positives are the other vectors of its label. The loss is the mean over anchors of
    -temperature / base_temperature * mean over positives of the log share of their similarity among all others.
    An anchor without positives gives 0.

    Args:
        temperature: what similarities are divided by.
        base_temperature: scale of the loss.
        loss_term_weight: factor of this loss in the total.
    """

    pairwise: ClassVar[bool] = True

    def __init__(
        self, temperature: float = 0.01, base_temperature: float = 0.07, loss_term_weight: float = 1.0
    ) -> None:
        super().__init__(loss_term_weight)
        self.temperature = temperature
        self.base_temperature = base_temperature

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """features [n, v, c] of v views, labels [n] -> a scalar.

        Raises:
            ValueError: shapes that do not fit.
        """
        if features.ndim != 3 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"expected features [n, v, c] and labels [n], found {list(features.shape)}, {list(labels.shape)}"
            )
        with no_autocast(features):
            vectors = full_precision(features).transpose(0, 1).flatten(0, 1)  # all first views, all second ones, ...
            similarities, labels = vectors @ vectors.T / self.temperature, labels.repeat(features.shape[1])
            terms = anchor_terms(similarities, labels, log_sum_of_others(similarities, labels))
            loss = self.temperature / self.base_temperature * terms.mean()
        return loss, {"loss": loss.detach()}


class SupConLoss_Lp(BaseLoss):
    """Contrast of sequences by the negative Euclidean distance of their normalised vectors; mean over terms above 0.

    As in the reference implementation an anchor does not count whose similarities to all others, as shares of that to
    itself, vanish in the precision at hand: in float32 one that is farther than about 103 temperatures from all others.

    Args:
        temperature: what distances are divided by.
        loss_term_weight: factor of this loss in the total.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.01, loss_term_weight: float = 1.0) -> None:
        super().__init__(loss_term_weight)
        self.temperature = temperature

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """features [n, c], labels [n] -> a scalar; 0 where no term is above 0.

        Raises:
            ValueError: shapes that do not fit.
        """
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"expected features [n, c] and labels [n], found {list(features.shape)}, {list(labels.shape)}"
            )
        with no_autocast(features):
            vectors = F.normalize(full_precision(features), dim=1)
            # Not by the expansion of the square: a small temperature would magnify the digits it loses.
            distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
            similarities = -distances / self.temperature  # that of oneself is the largest, 0
            exact = log_sum_of_others(similarities, labels)
            # Its value as a sum in this precision, which loses what vanishes; its gradient exact, and so finite.
            summed = similarities.exp().masked_fill(_oneself(labels), 0).sum(1)
            vanished = summed == 0
            log_others = exact + torch.where(vanished, 0, summed.log() - exact).detach()
            terms = anchor_terms(similarities, labels, log_others)
            counted = ~(terms <= 0) & ~vanished  # a term that is not finite counts, so that it shows
            loss = torch.where(counted, terms, 0).sum() / counted.sum().clamp(min=1)
        return loss, {"loss": loss.detach()}


def anchor_terms(similarities: Tensor, labels: Tensor, log_others: Tensor) -> Tensor:
    """Each anchor's -mean over its positives of log(exp s[i, j] / sum over k != i of exp s[i, k]).

    Args:
        similarities: [m, m], divided by the temperature.
        labels: [m].
        log_others: logarithms of the sums, [m].

    Returns:
        [m]; 0 for an anchor without positives.
    """
    oneself = _oneself(labels)
    positives = (labels[:, None] == labels[None, :]) & ~oneself
    log_shares = torch.where(positives, similarities - log_others[:, None], 0)
    return -log_shares.sum(1) / positives.sum(1).clamp(min=1)


def log_sum_of_others(similarities: Tensor, labels: Tensor) -> Tensor:
    """log of the sum over k != i of exp s[i, k]: [m, m] -> [m]."""
    return similarities.masked_fill(_oneself(labels), float("-inf")).logsumexp(1)


def _oneself(labels: Tensor) -> Tensor:
    """bool [m, m], true on the diagonal."""
    return torch.eye(len(labels), dtype=torch.bool, device=labels.device)
