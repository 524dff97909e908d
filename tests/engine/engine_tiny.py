"""A small network with batch norm and small data, for the laws of the engine; importable by started processes too."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from opengait.config import load_config
from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.models.baseline import Baseline
from opengait.modeling.models.gaitssb import GaitSSB_Pretrain
from opengait.registry import MODELS

TRAIN_SUBJECTS, TEST_SUBJECTS = ("001", "002", "003", "004"), ("005", "006", "007")
TYPES = ("nm-01", "nm-02", "nm-05", "bg-01", "cl-01")
VIEWS = ("000", "090")


class TinyNet(BaseModel):
    """Two convolutions with batch norm, pooling over frames and places, linear map, batch-norm neck, classifier.

    No bias stands before a batch norm: its gradient would be rounding alone.
    """

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        width = model_cfg.get("width", 4)
        self.conv = nn.Conv2d(1, width, 5, stride=4, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, stride=2, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(model_cfg.get("dropout", 0.0))
        self.fc = nn.Linear(width, 6, bias=False)
        self.neck = nn.BatchNorm1d(6)
        self.classifier = nn.Linear(6, model_cfg.get("class_num", 4))
        self.constant = model_cfg.get("constant", False)
        self.poison_at = model_cfg.get("poison_at", [])
        if model_cfg.get("double", False):
            self.double()

    def prepare_inputs(self, batch: Any, transforms: Any) -> Inputs:
        inputs = super().prepare_inputs(batch, transforms)
        scale = float("nan") if batch.iteration in self.poison_at and self.training else 1.0
        return inputs._replace(ipts=[one.to(self.fc.weight.dtype) * scale for one in inputs.ipts])

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        sils = inputs.ipts[0]
        n, s, h, w = sils.shape
        x = torch.relu(self.norm(self.conv(sils.reshape(n * s, 1, h, w))))
        x = torch.relu(self.second_norm(self.second(x))).mean((2, 3)).reshape(n, s, -1)
        x = self.dropout(x.mean(1) + x.amax(1))
        embeddings = self.fc(x)
        logits = self.classifier(self.neck(embeddings))
        if self.constant:
            embeddings = torch.zeros_like(embeddings)
        return {
            "training_feat": {
                "triplet": {"embeddings": embeddings[..., None], "labels": inputs.labs},
                "softmax": {"logits": logits[..., None], "labels": inputs.labs},
            },
            "visual_summary": {"image/sils": sils.reshape(n * s, 1, h, w), "scalar/brightness": sils.mean()},
            "inference_feat": {"embeddings": embeddings[..., None]},
        }


class DoubleBaseline(Baseline):
    """Baseline in float64: with batches this small, float32 alone differs by 1e-4 when rows change places."""

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        super().build_network(model_cfg)
        self.double()

    def prepare_inputs(self, batch: Any, transforms: Any) -> Inputs:
        inputs = super().prepare_inputs(batch, transforms)
        return inputs._replace(ipts=[one.double() for one in inputs.ipts])

    def check_frame_size(self, height: int, width: int) -> None:
        """The inherited check sends float32 frames."""


class DoubleGaitSSB(GaitSSB_Pretrain):
    """Contrast of two views in float64, on the tree's frames made 64x44."""

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        super().build_network(model_cfg)
        self.double()

    def init_parameters(self) -> None:
        """With biases, since means of exactly zero can only be compared in rounding."""
        super().init_parameters()
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, 0, 0.3)

    def prepare_inputs(self, batch: Any, transforms: Any) -> Inputs:
        inputs = super().prepare_inputs(batch, transforms)
        return inputs._replace(ipts=[nn.functional.interpolate(one.double(), (64, 44)) for one in inputs.ipts])

    def check_frame_size(self, height: int, width: int) -> None:
        """The tree's frames are smaller."""


for network in (TinyNet, DoubleBaseline, DoubleGaitSSB):
    if network.__name__ not in MODELS:
        MODELS.register(network)


def write_tree(root: Path, seed: int = 0) -> Path:
    """A folder of random silhouettes (a blob that grows with the subject) and its partition file."""
    rng = np.random.default_rng(seed)
    for number, subject in enumerate((*TRAIN_SUBJECTS, *TEST_SUBJECTS)):
        for kind in TYPES:
            for view in VIEWS:
                folder = root / "tree" / subject / kind / view
                folder.mkdir(parents=True)
                frames = np.zeros((int(rng.integers(5, 9)), 32, 32), np.uint8)
                for frame in frames:
                    top, width = int(rng.integers(2, 6)), 6 + 2 * number + int(rng.integers(0, 4))
                    frame[top:30, 16 - width // 2 : 16 + width // 2] = 255
                    frame[rng.random((32, 32)) < 0.1] = 255
                (folder / f"{view}.pkl").write_bytes(pickle.dumps(frames))
    partition = root / "partition.json"
    partition.write_text(json.dumps({"TRAIN_SET": list(TRAIN_SUBJECTS), "TEST_SET": list(TEST_SUBJECTS)}))
    return root


def write_config(root: Path, **changes: Any) -> Path:
    """An experiment file over the tree of `write_tree`; `changes` are `section__key=value`, `__` for each dot."""
    transform = [{"type": "BaseSilTransform"}]
    tree: dict[str, Any] = {
        "data_cfg": {
            "dataset_name": "CASIA-B",
            "dataset_root": str(root / "tree"),
            "dataset_partition": str(root / "partition.json"),
            "num_workers": 0,
        },
        "model_cfg": {"model": "TinyNet"},
        "loss_cfg": [
            {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2, "loss_term_weight": 1.0},
            {"type": "CrossEntropyLoss", "log_prefix": "softmax", "scale": 4, "loss_term_weight": 0.5},
        ],
        "optimizer_cfg": {"solver": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005},
        "scheduler_cfg": {"scheduler": "MultiStepLR", "gamma": 0.1, "milestones": [4]},
        "trainer_cfg": {
            "save_name": "tiny",
            "total_iter": 5,
            "save_iter": 100,
            "log_iter": 2,
            "enable_float16": False,
            "sync_BN": True,
            "sampler": {
                "type": "TripletSampler",
                "batch_size": [3, 3],
                "sample_type": "fixed_unordered",
                "frames_num_fixed": 4,
            },
            "transform": transform,
        },
        "evaluator_cfg": {
            "save_name": "tiny",
            "restore_hint": 0,
            "frames_per_batch": 24,
            "sampler": {"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": 1},
            "transform": transform,
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    name = f"config-{len(list(root.glob('config-*.yaml')))}.yaml"
    (root / name).write_text(yaml.safe_dump(tree))
    return root / name


def tiny_config(root: Path, **changes: Any) -> Any:
    """The resolved config of `write_config`."""
    return load_config(write_config(root, **changes))
