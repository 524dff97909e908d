"""Generated walkers for any shipped config: a few are rendered, and stand under as many names as a batch needs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from opengait.data.transforms import build_transforms
from opengait.synthetic import synthesize

Modalities = tuple[str, ...]
PARSING_BESIDE_SMPL = ("parsing", "silhouettes", "smpl")
TYPES, VIEWS, RENDERED = ("nm-01", "nm-05"), ("000", "090"), 2
TEST_SUBJECTS = 4


def write_data(config: Mapping[str, Any], folder: Path, section: str, frames: tuple[int, int]) -> dict[str, Any]:
    """Writes sequences that a config can be run on, and gives the `data_cfg` entries that lead to them.

    Args:
        section: whose transforms have to fit them, `trainer_cfg` or `evaluator_cfg`.
        frames: fewest and most of a sequence.
    """
    modalities = modalities_of(config)
    if section == "evaluator_cfg" and modalities == ("unlabelled",):
        modalities = ("silhouettes",)
    size = frame_size(config, section) if modalities in (("silhouettes",), ("parsing",)) else None
    together = (("parsing",), ("silhouettes", "smpl")) if modalities == PARSING_BESIDE_SMPL else (modalities,)
    for one in together:
        options: dict[str, Any] = {"types": TYPES, "views": VIEWS, "frames": frames, "workers": 1, "progress": False}
        synthesize(folder / "-".join(one), RENDERED, modalities=one, **options)
    out, before = folder / section, files_before(config)
    train = [f"{number + 1:03d}" for number in range(_subjects(config))]
    test = [f"t{number + 1:03d}" for number in range(TEST_SUBJECTS)]
    walks = [_walks(folder / "-".join(one)) for one in together]
    names = [(label, kind, view) for label in [*train, *test] for kind in TYPES for view in VIEWS]
    for number, (label, kind, view) in enumerate(names):
        target = out / label / kind / view
        target.mkdir(parents=True)
        for file in (file for of_one in walks for file in of_one[number % len(of_one)].iterdir()):
            _place(file, target, size, before)
    partition = out / "partition.json"
    partition.write_text(json.dumps({"TRAIN_SET": train, "TEST_SET": test}))
    return {"dataset_root": str(out), "dataset_partition": str(partition)}


def modalities_of(config: Mapping[str, Any]) -> Modalities:
    """Which set of modalities a config trains on."""
    data_cfg = config["data_cfg"]
    if data_cfg["dataset_name"] == "CASIA-B*":
        return ("casiab*",)
    if data_cfg["dataset_name"] == "GaitLU-1M":
        return ("unlabelled",)
    # A mask such as [true, false] uses one file, a list of places such as [0, 1] two.
    used = data_cfg.get("data_in_use") or [0]
    count = sum(used) if all(isinstance(one, bool) for one in used) else len(used)
    if data_cfg["dataset_name"].endswith("-Parsing"):
        return PARSING_BESIDE_SMPL if count == 2 else ("parsing",)
    return ("silhouettes", "smpl") if count == 2 else ("silhouettes",)


def frame_size(config: Mapping[str, Any], section: str) -> tuple[int, int]:
    """Size of silhouettes on disk, so that a section's transform leaves them 44 (or 88) wide."""
    tall = 128 if config["model_cfg"]["model"] == "GLN" or config["data_cfg"]["dataset_name"] == "HID2022" else 64
    transform = build_transforms(config[section]["transform"]).transforms[0]
    for width in (tall, tall * 44 // 64):
        if transform.output_size(tall, width)[1] == tall * 44 // 64:
            return tall, width
    raise ValueError(f"{section}.transform leaves neither {tall} nor {tall * 44 // 64} columns {tall * 44 // 64} wide")


def files_before(config: Mapping[str, Any]) -> int:
    """Files of a sequence that come before the one that a config uses."""
    used = config["data_cfg"].get("data_in_use") or [0]
    return int(used[0]) if len(used) == 1 and not isinstance(used[0], bool) else 0


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """[s, 64, 64] repeated to the height, side columns cut off to the width."""
    times = height // frames.shape[1]
    frames = frames.repeat(times, 1).repeat(times, 2)
    side = (frames.shape[2] - width) // 2
    return np.ascontiguousarray(frames[:, :, side : side + width])


def _subjects(config: Mapping[str, Any]) -> int:
    """Enough for the subjects of a batch, and for all its sequences to be different ones."""
    size = config["trainer_cfg"]["sampler"]["batch_size"]
    subjects, each = size if isinstance(size, list) else (2, -(-size // 2))
    return max(2, subjects, -(-subjects * each // (len(TYPES) * len(VIEWS))))


def _walks(folder: Path) -> list[Path]:
    return sorted({file.parent for file in folder.rglob("*.pkl")})


def _place(file: Path, target: Path, size: tuple[int, int] | None, before: int) -> None:
    array = pickle.loads(file.read_bytes())  # written by ourselves just now
    array = array if size is None else resized(array, *size)
    for place in range(before):
        (target / f"{place:02d}-other.pkl").write_bytes(pickle.dumps(np.zeros(len(array))))
    (target / (f"{before:02d}-{file.name}" if before else file.name)).write_bytes(pickle.dumps(array))
