"""From a raw download to a published protocol, on look-alikes: prepare, train briefly, test.

Folders and archives, pickle trees and packed stores alike.
"""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from opengait import engine
from opengait.config import load_config
from opengait.prepare import PrepareReport, casia_b_star, gait3d, images, prepare
from opengait.synthetic.raw import RawReport, faults, write

PARTITIONS = Path(__file__).resolve().parents[2] / "datasets"
SUBJECTS = 4
INDOOR = {"types": ["nm-01", "nm-05", "bg-01", "cl-01"], "views": ["000", "090"]}


@dataclass(frozen=True)
class Case:
    """How much of a data set there is, and how a network is trained on it and tested."""

    raw: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tests: tuple[dict[str, Any], ...] = ({"eval_func": "evaluate_indoor_dataset"},)
    transform: str = "BaseSilCuttingTransform"
    figures: tuple[str, ...] = ()
    trained_on: str | None = None
    """The data set of the checkpoint, where this one has nobody to train on."""


CASES = {
    "CASIA-B": Case(INDOOR, figures=("NM@R1", "BG@R1", "CL@R1")),
    "CASIA-B*": Case(
        INDOOR,
        {"data_in_use": [True, False, False, False]},
        transform="BaseSilTransform",
        figures=("NM@R1", "BG@R1", "CL@R1"),
    ),
    "OUMVLP": Case(
        {"views": ["000", "090", "270"]},
        tests=(
            {"eval_func": "evaluate_indoor_dataset"},
            {"eval_func": "evaluate_indoor_dataset", "cross_view_gallery": True},
        ),
        figures=("NM@R1", "NM-Rank@1", "NM-mAP"),
    ),
    "GREW": Case(tests=({"eval_func": "GREW_submission"},)),
    "HID2022": Case(tests=({"eval_func": "HID_submission", "rerank": True},)),
    "HID2023": Case(tests=({"eval_func": "HID_submission", "rerank": False},), trained_on="HID2022"),
    "Gait3D": Case(
        data={"data_in_use": [True, False]},
        tests=({"eval_func": "evaluate_Gait3D"},),
        figures=("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP"),
    ),
}
IN_ARCHIVES = ("CASIA-B", "GREW", "HID2022", "HID2023")
# What the report calls a fault that costs a frame, or a file that costs its sequence.
REASONS = {
    faults.BLANK: images.BLANK,
    faults.SPECK: images.BLANK,
    faults.CUT_OFF: images.CUT_OFF,
    faults.DAMAGED: images.UNREADABLE,
    faults.EMPTY_FILE: images.EMPTY,
    faults.CUT_PICKLE: casia_b_star.CUT,
    faults.FOREIGN_PICKLE: casia_b_star.UNSAFE,
    faults.MISSING_PICKLE: casia_b_star.MISSING,
    faults.UNEQUAL: casia_b_star.UNEQUAL,
    faults.NO_SMPL: gait3d.NO_SMPL,
    faults.NO_SILHOUETTE: gait3d.NO_SILHOUETTE,
    faults.TWO_PEOPLE: gait3d.PEOPLE,
    faults.CUT_SMPL: gait3d.UNREADABLE,
    faults.FOREIGN_SMPL: gait3d.UNSAFE,
}


@dataclass(frozen=True)
class Made:
    """A look-alike and what was prepared from it."""

    raw: RawReport
    tree: Path
    store: Path
    report: PrepareReport
    packed_report: PrepareReport


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    done: dict[str, Made] = {}

    def make(dataset: str) -> Made:
        if dataset not in done:
            folder = tmp_path_factory.mktemp("look")
            raw = write(dataset, folder / "raw", SUBJECTS, **CASES[dataset].raw)
            tree, store = folder / "tree", folder / "store"
            report = prepare(dataset, raw.out, tree, workers=1, progress=False)
            packed = prepare(dataset, raw.out, store, workers=1, progress=False, packed=True)
            done[dataset] = Made(raw, tree, store, report, packed)
        return done[dataset]

    return make


