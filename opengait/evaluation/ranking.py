"""Where a probe's own gallery sequences stand in its ranking, counted and not sorted.

For every positive (gallery sequence of the probe's subject) the wrong sequences that are not farther are counted: that
and the number of nearer positives is its position. A wrong sequence at the same distance counts as before the positive,
so a network that maps everyone to one point scores 0 and not 100 %.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opengait.evaluation.distances import Distances

# What `rank` holds for each pair of a chunk: the distance, two masks, a masked copy, bin numbers twice (int32, int64).
BYTES_PER_PAIR = 24


@dataclass(frozen=True)
class Ranking:
    """One value for each probe and gallery segment, `[n_probes, n_segments]` each.

    Attributes:
        first: position of the nearest positive, from 1; 0 where there is none.
        average_precision: mean over positives of (positives so far) / position; NaN where there is no positive.
        inverse_negative_penalty: positives / position of the last positive; NaN where there is no positive.
        positives, candidates: how many positives, and sequences in all, were ranked.
    """

    first: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    positives: NDArray[np.int64]
    candidates: NDArray[np.int64]

    def measure(self, name: str) -> NDArray[np.float64]:
        """Rank-k (1 for a hit, 0 for a miss), mAP or mINP of each probe, 0 to 1; NaN where it is not defined."""
        if name == "mAP":
            return self.average_precision
        if name == "mINP":
            return self.inverse_negative_penalty
        return ((self.first > 0) & (self.first <= int(name.removeprefix("Rank-")))).astype(np.float64)


def positions_of_positives(
    distances: Tensor, positive: Tensor, valid: Tensor | None = None, *, nearest_only: bool = False
) -> Tensor:
    """Positions, from 1, of the positives in the ranking of each row, ascending and padded with 0: `[rows, r]` int64.

    Args:
        distances: `[rows, g]`.
        positive: bool `[rows, g]`, the gallery sequences that are right answers.
        valid: bool `[rows, g]`, False where a gallery sequence takes no part; None: all take part.
        nearest_only: count for the nearest positive of each row alone, which is cheaper.
    """
    if valid is not None:
        positive = positive & valid
    wrong = ~positive if valid is None else valid & ~positive
    rivals = distances.masked_fill(~wrong, torch.inf)
    if nearest_only:
        own = distances.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    else:
        own = _sorted_positives(distances, positive)
    width = own.shape[1]
    if width == 1:
        before = (rivals <= own).sum(dim=1, keepdim=True)
    else:
        # A rival falls before the first positive that is not nearer than itself, and so before all later ones.
        bins = torch.searchsorted(own, rivals, out_int32=True).to(torch.int64)
        bins += torch.arange(len(own), device=own.device)[:, None] * (width + 1)
        counts = torch.bincount(bins.flatten(), minlength=len(own) * (width + 1))
        before = counts.view(len(own), width + 1)[:, :width].cumsum(dim=1)
    nearer = torch.arange(1, width + 1, device=own.device)
    return torch.where(torch.isinf(own), 0, before + nearer)


def _sorted_positives(distances: Tensor, positive: Tensor) -> Tensor:
    """Distances of the positives of each row, ascending, padded with infinity: `[rows, r]`, r at least 1."""
    counts = positive.sum(dim=1)
    row, column = torch.nonzero(positive, as_tuple=True)
    width = max(1, int(counts.max()) if len(counts) else 0)
    own = distances.new_full((len(distances), width), torch.inf)
    own[row, torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]] = distances[row, column]
    return own.sort(dim=1).values


def rank(
    distances: Distances,
    probes: NDArray[np.int64],
    gallery: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    segments: NDArray[np.int64] | None = None,
    exclusion: NDArray[np.int64] | None = None,
    nearest_only: bool = False,
) -> Ranking:
    """Ranks the gallery for each probe, each segment of the gallery by itself.

    Args:
        probes, gallery: indices of sequences.
        labels: a number for each subject, for every sequence of the embeddings.
        segments: a number from 0 for each gallery sequence, `[n_gallery]`; sequences of one number form a gallery of
            their own (one view, say). None: one gallery.
        exclusion: a number for every sequence of the embeddings; a gallery sequence with the probe's number takes no
            part (same subject from the same view, say).
        nearest_only: fill `first` alone; the other two measures stay NaN.
    """
    segments = np.zeros(len(gallery), dtype=np.int64) if segments is None else segments
    order = np.argsort(segments, kind="stable")
    gallery, segments = gallery[order], segments[order]
    edges = np.searchsorted(segments, np.arange(int(segments.max(initial=0)) + 2))
    positives, candidates = count_candidates(probes, gallery, labels, segments, exclusion)
    first = np.zeros(positives.shape, dtype=np.int64)
    precision, penalty = np.full(positives.shape, np.nan), np.full(positives.shape, np.nan)

    device = distances.device
    gallery_labels = torch.as_tensor(labels[gallery], device=device)
    gallery_keys = None if exclusion is None else torch.as_tensor(exclusion[gallery], device=device)
    for rows, chunk in distances.rows(probes, gallery, bytes_per_pair=BYTES_PER_PAIR):
        positive = torch.as_tensor(labels[probes[rows]], device=device)[:, None].eq(gallery_labels)
        valid: Tensor | None = None
        if exclusion is not None and gallery_keys is not None:
            valid = torch.as_tensor(exclusion[probes[rows]], device=device)[:, None].ne(gallery_keys)
        for segment, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
            if start == stop:
                continue
            positions = positions_of_positives(
                chunk[:, start:stop],
                positive[:, start:stop],
                None if valid is None else valid[:, start:stop],
                nearest_only=nearest_only,
            )
            first[rows, segment] = positions[:, 0].cpu().numpy()
            if not nearest_only:
                precision[rows, segment], penalty[rows, segment] = _precision_and_penalty(positions.cpu().numpy())
    return Ranking(first, precision, penalty, positives, candidates)


def _precision_and_penalty(positions: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and inverse negative penalty of each row of positions (0: padding); NaN for rows without."""
    found = positions > 0
    counts = found.sum(axis=1)
    some = np.maximum(counts, 1)
    so_far = np.arange(1, positions.shape[1] + 1)
    precision = np.where(found, so_far / np.maximum(positions, 1), 0.0).sum(axis=1) / some
    penalty = counts / np.maximum(positions.max(axis=1), 1)
    return np.where(counts > 0, precision, np.nan), np.where(counts > 0, penalty, np.nan)


