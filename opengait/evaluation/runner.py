"""From embeddings and names of sequences to the figures of a protocol."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opengait.evaluation.distances import Distances, check_metric
from opengait.evaluation.memory import DEFAULT_MEMORY
from opengait.evaluation.nearest import nearest
from opengait.evaluation.protocol import (
    TAG_PREFIX,
    SequenceNames,
    Submission,
    find_protocol,
    full_name,
    protocol_functions,
)
from opengait.evaluation.reranking import Reranked
from opengait.evaluation.retrieval import Figures, Retrieval, by_distance
from opengait.evaluation.segmentation import mean_iou
from opengait.evaluation.submissions import submission_text, write_submission
from opengait.evaluation.tables import Table

Embeddings = NDArray[np.generic] | torch.Tensor
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The outcome of one test.

    Attributes:
        figures: percent (`mIOU`: a fraction) by the reference implementation's tags, rounded where published ones are.
        exact: the same without rounding.
        tables: each measure by condition and probe view, rounded as `figures`.
        protocol: full name: data set, gallery, view rule, metric, re-ranked or not, official or not.
        probes, gallery: number of sequences by condition.
        notes: what was missing in the data and what became of it.
        submission: the file written, where the truth is hidden.
    """

    figures: dict[str, float]
    exact: dict[str, float]
    protocol: str
    tables: list[Table] = field(default_factory=list)
    probes: dict[str, int] = field(default_factory=dict)
    gallery: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    submission: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "protocol": self.protocol,
            "figures": self.figures,
            "exact": self.exact,
            "tables": [table.to_dict() for table in self.tables],
            "probes": self.probes,
            "gallery": self.gallery,
            "notes": self.notes,
            "submission": None if self.submission is None else str(self.submission),
        }

    def to_json(self) -> str:
        """Everything as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def eval_funcs() -> list[str]:
    """Names of the reference implementation's evaluation functions that `evaluate` takes."""
    return protocol_functions()