def lengths(tree: Path) -> dict[str, int]:
    """subject/type/view -> frames; all files of a sequence have as many."""
    found: dict[str, set[int]] = {}
    for path in sorted(tree.rglob("*.pkl")):
        sequence = path.parent.relative_to(tree).as_posix()
        found.setdefault(sequence, set()).add(len(pickle.loads(path.read_bytes())))
    assert all(len(several) == 1 for several in found.values())
    return {sequence: several.pop() for sequence, several in found.items()}


def files(tree: Path) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in sorted(tree.rglob("*.pkl"))}


@pytest.mark.parametrize("dataset", CASES)
def test_every_sequence_has_the_frames_that_the_faults_leave(made, dataset):
    look = made(dataset)
    assert lengths(look.tree) == look.raw.kept


@pytest.mark.parametrize("dataset", CASES)
def test_the_report_counts_what_was_put_in(made, dataset):
    raw, report = made(dataset).raw, made(dataset).report
    assert report.sequences == len(raw.kept)
    assert report.frames == sum(raw.kept.values())
    assert report.subjects == SUBJECTS

    dropped: Counter[str] = Counter()
    for fault in raw.faults:
        if fault.kind == faults.ALL_BLANK:
            dropped[images.BLANK] += len(list((raw.out / fault.path).iterdir()))
        elif fault.kind in REASONS:
            dropped[reason_of(fault, dataset)] += 1
    assert {reason: tally.count for reason, tally in report.dropped_frames.items()} == dropped

    gone = {fault.sequence for fault in raw.faults if fault.kind in faults.FATAL}
    gone -= {fault.sequence for fault in raw.faults if fault.kind in (faults.ABSENT, faults.NO_SMPL_FOLDER)}
    assert report.empty_sequences.count == len(gone)
    assert set(report.empty_sequences.examples) <= gone
    short = [fault.sequence for fault in raw.faults if fault.kind == faults.SHORT]
    assert report.short_sequences.examples == short
    alone = [fault.path for fault in raw.faults if fault.kind == faults.NO_SMPL_FOLDER]
    left_out = dict(report.left_out)
    without = left_out.pop("the sequence has no smpl", None)
    assert (without.examples if without else []) == [path.replace("3D_SMPLs", "2D_Silhouettes") for path in alone]
    assert left_out == {}

    packed = made(dataset).packed_report
    for counted in ("subjects", "sequences", "frames", "dropped_frames", "empty_sequences", "left_out", "comparisons"):
        assert getattr(packed, counted) == getattr(report, counted)


@pytest.mark.parametrize("dataset", CASES)
def test_every_file_that_costs_a_frame_is_named_with_the_reason(made, dataset):
    look = made(dataset)
    notes = (look.tree / "prepare-sequences.jsonl").read_text().splitlines()
    dropped = {
        (note["sequence"], name.rpartition(".")[0], reason)
        for note in map(json.loads, notes)
        for name, reason, _ in note["dropped"]
    }
    blank = {fault.sequence for fault in look.raw.faults if fault.kind == faults.ALL_BLANK}
    expected = {
        (fault.sequence, Path(fault.path).stem, reason_of(fault, dataset))
        for fault in look.raw.faults
        if fault.kind in REASONS
    }
    assert {item for item in dropped if item[0] not in blank} == expected


def reason_of(fault: faults.Fault, dataset: str) -> str:
    # A file that is all of a sequence is unreadable, whatever is in it.
    return images.UNREADABLE if dataset == "HID2023" else REASONS[fault.kind]


@pytest.mark.parametrize("dataset", IN_ARCHIVES)
def test_archives_give_the_same_bytes_as_folders(made, dataset, tmp_path):
    look = made(dataset)
    packed = write(dataset, tmp_path / "raw", SUBJECTS, archives=True, **CASES[dataset].raw)
    report = prepare(dataset, packed.out, tmp_path / "tree", workers=1, progress=False)
    assert files(tmp_path / "tree") == files(look.tree)
    assert (report.sequences, report.frames) == (look.report.sequences, look.report.frames)
    assert report.dropped_frames == look.report.dropped_frames


