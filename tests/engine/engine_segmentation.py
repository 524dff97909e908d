"""A data set of RGB frames and masks, and the test of a segmentation network on it; for started processes too."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opengait.config import load_config
from opengait.engine.evaluator import Evaluator
from opengait.engine.randomness import seed_everything
from opengait.modeling.build import build_model

# Two of equal length, which are tested in one batch, and one that is alone.
LENGTHS = {"001": 3, "002": 5, "003": 3}
SIZE = 16


def write_images(root: Path) -> Path:
    """`root/images` with RGB frames in which a bright block is the mask, and `root/partition.json`."""
    rng = np.random.default_rng(0)
    for subject, length in LENGTHS.items():
        folder = root / "images" / subject / "nm-01" / "000"
        folder.mkdir(parents=True)
        masks = np.zeros((length, SIZE, SIZE), np.uint8)
        for mask in masks:
            top, left = rng.integers(0, 6, 2)
            mask[top : top + 10, left : left + 6] = 255
        rgb = rng.integers(0, 90, (length, 3, SIZE, SIZE)).astype(np.uint8) + masks[:, None] // 2
        for name, array in (("000-rgbs", rgb), ("000-sils", masks)):
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(array))
    partition = {"TRAIN_SET": [], "TEST_SET": list(LENGTHS)}
    (root / "partition.json").write_text(json.dumps(partition))
    return root


def segmentation_config(root: Path) -> Any:
    """The shipped recipe on `write_images`."""
    data_cfg = {
        "dataset_root": str(root / "images"),
        "dataset_partition": str(root / "partition.json"),
        "data_in_use": [0, 1],
        "num_workers": 0,
    }
    changes = {"data_cfg": data_cfg, "evaluator_cfg": {"frames_per_batch": 6, "enable_float16": False}}
    return load_config("configs/gaitedge/phase1_seg.yaml", changes)


def segment(root: str, output: str) -> dict[str, Any]:
    """What is kept of the test, and its figures."""
    config = segmentation_config(Path(root))
    seed_everything(1)
    model = build_model(config["model_cfg"])
    evaluator = Evaluator(config, Path(output), device=torch.device("cpu"))
    features = evaluator.embed(model)
    kept = {} if features is None else {name: torch.from_numpy(value) for name, value in features.items()}
    return {"kept": kept, "figures": evaluator.run(model, 0)}
