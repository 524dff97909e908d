"""From embeddings and names of sequences to the figures of a protocol."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opengait.evaluation.classification import classification
from opengait.evaluation.distances import Distances, check_metric
from opengait.evaluation.exchange import ALONE, Exchange
from opengait.evaluation.memory import DEFAULT_MEMORY
from opengait.evaluation.nearest import nearest
from opengait.evaluation.protocol import Protocol, Submission, find_protocol, full_name, protocol_functions
from opengait.evaluation.reranking import Reranked
from opengait.evaluation.result import Evaluation, FiguresBeside
from opengait.evaluation.retrieval import Ranked, Ranker, Retrieval, Task, by_distance
from opengait.evaluation.segmentation import mean_iou
from opengait.evaluation.selection import SequenceNames, Strings
from opengait.evaluation.submissions import submission_text, write_submission
from opengait.evaluation.tables import Table
from opengait.evaluation.verification import Comparisons, verification

Embeddings = NDArray[np.generic] | torch.Tensor
log = logging.getLogger(__name__)
_WITHOUT_GALLERY = "probes without gallery left out"


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


@dataclass(frozen=True)
class _Test:
    """What figures are computed from."""

    title: str
    protocol: Protocol
    names: SequenceNames
    metric: str
    distances: Distances

    def name(self, protocol: Protocol, rerank: bool = False) -> str:
        return full_name(self.title, protocol, self.metric, rerank)


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
    verify: bool = False,
    trained_on: Collection[str] | None = None,
    indices: NDArray[np.int64] | None = None,
    exchange: Exchange = ALONE,
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
        rerank: k-reciprocal re-ranking of a submission (None: as the protocol says), or re-ranked figures beside those
            of a protocol with one gallery.
        remove_no_gallery: leave probes out, pair of views by pair of views, whose subject the gallery lacks; published
            figures count them as misses. The protocol's name says so.
        out_dir: folder of submission files; None: `GREW_result`, `HID_result` in the working directory.
        device: where distances are computed; None: CUDA if there is one.
        memory: bytes that may be taken beyond the embeddings.
        protocol_file: a protocol file of one's own (see `find_protocol`).
        verify: also ROC, EER, TAR at FAR and open-set identification.
        trained_on: subjects that the network was trained on, where known.
        indices, exchange: with several processes, the numbers of the sequences whose embeddings this one holds, and the
            way to the others; labels, types and views are those of all sequences. All processes get the same result.

    Raises:
        ValueError: unknown function, data set or metric; lengths that disagree; embeddings that are not finite; no
            probe or no gallery; a list that the protocol needs and did not get; training subjects where they are
            refused. On all processes alike.
    """
    check_metric(metric)
    title, protocol = find_protocol(eval_func, dataset, cross_view_gallery, protocol_file)
    check_rerank(eval_func, protocol, rerank)
    if remove_no_gallery and protocol.conditions and not protocol.submission:
        name = f"{protocol.name}; {_WITHOUT_GALLERY}"
        protocol = protocol.model_copy(update={"without_positive": "skip", "name": name})
    if protocol.compares_masks:
        value = {figure.full_tag(): mean_iou(_gathered(embeddings, exchange)) for figure in protocol.figures}
        return Evaluation(figures=value, exact=dict(value), protocol=full_name(title, protocol, metric))
    names = SequenceNames.of(labels, types, views, probe_set, gallery_set)
    embeddings = _only_embeddings(embeddings)
    own = np.arange(len(names.labels)) if indices is None else np.asarray(indices)
    if embeddings.ndim == 0 or len(embeddings) != len(own):
        raise ValueError(f"embeddings of shape {list(embeddings.shape)} for {len(own)} labels; expected [n, c, p]")
    if protocol.classes is not None:
        return _classify(title, protocol, protocol.classes, embeddings, names.types[own], exchange)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    distances = Distances(embeddings, metric, device=device, memory=memory, indices=indices, exchange=exchange)
    found = _ranked(_Test(title, protocol, names, metric, distances), rerank, verify, trained_on, out_dir)
    if exchange.rank == 0:
        for note in found.notes:
            log.warning("%s: %s", title, note)
    return found


def check_rerank(eval_func: str, protocol: Protocol, rerank: bool | None) -> None:
    """Refuses re-ranking where the protocol has no one gallery to re-rank.

    Raises:
        ValueError: it is asked for under such a protocol.
    """
    if rerank and (
        not protocol.conditions or protocol.view_rule != "none" or not (protocol.rerank or protocol.figures)
    ):
        raise ValueError(
            f"{eval_func} takes no re-ranking: it needs one gallery for all probes, whatever their views; "
            "leave rerank out"
        )


def _ranked(
    test: _Test, rerank: bool | None, verify: bool, trained_on: Collection[str] | None, out_dir: str | Path | None
) -> Evaluation:
    protocol, retrieval = test.protocol, Retrieval(test.protocol, test.names)
    notes = check_untrained(retrieval, trained_on)
    counts: dict[str, Any] = {
        "probes": {condition: len(probes) for condition, probes in retrieval.probes.items()},
        "gallery": {condition: len(gallery) for condition, gallery in retrieval.galleries.items()},
    }
    if protocol.submission is not None:
        rerank = protocol.rerank if rerank is None else rerank
        path = _submit(protocol.submission, retrieval, test.distances, rerank, out_dir)
        notes += retrieval.notes
        return Evaluation({}, {}, test.name(protocol, rerank), notes=notes, submission=path, **counts)
    ranker = by_distance(test.distances)
    found = retrieval.figures(ranker)
    beside = []
    for label, other in _others(protocol):
        beside.append(_figures_beside(label, test.name(other), Retrieval(other, test.names), ranker))
    if rerank:
        name = test.name(protocol.model_copy(update={"official": False}), rerank=True)
        beside.append(_figures_beside("re-ranked", name, retrieval, _by_reranked_distance(test.distances)))
    return Evaluation(
        figures=found.published,
        exact=found.exact,
        protocol=test.name(protocol),
        tables=found.tables,
        notes=notes + found.notes,
        beside=beside,
        curves=found.curves,
        verification=_verified(test.distances, retrieval) if verify else {},
        **counts,
    )