def count_candidates(
    probes: NDArray[np.int64],
    gallery: NDArray[np.int64],
    labels: NDArray[np.int64],
    segments: NDArray[np.int64],
    exclusion: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives and sequences in all that each probe meets in each segment, `[n_probes, n_segments]`; no distances."""
    segment_num = int(segments.max(initial=0)) + 1
    positives = _tally(labels, gallery, segments, segment_num)[labels[probes]]
    candidates = np.broadcast_to(np.bincount(segments, minlength=segment_num), positives.shape)
    if exclusion is None:
        return positives, candidates
    excluded = _tally(exclusion, gallery, segments, segment_num)[exclusion[probes]]
    both = np.unique(np.stack([labels, exclusion], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    excluded_positives = _tally(both, gallery, segments, segment_num)[both[probes]]
    return positives - excluded_positives, candidates - excluded


def _tally(
    keys: NDArray[np.int64], gallery: NDArray[np.int64], segments: NDArray[np.int64], segment_num: int
) -> NDArray[np.int64]:
    """How often each key occurs in each segment of the gallery: `[n_keys, n_segments]`."""
    counts = np.zeros((int(keys.max(initial=0)) + 1, segment_num), dtype=np.int64)
    np.add.at(counts, (keys[gallery], segments), 1)
    return counts


def rank_k(first: NDArray[np.int64], ks: Sequence[int] | int) -> NDArray[np.float64]:
    """Share of probes with a positive among the nearest k, one value for each k; a probe without positive is a miss.

    Raises:
        ValueError: no probe.
    """
    if first.size == 0:
        raise ValueError("no probe to rank; expected at least one")
    return np.array([((first > 0) & (first <= k)).mean() for k in np.atleast_1d(ks)])


def cmc(first: NDArray[np.int64], length: int = 50) -> NDArray[np.float64]:
    """Cumulative match characteristic: Rank-k for k = 1..length, `[length]`."""
    return rank_k(first, range(1, length + 1))
