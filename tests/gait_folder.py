"""A tiny data set on disk, and a config that trains on it: what tests of mistakes start from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import yaml

TYPES = ("nm-01", "nm-05", "bg-01", "cl-01")
VIEWS = ("000", "090")


def write_sequence(root: Path, subject: str, type_name: str, view: str, frames: np.ndarray) -> Path:
    path = root / subject / type_name / view / f"{view}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(frames))
    return path


def write_gait_folder(
    folder: Path, train: int = 4, test: int = 2, height: int = 64, width: int = 64, value: int = 255
) -> Path:
    """`folder/data` with blocks that differ by subject, and `folder/partition.json`."""
    root = folder / "data"
    subjects = [f"{number:03d}" for number in range(1, train + test + 1)]
    rng = np.random.default_rng(0)
    for number, subject in enumerate(subjects):
        for type_name in TYPES:
            for view in VIEWS:
                frames = np.zeros((8, height, width), dtype=np.uint8)
                wide = width // 4 + number
                frames[:, 4:-4, width // 2 - wide // 2 : width // 2 + wide // 2] = value
                frames[rng.random(frames.shape) < 0.05] = 0
                write_sequence(root, subject, type_name, view, frames)
    write_partition(folder, subjects[:train], subjects[train:])
    return folder


def write_partition(folder: Path, train: list[str], test: list[str]) -> None:
    (folder / "partition.json").write_text(json.dumps({"TRAIN_SET": train, "TEST_SET": test}))


def tiny_experiment(folder: Path) -> dict[str, Any]:
    """GaitSet with a few channels, two iterations, on a gait folder."""
    return {
        "data_cfg": {
            "dataset_name": "CASIA-B",
            "dataset_root": str(folder / "data"),
            "dataset_partition": str(folder / "partition.json"),
            "num_workers": 0,
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
            "with_test": True,
            "sampler": {"batch_size": [2, 2], "frames_num_fixed": 4},
        },
        "evaluator_cfg": {"save_name": "tiny", "restore_hint": 2},
    }


def write_experiment(folder: Path) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(tiny_experiment(folder), sort_keys=False))
    return path