def _others(protocol: Protocol) -> list[tuple[str, Protocol]]:
    """The protocols of the figures beside, but not those that the protocol's own already are."""
    found = []
    for beside in protocol.beside:
        other = protocol.with_beside(beside)
        same = other.model_copy(update={"name": protocol.name, "official": protocol.official}) == protocol
        if not same:
            found.append((beside.label, other))
    return found


def _figures_beside(label: str, name: str, retrieval: Retrieval, ranker: Ranker) -> FiguresBeside:
    try:
        found = retrieval.figures(ranker)
    except ValueError as nothing:  # the protocol's own figures stand all the same
        return FiguresBeside(label, name, {}, {}, notes=[str(nothing)])
    return FiguresBeside(label, name, found.published, found.exact, found.tables, found.notes)


def _by_reranked_distance(distances: Distances) -> Ranker:
    def ranked(task: Task) -> Ranked:
        return by_distance(Reranked(distances, task.probes, task.gallery))(task)

    return ranked


def check_untrained(retrieval: Retrieval, trained_on: Collection[str] | None) -> list[str]:
    """Where the protocol refuses them, makes sure that no subject of the test was trained on; a note if that is not
    known.

    Raises:
        ValueError: there is one.
    """
    if not retrieval.protocol.refuses_trained:
        return []
    if trained_on is None:
        return ["which subjects the network was trained on is not known; if these are among them, the figures are void"]
    taken = np.unique(np.concatenate([*retrieval.probes.values(), *retrieval.galleries.values()]))
    subjects = sorted(set(retrieval.names.labels[taken].tolist()))
    if trained := [subject for subject in subjects if subject in set(trained_on)]:
        raise ValueError(
            f"{len(trained)} of the {len(subjects)} subjects of this test were trained on, such as '{trained[0]}'; "
            "this protocol needs a network trained without them: leave them out of the partition's training list"
        )
    return []


def _verified(distances: Distances, retrieval: Retrieval) -> dict[str, dict[str, Any]]:
    found = {}
    for condition, probes in retrieval.probes.items():
        apart = retrieval.protocol.view_rule == "each-pair-of-views"
        compared = Comparisons(
            probes,
            retrieval.galleries[condition],
            retrieval.label_codes,
            retrieval.exclusion,
            retrieval.view_codes if apart else None,
        )
        found[condition] = verification(distances, compared)
    return found


def _classify(
    title: str, protocol: Protocol, classes: Mapping[str, int], logits: Embeddings, types: Strings, to: Exchange
) -> Evaluation:
    array = logits.detach().cpu().float().numpy() if isinstance(logits, torch.Tensor) else logits
    everyone = np.concatenate(to.gather(types.astype("U64"))).tolist()
    told = classification(np.concatenate([part for part in to.gather(array) if len(part)]), everyone, classes)
    figures = {figure.full_tag(): told[figure.measure] for figure in protocol.figures}
    percent = tuple(100 * told[figure.measure] for figure in protocol.figures)
    table = Table("percent", tuple(figure.measure for figure in protocol.figures), (("all", percent, None),))
    name = full_name(title, protocol, "euc")
    return Evaluation(figures, dict(figures), name, [table], probes={"all": len(everyone)})


def _gathered(features: object, exchange: Exchange) -> object:
    """Sums of sequences that other processes hold as well; images lie in one process."""
    if isinstance(features, Mapping) and "iou" in features:
        return {"iou": np.concatenate(exchange.gather(np.asarray(features["iou"])))}
    return features


def _only_embeddings(features: Embeddings | Mapping[str, Embeddings]) -> Embeddings:
    if isinstance(features, Mapping):
        if "embeddings" not in features:
            raise ValueError(f"no 'embeddings' among the inference features; found: {', '.join(sorted(features))}")
        features = features["embeddings"]
    return features if isinstance(features, torch.Tensor) else np.asarray(features)


def _submit(
    submission: Submission, retrieval: Retrieval, distances: Distances, rerank: bool, out_dir: str | Path | None
) -> Path | None:
    """Ranks the gallery for each probe; the process numbered 0 writes the file."""
    ((_, task),) = retrieval.tasks()
    source = Reranked(distances, task.probes, task.gallery) if rerank else distances
    names, ranks = retrieval.names, len(submission.header) - 1
    found = ((rows, columns) for rows, columns, _ in nearest(source, task.probes, task.gallery, ranks))
    text = submission_text(submission, names.views[task.probes], names.labels[task.gallery], found)
    if len(task.gallery) < ranks:
        retrieval.notes.append(
            f"the gallery has {len(task.gallery)} sequences and a full file {ranks} ranks: cut short"
        )
    if distances.exchange.rank:
        return None
    return write_submission(text, Path(submission.folder if out_dir is None else out_dir))