def evaluate(
    eval_func: str,
    embeddings: Embeddings | Mapping[str, Embeddings],
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    *,
    dataset: str | None = None,
    metric: str = "euc",
    cross_view_gallery: bool = False,
    probe_set: Collection[str] | None = None,
    gallery_set: Collection[str] | None = None,
    rerank: bool | None = None,
    out_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Figures in percent under the reference implementation's tags; see `run_protocol` for the arguments and errors.

    Functions that write a submission return its path under `submission`; `mIOU` is a fraction, as published.
    """
    evaluation = run_protocol(
        eval_func,
        embeddings,
        labels,
        types,
        views,
        dataset=dataset,
        metric=metric,
        cross_view_gallery=cross_view_gallery,
        probe_set=probe_set,
        gallery_set=gallery_set,
        rerank=rerank,
        out_dir=out_dir,
    )
    submission = {} if evaluation.submission is None else {"submission": str(evaluation.submission)}
    return {**evaluation.figures, **submission}


def run_protocol(
    eval_func: str,
    embeddings: Embeddings | Mapping[str, Embeddings],
    labels: Sequence[str],
    types: Sequence[str],
    views: Sequence[str],
    *,
    dataset: str | None = None,
    metric: str = "euc",
    cross_view_gallery: bool = False,
    probe_set: Collection[str] | None = None,
    gallery_set: Collection[str] | None = None,
    rerank: bool | None = None,
    remove_no_gallery: bool = False,
    out_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    memory: int = DEFAULT_MEMORY,
    protocol_file: str | Path | None = None,
) -> Evaluation:
    """Tests embeddings under a published protocol.

    Args:
        eval_func: one of `eval_funcs()`.
        embeddings: `[n, c, p]`, any float type, or a mapping that holds it under `embeddings`; for segmentation a
            mapping with `pred` and `mask`, `[n, ...]` images, which may be more than there are sequences, or with what
            `sequence_iou` makes of them.
        labels, types, views: subject, walking condition and view of each sequence.
        dataset: chooses the protocol; may be left out where `eval_func` serves one data set.
        metric: "euc" or "cos".
        cross_view_gallery: the cross-view protocol of the data set.
        probe_set, gallery_set: `label-type-view` names, for data sets that list them.
        rerank: k-reciprocal re-ranking; None: as the protocol says.
        remove_no_gallery: leave probes out, pair of views by pair of views, whose subject the gallery lacks; published
            figures count them as misses. The protocol's name says so.
        out_dir: folder of submission files; None: `GREW_result`, `HID_result` in the working directory.
        device: where distances are computed; None: CUDA if there is one.
        memory: bytes that may be taken beyond the embeddings.
        protocol_file: a protocol file of one's own (see `find_protocol`).

    Raises:
        ValueError: unknown function, data set or metric; lengths that disagree; embeddings that are not finite; no
            probe or no gallery; a list that the protocol needs and did not get.
    """
    check_metric(metric)
    title, protocol = find_protocol(eval_func, dataset, cross_view_gallery, protocol_file)
    if rerank and not protocol.rerank:
        raise ValueError(f"{eval_func} takes no re-ranking: its published figures are not re-ranked; leave rerank out")
    rerank = protocol.rerank if rerank is None else rerank
    name = full_name(title, protocol, metric, rerank)
    if remove_no_gallery:
        protocol = protocol.model_copy(update={"without_positive": "skip"})
        name = f"{name}; probes without gallery left out"
    if protocol.compares_masks:
        value = {TAG_PREFIX + str(figure.tag): mean_iou(embeddings) for figure in protocol.figures}
        return Evaluation(figures=value, exact=dict(value), protocol=name)
    names = SequenceNames.of(labels, types, views, probe_set, gallery_set)
    embeddings = _only_embeddings(embeddings)
    if embeddings.ndim == 0 or len(embeddings) != len(names.labels):
        raise ValueError(
            f"embeddings of shape {list(embeddings.shape)} for {len(names.labels)} labels; expected [n, c, p]"
        )
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    distances = Distances(embeddings, metric, device=device, memory=memory)
    retrieval = Retrieval(protocol, names)
    if protocol.submission is not None:
        found, path = (
            Figures(notes=retrieval.notes),
            _submit(protocol.submission, retrieval, distances, rerank, out_dir),
        )
    else:
        found, path = retrieval.figures(by_distance(distances)), None
    for note in found.notes:
        log.warning("%s: %s", title, note)
    return Evaluation(
        figures=found.published,
        exact=found.exact,
        protocol=name,
        tables=found.tables,
        probes={condition: len(probes) for condition, probes in retrieval.probes.items()},
        gallery={condition: len(gallery) for condition, gallery in retrieval.galleries.items()},
        notes=found.notes,
        submission=path,
    )


def _only_embeddings(features: Embeddings | Mapping[str, Embeddings]) -> Embeddings:
    if isinstance(features, Mapping):
        if "embeddings" not in features:
            raise ValueError(f"no 'embeddings' among the inference features; found: {', '.join(sorted(features))}")
        features = features["embeddings"]
    return features if isinstance(features, torch.Tensor) else np.asarray(features)


def _submit(
    submission: Submission, retrieval: Retrieval, distances: Distances, rerank: bool, out_dir: str | Path | None
) -> Path:
    """Ranks the gallery for each probe and writes the file."""
    ((_, task),) = retrieval.tasks()
    source = Reranked(distances, task.probes, task.gallery) if rerank else distances
    names, ranks = retrieval.names, len(submission.header) - 1
    found = ((rows, columns) for rows, columns, _ in nearest(source, task.probes, task.gallery, ranks))
    text = submission_text(submission, names.views[task.probes], names.labels[task.gallery], found)
    if len(task.gallery) < ranks:
        retrieval.notes.append(
            f"the gallery has {len(task.gallery)} sequences and a full file {ranks} ranks: cut short"
        )
    return write_submission(text, Path(submission.folder if out_dir is None else out_dir))
