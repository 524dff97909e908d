"""What a figure has to be held against: chance, and nearest neighbours on gait energy images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opengait.evaluation.protocol import find_protocol
from opengait.evaluation.ranking import count_candidates
from opengait.evaluation.result import Evaluation
from opengait.evaluation.retrieval import FloatArray, IntArray, Retrieval, Task
from opengait.evaluation.selection import SequenceNames


def gait_energy_images(sequences: Iterable[NDArray[np.generic] | Sequence[NDArray[np.generic]]]) -> NDArray[np.float32]:
    """The mean silhouette of each sequence, as embeddings `[n, h * w, 1]` to be compared by "euc".

    Source: Han and Bhanu, "Individual recognition using gait energy image", TPAMI 2006.

    Args:
        sequences: frames `[s, h, w]` of each (or a list of `[h, w]`), uint8 0..255, all sequences of one frame size.

    Raises:
        ValueError: no sequence, a sequence without frames, or frames of different size.
    """
    images: list[NDArray[np.float32]] = []
    for i, frames in enumerate(sequences):
        stacked = np.asarray(frames)
        if stacked.ndim != 3 or len(stacked) == 0:
            raise ValueError(
                f"sequence {i} has shape {list(stacked.shape)}; expected [s, h, w] with at least one frame"
            )
        if images and stacked[0].size != images[0].size:
            raise ValueError(f"frames of sequence {i} hold {stacked[0].size} pixels, those before {images[0].size}")
        images.append(stacked.mean(axis=0, dtype=np.float64).astype(np.float32).reshape(-1, 1) / np.float32(255))
    if not images:
        raise ValueError("no sequence; expected at least one")
    return np.stack(images)


def chance(
    eval_func: str,
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    *,
    dataset: str | None = None,
    cross_view_gallery: bool = False,
    probe_set: Collection[str] | None = None,
    gallery_set: Collection[str] | None = None,
) -> Evaluation:
    """The figures that a random ranking is expected to give under a protocol; computed, not drawn.

    Raises:
        ValueError: as `run_protocol`, and for a protocol without a ranking to be right or wrong.
    """
    title, protocol = find_protocol(eval_func, dataset, cross_view_gallery)
    if protocol.submission is not None or not protocol.conditions:
        raise ValueError(f"{eval_func} ranks nothing whose truth is known, so chance is not defined for it")
    retrieval = Retrieval(protocol, SequenceNames.of(labels, types, views, probe_set, gallery_set))
    found = retrieval.figures(_by_chance)
    return Evaluation(
        figures=found.published,
        exact=found.exact,
        protocol=f"{title}; {protocol.name}; expected figures of a random ranking",
        tables=found.tables,
        probes={condition: len(probes) for condition, probes in retrieval.probes.items()},
        gallery={condition: len(gallery) for condition, gallery in retrieval.galleries.items()},
        notes=found.notes,
    )


@dataclass(frozen=True)
class _RandomRanking:
    """All orders of the gallery equally likely; `positives` among `candidates`, `[n_probes, n_segments]`."""

    positives: IntArray
    candidates: IntArray

    def measure(self, name: str) -> FloatArray:
        pairs, where = np.unique(
            np.stack([self.positives, self.candidates], axis=-1).reshape(-1, 2), axis=0, return_inverse=True
        )
        values = np.array([_expected(name, int(positives), int(candidates)) for positives, candidates in pairs])
        return values[where.reshape(-1)].reshape(self.positives.shape)


def _by_chance(task: Task) -> _RandomRanking:
    segments = np.zeros(len(task.gallery), dtype=np.int64) if task.segments is None else task.segments
    return _RandomRanking(*count_candidates(task.probes, task.gallery, task.labels, segments, task.exclusion))


def _expected(name: str, positives: int, candidates: int) -> float:
    """Expectation of a measure for so many positives among so many candidates."""
    if positives == 0:
        return 0.0 if name.startswith("Rank-") else float("nan")
    if name.startswith("Rank-"):
        tries = np.arange(min(int(name.removeprefix("Rank-")), candidates))
        return 1.0 - float(np.prod(np.maximum(candidates - positives - tries, 0) / (candidates - tries)))
    if name == "mAP":
        # At position m there is a positive with chance R/N, with (m-1)(R-1)/(N-1) others before it on average.
        position = np.arange(1, candidates + 1)
        others = (position - 1) * (positives - 1) / max(candidates - 1, 1)
        return float(((1 + others) / position).mean())
    # The last positive is at N with chance R/N; at m - 1 it is (m-R)/(m-1) times as likely as at m.
    position = np.arange(candidates, positives - 1, -1)
    likely = (
        positives
        / candidates
        * np.cumprod(np.concatenate([[1.0], (position[:-1] - positives) / np.maximum(position[:-1] - 1, 1)]))
    )
    return float((likely * positives / position).sum())
