"""The losses with every triplet written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distances(embeddings: Tensor) -> Tensor:
    """[n, c, p] -> Euclidean distances [p, n, n]."""
    x = embeddings.permute(2, 0, 1)
    squared = x.square().sum(2)
    return torch.sqrt(F.relu(squared[:, :, None] + squared[:, None, :] - 2 * x @ x.transpose(1, 2)))


def triplet_of_distances(distance: Tensor, labels: Tensor, margin: float = 0.2) -> tuple[Tensor, Tensor]:
    """[p, n, n] -> loss [p] and number of non-zero triplets [p], by way of all n positives x negatives x anchors.

    Classes of one size, as the sampler gives them.
    """
    same = labels[:, None] == labels[None, :]
    p, n, _ = distance.shape
    positive = distance[:, same].view(p, n, -1, 1)
    negative = distance[:, ~same].view(p, n, 1, -1)
    terms = F.relu(positive - negative + margin).view(p, -1)
    count = (terms > 0).sum(1)
    return terms.sum(1) / (count + 1e-9), count


def triplet(embeddings: Tensor, labels: Tensor, margin: float = 0.2) -> Tensor:
    """[n, c, p] -> loss [p]."""
    return triplet_of_distances(distances(embeddings), labels, margin)[0]


def cross_entropy(logits: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    """[n, k, p] -> loss [p], one part after the other, with labels as the recipes smooth them."""
    parts = range(logits.shape[2])
    return torch.stack([F.cross_entropy(scale * logits[:, :, p], labels, label_smoothing=0.1) for p in parts])