def experiment(dataset: str, root: Path, raw: RawReport, test: dict[str, Any]) -> dict[str, Any]:
    """A GaitSet of a few channels, two iterations."""
    case = CASES[dataset]
    shipped = PARTITIONS / dataset / f"{dataset}.json"
    steps = {"transform": [{"type": case.transform}]}
    return {
        "data_cfg": {
            "dataset_name": dataset,
            "dataset_root": str(root),
            "dataset_partition": str(shipped if shipped.is_file() else raw.out / f"{dataset}.json"),
            "test_dataset_name": dataset,
            "num_workers": 0,
            **case.data,
        },
        "model_cfg": {
            "model": "GaitSet",
            "in_channels": [1, 2, 4, 4],
            "SeparateFCs": {"in_channels": 4, "out_channels": 4, "parts_num": 62},
            "bin_num": [16, 8, 4, 2, 1],
        },
        "scheduler_cfg": {"milestones": [1]},
        "trainer_cfg": {
            "save_name": "tiny",
            "total_iter": 2,
            "save_iter": 2,
            "log_iter": 1,
            "enable_float16": False,
            "sampler": {"batch_size": [2, 2], "frames_num_fixed": 4},
            **steps,
        },
        "evaluator_cfg": {"save_name": "tiny", "restore_hint": 2, **steps, **test},
    }


def trained(dataset: str, root: Path, raw: RawReport, output: Path) -> dict[str, Any]:
    """Weights of a network that was briefly trained; the checkpoint is in the output."""
    config = load_config_of(experiment(dataset, root, raw, CASES[dataset].tests[0]), output)
    result = engine.train(config, device="cpu", output=output)
    state = torch.load(result.folder / "checkpoints" / "tiny-00002.pt", weights_only=True)
    return {"path": result.folder / "checkpoints" / "tiny-00002.pt", "model": state["model"]}


def load_config_of(tree: dict[str, Any], folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(tree))
    return load_config(path)


@pytest.mark.parametrize("dataset", CASES)
def test_tree_and_packed_store_train_and_test_alike_under_the_published_protocol(made, dataset, tmp_path):
    look, case = made(dataset), CASES[dataset]
    source = made(case.trained_on) if case.trained_on else look
    results = []
    for name in ("tree", "store"):
        output = tmp_path / name
        network = trained(case.trained_on or dataset, getattr(source, name), source.raw, output)
        figures: dict[str, Any] = {}
        for number, test in enumerate(case.tests):
            config = load_config_of(experiment(dataset, getattr(look, name), look.raw, test), output)
            figures |= engine.test(config, checkpoint=network["path"], device="cpu", output=output / str(number))
        written = {path.name: json.loads(path.read_text()) for path in sorted(output.rglob("results/*.json"))}
        submissions = [path.read_text() for path in sorted(output.rglob("results/*.csv"))]
        results.append((figures, submissions, [one["exact"] for one in written.values()], network["model"]))
        assert all("official protocol" in one["protocol"] for one in written.values())
        assert all(one["probes"] and min(one["gallery"].values()) > 0 for one in written.values())

    (figures, submissions, *_), (packed_figures, packed_submissions, *_) = results
    assert figures == packed_figures
    assert submissions == packed_submissions
    assert results[0][2] == results[1][2]
    for key, weights in results[0][3].items():
        assert torch.equal(weights, results[1][3][key]), key
    if case.figures:
        assert sorted(figures) == sorted(f"scalar/test_accuracy/{tag}" for tag in case.figures)
        assert all(math.isfinite(value) and 0 <= value <= 100 for value in figures.values())
    else:
        check_submission(dataset, look.raw, *submissions)


def check_submission(dataset: str, raw: RawReport, text: str) -> None:
    """A row for each probe that is left, by its name, with subjects of the gallery."""
    header, *rows = text.splitlines()
    probes = [sequence.split("/")[2] for sequence in raw.kept if sequence.startswith("probe/")]
    assert [row.split(",")[0] for row in rows] == sorted(probes)
    gallery = sorted(sequence.split("/")[0] for sequence in raw.kept if sequence.split("/")[0] in raw.test)
    if dataset == "GREW":
        assert header.startswith("videoId,rank1,rank2")
        expected = sorted(str(int(subject)) for subject in gallery)
        assert all(sorted(row.split(",")[1:]) == expected for row in rows)
    else:
        assert header == "videoID,label"
        assert all(row.split(",")[1] in gallery for row in rows)
