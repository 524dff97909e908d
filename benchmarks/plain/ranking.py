"""Ranking as it is commonly written: whole matrices, and a Python loop over the probes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


def distances(probes: NDArray[np.float32], gallery: NDArray[np.float32]) -> Matrix:
    """[n, c, p] and [m, c, p] -> [n, m], part after part, by the expanded square."""
    x, y = torch.from_numpy(probes).permute(2, 0, 1), torch.from_numpy(gallery).permute(2, 0, 1)
    total = torch.zeros(x.shape[1], y.shape[1])
    for one, other in zip(x, y, strict=True):
        squared = one.square().sum(1)[:, None] + other.square().sum(1)[None] - 2 * one @ other.T
        total += torch.sqrt(torch.relu(squared))
    return (total / len(x)).numpy()


def measures(matrix: Matrix, probe_labels: list[str], gallery_labels: list[str]) -> tuple[float, float, float]:
    """Rank-1, mAP, mINP: everything sorted, labels gathered in that order, and one probe after the other."""
    order = np.argsort(matrix, axis=1)
    matches = np.array(gallery_labels)[order] == np.array(probe_labels)[:, None]
    hits, precisions, penalties = [], [], []
    for match in matches.astype(np.int32):
        if not match.any():
            continue
        found = match.cumsum()
        last = np.flatnonzero(match)[-1]
        penalties.append(found[last] / (last + 1.0))
        hits.append(match[0])
        precision = [so_far / (place + 1.0) for place, so_far in enumerate(found)]
        precisions.append((np.asarray(precision) * match).sum() / match.sum())
    return float(np.mean(hits)), float(np.mean(precisions)), float(np.mean(penalties))
