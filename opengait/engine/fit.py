"""Whether data on disk, config and network fit one another; each check is a few reads, no training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.transforms import Transform, Transforms, build_transforms
from opengait.engine.findings import Findings, Level
from opengait.evaluation.protocol import Protocol, find_protocol, full_name
from opengait.evaluation.retrieval import Retrieval
from opengait.evaluation.runner import check_rerank, check_untrained
from opengait.evaluation.selection import SequenceNames
from opengait.registry import LOSSES

LOOKED_AT = 8
# What 0/1 silhouettes become when they are divided by 255; a darkest grey of 5 is no silhouette either.
FAINT = 5 / 255


def check_frames(
    dataset: GaitDataset, transforms: Transforms, model: nn.Module, section: str, findings: Findings
) -> None:
    """Number of modalities, frame shapes and values of a few sequences against transforms and network."""
    before = len(findings.errors)
    if getattr(model, "transforms_itself", False) and len(transforms) != dataset.modalities:
        return  # the network itself makes of its modalities what the transforms are for
    with findings.catching(f"{section}.transform"):
        transforms.check_count(dataset.modalities)
        arrays = _few(dataset, findings)
        for modality in range(dataset.modalities) if arrays else ():
            _check_values(dataset, arrays, modality, transforms, section, findings)
    if len(findings.errors) > before or next(iter(arrays.values()))[0].ndim < 3:
        return
    _check_size(dataset, arrays, transforms, model, section, findings)


def _few(dataset: GaitDataset, findings: Findings) -> dict[int, list[np.ndarray]]:
    """Sequence index -> modalities of a few sequences from all over the set; frames of equal shapes."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, LOOKED_AT).astype(int))
    arrays = {int(index): dataset.open(int(index)) for index in chosen}
    first = next(iter(arrays))
    for index, modalities in arrays.items():
        for modality, (own, other) in enumerate(zip(modalities, arrays[first], strict=True)):
            if own.shape[1:] != other.shape[1:] or own.dtype != other.dtype:
                findings.error(
                    f"{dataset.name(index)}: modality {modality} has frames {_shape(own)} of {own.dtype}, and "
                    f"{dataset.name(first)} {_shape(other)} of {other.dtype}; all sequences of a data set are alike"
                )
                return {}
    return arrays


def _shape(array: np.ndarray) -> str:
    return "x".join(str(size) for size in array.shape[1:]) or "of one number"


def _check_values(
    dataset: GaitDataset,
    arrays: Mapping[int, list[np.ndarray]],
    modality: int,
    transforms: Transforms,
    section: str,
    findings: Findings,
) -> None:
    """Frames must not be blank, nor become so faint that the network sees nothing."""
    brightest_in = brightest_out = 0.0
    name = f"{section}.transform.{modality} {type(transforms.transforms[modality]).__name__}"
    for index, modalities in arrays.items():
        frames = np.array(modalities[modality][:4])
        batch = _batch_of(frames)
        shown = Transforms([transforms.transforms[modality]])(batch)[0]
        if not bool(torch.isfinite(shown).all()):
            findings.error(f"{dataset.name(index)}: {name} gives values that are not finite; the data hold some")
            return
        brightest_in = max(brightest_in, float(np.abs(frames).max(initial=0)))
        brightest_out = max(brightest_out, float(shown.abs().amax()) if shown.numel() else 0.0)
    where = f"{dataset.name(next(iter(arrays)))} and {len(arrays) - 1} other sequences"
    if brightest_in == 0:
        findings.error(f"{where}: modality {modality} is blank, every value is 0; expected silhouettes of 0..255")
    elif brightest_in <= 1 and brightest_out <= FAINT:
        findings.error(
            f"{where}: values run to {brightest_in:g}, and {name} leaves at most {brightest_out:.4f} of them; "
            "store silhouettes as 0..255, or give the transform divsor: 1"
        )


def _batch_of(frames: np.ndarray) -> Batch:
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch([torch.from_numpy(frames)[None]], zero, [""], [""], None, zero, zero, iteration=0, seed=0)


def _check_size(
    dataset: GaitDataset,
    arrays: Mapping[int, list[np.ndarray]],
    transforms: Transforms,
    model: nn.Module,
    section: str,
    findings: Findings,
) -> None:
    index, modalities = next(iter(arrays.items()))
    height, width = modalities[0].shape[-2:]
    transform = transforms.transforms[0]
    name = f"{section}.transform.0 {type(transform).__name__}"
    here = f"{dataset.name(index)}: frames are {height}x{width}"
    try:
        out_height, out_width = _size_after(transform, modalities[0])
    except ValueError as error:
        findings.error(f"{here}: {name}: {error}")
        return
    if out_width < width and 2 * out_width < out_height:
        findings.warning(
            f"{here} and {name} leaves {out_height}x{out_width}, which cuts into the walkers; use BaseSilTransform "
            "for frames that are narrow already"
        )
    check = getattr(model, "check_frame_size", None)
    if check is not None:
        try:
            check(out_height, out_width)
        except ValueError as error:
            findings.error(f"{here}, {out_height}x{out_width} after {name}: {error}")


