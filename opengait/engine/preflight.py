"""What can be known to be wrong before the first iteration: `opengait check`, and the start of every run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from opengait.config.compat import REFERENCE, in_use, said
from opengait.data.dataset import GaitDataset
from opengait.data.loader import BatchLoader, test_loader, train_loader
from opengait.data.transforms import Transforms, build_transforms
from opengait.engine.checkpoint import CheckpointError, find_checkpoint
from opengait.engine.class_shards import check_elementwise, check_shards
from opengait.engine.distributed import choose_device
from opengait.engine.findings import Finding, Findings, Level
from opengait.engine.fit import check_class_numbers, check_frames, check_pairs, check_protocol, check_same_size
from opengait.engine.optimizer import build_optimizer, build_scheduler
from opengait.engine.precision import Precision, precision_name
from opengait.engine.resident import check_resident
from opengait.engine.run_folder import run_folder
from opengait.engine.store_check import compare_checksums
from opengait.modeling.build import build_model
from opengait.modeling.losses import LossAggregator
from opengait.plugins import load_plugins

logger = logging.getLogger(__name__)

Phase = Literal["train", "test"]

# What a network raises when it is given what it cannot take; anything else is a fault of the program.
REFUSALS = (RuntimeError, TypeError, IndexError, KeyError, AttributeError)


@dataclass
class _Split:
    """One engine section with its data, and its transforms."""

    section: str
    dataset: GaitDataset
    transforms: Transforms


def check_training(config: Mapping[str, Any], dataset: GaitDataset, transforms: Transforms, model: nn.Module) -> None:
    """Data, transforms, losses and network of a training run that is about to start; warnings are logged.

    Raises:
        ValueError: with every mistake that was found.
    """
    findings = Findings()
    _check_training(config, _Split("trainer_cfg", dataset, transforms), model, findings)
    findings.settle(logger)


def check_testing(
    config: Mapping[str, Any], dataset: GaitDataset, transforms: Transforms, model: nn.Module, *, training: bool = False
) -> None:
    """Data, transforms, protocol and network of a test that is about to start; warnings are logged.

    Args:
        training: the test belongs to a training run, so that its frames must have the size of those trained on. A test
            of its own may be on other data, where unlike transforms can be right.

    Raises:
        ValueError: with every mistake that was found.
    """
    findings = Findings()
    _check_testing(config, _Split("evaluator_cfg", dataset, transforms), model, training, findings)
    findings.settle(logger)


def _check_training(config: Mapping[str, Any], split: _Split, model: nn.Module, findings: Findings) -> None:
    check_frames(split.dataset, split.transforms, model, split.section, findings)
    check_class_numbers(config["model_cfg"], len(split.dataset.label_set), findings)
    check_pairs(config["loss_cfg"], config["trainer_cfg"]["sampler"], split.dataset, findings)
    if config["trainer_cfg"].get("shard_classes"):
        check_shards(model, config["loss_cfg"], findings)
    if problem := check_resident(config["data_cfg"], split.dataset, split.transforms, model):
        findings.error(problem)


def _check_testing(
    config: Mapping[str, Any], split: _Split, model: nn.Module, training: bool, findings: Findings
) -> None:
    check_frames(split.dataset, split.transforms, model, split.section, findings)
    level: Level = "error" if training else "warning"
    check_same_size(config.get("trainer_cfg") or {}, split.dataset, split.transforms, level, findings)
    check_protocol(config, split.dataset, findings)


def preflight(
    config: Mapping[str, Any],
    *,
    device: str = "cpu",
    run_batch: bool = True,
    phase: Phase | None = None,
    output: str | Path = "output",
    checksums: bool = True,
) -> list[Finding]:
    """Checks a resolved config against the disk and the network; changes nothing and never raises for a mistake.

    Data root and partition; subjects that are missing; checksums of a packed store; frame shapes and values against
    transforms and network; classes and P x K against subjects; protocol against test sequences; checkpoints; one batch
    through the network, its losses, the optimiser and the schedule.

    Args:
        device: where the batch runs: 'cpu', 'cuda', 'auto'. On a CPU it is a small one.
        run_batch: also run a batch in training and one in testing.
        phase: only what 'train' or 'test' needs; None checks both.
        output: where runs are kept; their checkpoints are looked for there.
        checksums: read every sequence of a packed store and compare it with its checksum.

    Returns:
        Findings in the order of the checks; no error among them means that a run will start.
    """
    findings = Findings()
    with findings.listening(), torch.random.fork_rng(devices=[]), findings.catching():
        load_plugins(config.get("plugins") or ())
        _preflight(config, device, run_batch, phase, Path(output), checksums, findings)
    return findings.found


def _preflight(
    config: Mapping[str, Any],
    device: str,
    run_batch: bool,
    phase: Phase | None,
    output: Path,
    checksums: bool,
    findings: Findings,
) -> None:
    with findings.catching():
        chosen = choose_device(device)
    if places := in_use(config):
        findings.info(said(places))
    training = phase in (None, "train")
    testing = phase in (None, "test") or bool(config["trainer_cfg"].get("with_test"))
    train_split = _open(config, "trainer_cfg", findings) if training else None
    test_split = _open(config, "evaluator_cfg", findings) if testing else None
    for split in (train_split, test_split):
        if checksums and split is not None:
            with findings.catching():
                compare_checksums(split.dataset.store, split.dataset.root, findings)
    model = None
    with findings.catching("model_cfg", *REFUSALS):
        model = build_model(config["model_cfg"], training=True, data_cfg=config["data_cfg"], config=config)
        model.save_path = str(run_folder(config, "trainer_cfg", output))
    _check_checkpoints(config, phase, output, findings)
    if model is None:
        return
    if train_split is not None:
        _check_training(config, train_split, model, findings)
    if test_split is not None:
        _check_testing(config, test_split, model, training, findings)
    if findings.errors or not run_batch:
        return
    model = model.to(chosen)
    if train_split is not None:
        with findings.catching("one training batch", *REFUSALS):
            _train_one_batch(config, train_split, model, chosen, findings)
    if test_split is not None:
        with findings.catching("one test batch", *REFUSALS):
            _test_one_batch(config, test_split, model, chosen, findings)


def _open(config: Mapping[str, Any], section: str, findings: Findings) -> _Split | None:
    """The data of a section and what is to be said of it; None where it cannot be used."""
    training = section == "trainer_cfg"
    data_cfg = config["data_cfg"]
    if data_cfg["dataset_root"] == "your_path":
        findings.error(
            "data_cfg.dataset_root is 'your_path', the default; give the folder that holds subject/type/view/*.pkl"
        )
        return None
    with findings.catching():
        dataset = GaitDataset({**data_cfg, "cache": False}, training=training)
        lengths = dataset.lengths()
        sampler = config[section]["sampler"]
        # Made for what they check: frame choice, and P x K against the subjects.
        (train_loader(dataset, sampler, seed=0) if training else _one_at_a_time(dataset, sampler)).close()
        findings.info(
            f"{'training' if training else 'test'} data: {len(dataset.label_set)} subjects, {len(dataset)} sequences "
            f"of {int(lengths.min())} to {int(lengths.max())} frames in {dataset.root}"
        )
        if dataset.unlisted:
            findings.info(
                f"{len(dataset.unlisted)} folders in {dataset.root} are in neither set of {dataset.partition.source} "
                f"and take no part, such as {dataset.unlisted[0]}"
            )
        return _Split(section, dataset, build_transforms(config[section]["transform"]))
    return None


def _check_checkpoints(config: Mapping[str, Any], phase: Phase | None, output: Path, findings: Findings) -> None:
    if phase in (None, "train"):
        hint = config["trainer_cfg"].get("restore_hint", 0)
        for one in hint if isinstance(hint, list) else [hint]:
            missing = _missing_checkpoint(config, "trainer_cfg", one, output)
            if missing:
                findings.error(f"trainer_cfg.restore_hint: {missing}")
    if phase != "train":
        hint = config["evaluator_cfg"].get("restore_hint", 0)
        missing = _missing_checkpoint(config, "evaluator_cfg", hint, output)
        if missing and phase == "test":
            findings.error(f"evaluator_cfg.restore_hint: {missing}")
        elif missing:
            _check_will_be_written(config, hint, missing, findings)


def _missing_checkpoint(config: Mapping[str, Any], section: str, hint: int | str, output: Path) -> str | None:
    """Why a checkpoint cannot be restored; None where it can, or none is asked for."""
    if hint == 0:
        return None
    if isinstance(hint, str):
        return None if Path(hint).is_file() else f"{hint}: no such checkpoint"
    folder = run_folder(config, section, output) / "checkpoints"
    try:
        find_checkpoint(folder, config[section]["save_name"], hint)
    except CheckpointError as error:
        return str(error)
    return None


def _check_will_be_written(config: Mapping[str, Any], hint: int | str, missing: str, findings: Findings) -> None:
    """A test before training finds no checkpoint; what matters is whether training will write it."""
    trainer, evaluator = config["trainer_cfg"], config["evaluator_cfg"]
    if isinstance(hint, str):
        findings.error(f"evaluator_cfg.restore_hint: {missing}")
    elif trainer["save_name"] != evaluator["save_name"]:
        findings.warning(
            f"evaluator_cfg.save_name is '{evaluator['save_name']}' and trainer_cfg.save_name "
            f"'{trainer['save_name']}': a test asks for another run than this one, and {missing}"
        )
    elif hint > trainer["total_iter"] or (hint % trainer["save_iter"] and hint != trainer["total_iter"]):
        findings.warning(
            f"evaluator_cfg.restore_hint {hint} is never written: checkpoints come every {trainer['save_iter']} "
            f"iterations and at the end, {trainer['total_iter']}"
        )


def _train_one_batch(
    config: Mapping[str, Any], split: _Split, model: Any, device: torch.device, findings: Findings
) -> None:
    """Forward, losses, backward, optimiser and schedule; nothing may be non-finite or missing."""
    cfg = config["trainer_cfg"]
    sampler = dict(cfg["sampler"])
    size = sampler["batch_size"]
    if device.type == "cpu":
        sampler["batch_size"] = [min(number, 4) for number in size] if isinstance(size, list) else min(size, 16)
    loader = train_loader(split.dataset, sampler, seed=cfg.get("seed", 0), end_iteration=1)
    batch = next(iter(loader))
    losses = LossAggregator(config["loss_cfg"], ignore_unfed=cfg.get("compat") == REFERENCE).to(device)
    precision = Precision(precision_name(cfg, device), device, training=True)
    inputs = model.prepare_inputs(batch.to(device), split.transforms)
    with precision.autocast():
        output = model(inputs)
    _check_output(output, "training_feat", "visual_summary")
    total, info = losses(output["training_feat"])
    if not bool(torch.isfinite(total)):
        bad = [name for name, value in info.items() if not bool(torch.isfinite(value).all())]
        raise ValueError(f"the loss is {float(total.detach())} before any training: {', '.join(bad) or 'the sum'}")
    if not total.requires_grad:
        raise ValueError("the loss does not depend on any parameter of the network; nothing would be learnt")
    total.backward()
    optimizer = build_optimizer(config["optimizer_cfg"], model)
    if cfg.get("shard_classes"):
        check_elementwise(optimizer)
    build_scheduler(config["scheduler_cfg"], optimizer, model)
    findings.info(f"one training batch of {len(batch)} sequences: loss {float(total.detach()):.4f}")


def _one_at_a_time(dataset: GaitDataset, sampler: Mapping[str, Any]) -> BatchLoader:
    """Test batches of one sequence, the longest first; `batch_size` plays no part in a test."""
    kept = {key: value for key, value in sampler.items() if key != "batch_size"}
    return test_loader(dataset, kept, frames_per_batch=1)


def _test_one_batch(
    config: Mapping[str, Any], split: _Split, model: Any, device: torch.device, findings: Findings
) -> None:
    """The longest test sequence, which shows the memory that testing needs."""
    cfg = config["evaluator_cfg"]
    batch = next(iter(_one_at_a_time(split.dataset, cfg["sampler"])))
    precision = Precision(precision_name(cfg, device), device)
    model.eval()
    with torch.inference_mode(), precision.autocast():
        output = model(model.prepare_inputs(batch.to(device), split.transforms))
    _check_output(output, "inference_feat")
    features = output["inference_feat"]
    for name, value in features.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} of {split.dataset.name(int(batch.indices[0]))} is not finite")
    if "embeddings" in features:
        embeddings = features["embeddings"]
        if embeddings.ndim != 3 or len(embeddings) != len(batch):
            raise ValueError(f"embeddings have shape {list(embeddings.shape)}; expected [{len(batch)}, c, p]")
        numbers = math.prod(embeddings.shape[1:])
        findings.info(f"one test sequence: an embedding of {list(embeddings.shape[1:])}, {numbers} numbers")


def _check_output(output: Any, *keys: str) -> None:
    missing = [key for key in keys if not isinstance(output, Mapping) or key not in output]
    if missing:
        raise ValueError(f"forward() must return a mapping with {', '.join(keys)}; missing: {', '.join(missing)}")