def _size_after(transform: Transform, frames: np.ndarray) -> tuple[int, int]:
    """Height and width of what a transform makes of frames: tried out, since a function on arrays may do anything."""
    height, width = Transforms([transform])(_batch_of(np.array(frames[:4])))[0].shape[-2:]
    return height, width


def check_same_size(
    trainer_cfg: Mapping[str, Any], dataset: GaitDataset, transforms: Transforms, level: Level, findings: Findings
) -> None:
    """What is tested must look like what was trained on: both sections' transforms, on a frame of the test data."""
    frames = dataset.open(0)[0]
    if not trainer_cfg.get("transform") or frames.ndim < 3:
        return
    height, width = frames.shape[-2:]
    trained_by = build_transforms(trainer_cfg["transform"]).transforms[0]
    tested_by = transforms.transforms[0]
    try:
        trained, tested = (_size_after(transform, frames) for transform in (trained_by, tested_by))
    except ValueError:
        return  # one of them cannot take the frames, which the check of its own section says
    if trained != tested:
        findings.add(
            level,
            f"{dataset.name(0)}: frames are {height}x{width}; trainer_cfg.transform.0 {type(trained_by).__name__} "
            f"leaves {trained[0]}x{trained[1]} of them and evaluator_cfg.transform.0 {type(tested_by).__name__} "
            f"{tested[0]}x{tested[1]}; make them equal",
        )


def check_class_numbers(model_cfg: Mapping[str, Any], subjects: int, findings: Findings) -> None:
    """Every `class_num` in model_cfg against the number of training subjects: fewer is an error, more a warning."""
    for key, classes in _class_numbers(model_cfg, "model_cfg"):
        if classes < subjects:
            findings.error(f"{key}: {classes} classes for {subjects} training subjects; set it to {subjects}")
        elif classes > subjects:
            findings.warning(
                f"{key}: {classes} classes for {subjects} training subjects; {classes - subjects} are never trained"
            )


def _class_numbers(tree: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == "class_num" and isinstance(value, int):
                yield f"{path}.{key}", value
            else:
                yield from _class_numbers(value, f"{path}.{key}")
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _class_numbers(value, f"{path}.{number}")


def check_pairs(
    loss_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    sampler_cfg: Mapping[str, Any],
    dataset: GaitDataset,
    findings: Findings,
) -> None:
    """P x K against what losses on pairs need: two subjects for a negative, two sequences of one for a positive."""
    entries = [loss_cfg] if isinstance(loss_cfg, Mapping) else list(loss_cfg)
    pairwise = [entry for entry in entries if getattr(LOSSES.get(entry["type"]), "pairwise", False)]
    size = sampler_cfg.get("batch_size")
    if not pairwise or not isinstance(size, list) or len(size) != 2:
        return
    names = ", ".join(entry["type"] for entry in pairwise)
    subjects = min(size[0], len(dataset.label_set))
    if subjects < 2:
        message = (
            f"trainer_cfg.sampler.batch_size {size} on {len(dataset.label_set)} training subjects: {names} compares "
            "subjects and needs at least two in a batch"
        )
        findings.add("error" if len(pairwise) == len(entries) else "warning", message)
    if size[1] < 2:
        findings.warning(f"trainer_cfg.sampler.batch_size {size}: with K = 1 {names} has no two sequences of a subject")


def refuse_trained(config: Mapping[str, Any], dataset: GaitDataset, trained_on: Collection[str] | None) -> None:
    """Keeps a network from being tested on subjects that it was trained on, where the protocol refuses them; before any
    sequence is embedded.

    Raises:
        ValueError: there is such a subject.
    """
    _, protocol = _protocol(config)
    if protocol.refuses_trained:
        check_untrained(Retrieval(protocol, _names(dataset)), trained_on)


def _protocol(config: Mapping[str, Any]) -> tuple[str, Protocol]:
    cfg, data_cfg = config["evaluator_cfg"], config["data_cfg"]
    name = data_cfg.get("test_dataset_name") or data_cfg["dataset_name"]
    return find_protocol(cfg["eval_func"], name, cfg.get("cross_view_gallery", False), cfg.get("protocol"))


def _names(dataset: GaitDataset) -> SequenceNames:
    partition = dataset.partition
    return SequenceNames.of(dataset.labels, dataset.types, dataset.views, partition.probe, partition.gallery)


def check_protocol(config: Mapping[str, Any], dataset: GaitDataset, findings: Findings) -> None:
    """Whether the protocol finds probes and gallery among the test sequences."""
    cfg = config["evaluator_cfg"]
    with findings.catching("evaluator_cfg"):
        title, protocol = _protocol(config)
        check_rerank(cfg["eval_func"], protocol, cfg.get("rerank"))
        reranked = protocol.submission is not None and (protocol.rerank if cfg.get("rerank") is None else cfg["rerank"])
        findings.info(f"protocol: {full_name(title, protocol, cfg.get('metric', 'euc'), reranked)}")
        if protocol.conditions:
            for note in Retrieval(protocol, _names(dataset)).notes:
                findings.warning(f"{title}: {note}")
