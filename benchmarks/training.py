"""A training iteration of GaitSet, GaitPart, GaitGL and GaitBase against its plain form, from raw frames to the step.

Both have the same weights and see the same frames; their losses are compared before anything is timed. Run from the
project's root: `python benchmarks/training.py`; `--short` has fewer frames for the slowest network.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Ratio, compare, machine, table
from plain.losses import cross_entropy, triplet
from plain.networks import PLAIN
from torch import Tensor, nn

from opengait import build_model, load_config
from opengait.data.batch import Batch
from opengait.data.transforms import build_transforms
from opengait.engine.optimizer import build_optimizer
from opengait.engine.precision import Precision, has_fast_bf16
from opengait.modeling.losses import LossAggregator

CONFIGS = {
    "GaitSet": "configs/gaitset/gaitset.yaml",
    "GaitPart": "configs/gaitpart/gaitpart.yaml",
    "GaitGL": "configs/gaitgl/gaitgl.yaml",
    "GaitBase": "configs/gaitbase/gaitbase_da_casiab.yaml",
}
TARGETS = {"GaitSet": 1.3, "GaitPart": 1.6, "GaitGL": 1.4, "GaitBase": 1.3}
PUBLISHED = (4, 4, 30)
SHORT = {"GaitBase": (4, 4, 10)}
Shape = tuple[int, int, int]  # subjects, sequences each, frames
CUT = [{"type": "BaseSilCuttingTransform"}]


def raw_batch(subjects: int, sequences: int, frames: int, device: torch.device) -> Batch:
    """Frames uint8 [n, s, 64, 64] with a body-like blob in each, as a loader gives them."""
    rng = np.random.default_rng(0)
    n = subjects * sequences
    y, x = np.mgrid[:64, :64]
    centre, wide = rng.uniform(26, 38, (n, frames, 1, 1)), rng.uniform(6, 12, (n, frames, 1, 1))
    bodies = ((x - centre) / wide) ** 2 + ((y - 32) / 30) ** 2 < 1
    sils = torch.from_numpy(np.where(bodies, 255, 0).astype(np.uint8)).to(device)
    labels = torch.arange(subjects).repeat_interleave(sequences)
    names = [str(int(label)) for label in labels]
    place = torch.arange(n)
    return Batch([sils], labels, names, names, None, place, place, 0, 0)


class Ours:
    """An iteration as the trainer does it."""

    def __init__(self, name: str, batch: Batch, device: torch.device, precision: str) -> None:
        self.config = config = load_config(CONFIGS[name])
        torch.manual_seed(0)
        self.batch, self.device = batch, device
        self.model = build_model(config["model_cfg"], training=True).to(device).train()
        self.transforms = build_transforms(CUT)
        self.losses = LossAggregator(config["loss_cfg"]).to(device)
        self.optimizer = build_optimizer(config["optimizer_cfg"], self.model)
        self.precision = Precision(precision, device, training=True)

    def loss(self) -> Tensor:
        """Of the batch, with the graph."""
        inputs = self.model.prepare_inputs(self.batch, self.transforms)
        with self.precision.autocast():
            output = self.model(inputs)
        return self.losses(output["training_feat"])[0]

    def __call__(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        self.precision.backward(loss)
        self.precision.step(self.optimizer)


class Plain:
    """The same from the same weights: float frames in the main process, loops, every triplet."""

    def __init__(self, name: str, ours: Ours) -> None:
        self.network: nn.Module = PLAIN[name]().to(ours.device).train()
        self.network.load_state_dict(ours.model.state_dict())
        self.raw = ours.batch.frames[0].cpu().numpy()
        self.labels = ours.batch.labels.to(ours.device)
        self.device = ours.device
        settings = dict(ours.config["optimizer_cfg"])
        build: Callable[..., Any] = getattr(torch.optim, settings.pop("solver"))
        self.optimizer = build(self.network.parameters(), **settings)

    def loss(self) -> Tensor:
        """Of the batch, with the graph."""
        frames = np.asarray([sequence[..., 10:-10].astype(np.float32) / 255.0 for sequence in self.raw])
        output = self.network(torch.from_numpy(frames).to(self.device))
        loss = triplet(output["embeddings"], self.labels).mean()
        if "logits" in output:
            scale = 16.0 if hasattr(self.network, "BNNecks") else 1.0
            loss = loss + cross_entropy(output["logits"], self.labels, scale).mean()
        return loss

    def __call__(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure(name: str, shape: Shape, device: torch.device, turns: int) -> dict[str, Any]:
    """One network's row."""
    batch = raw_batch(*shape, device)
    ours = Ours(name, batch, device, "fp32")
    plain = Plain(name, ours)
    found, expected = float(ours.loss().detach()), float(plain.loss().detach())
    if abs(found - expected) > 1e-4 * max(1, abs(expected)):
        raise ArithmeticError(f"{name}: the loss is {found}, the plain form's {expected}")
    ratio: Ratio = compare(plain, ours, device, turns)
    bf16 = {"bf16, ms": "-", "fp32 / bf16": "emulated here"}
    if has_fast_bf16(device):
        half = compare(ours, Ours(name, batch, device, "bf16"), device, turns)
        bf16 = {"bf16, ms": f"{1e3 * half.ours:.0f}", "fp32 / bf16": f"{half.times:.2f}"}
    return {
        "network": name,
        "batch": " x ".join(map(str, shape)),
        "plain, ms": f"{1e3 * ratio.plain:.0f}",
        "ours, ms": f"{1e3 * ratio.ours:.0f}",
        "ratio": f"{ratio.times:.2f}",
        "target": TARGETS[name],
        **bf16,
        "spread": f"{ratio.spread:.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(PLAIN), action="append", help="one network; repeatable")
    parser.add_argument("--batch", type=int, nargs=3, metavar=("P", "K", "FRAMES"), help="of all; default 4 4 30")
    parser.add_argument("--short", action="store_true", help=f"but {SHORT}")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    for name in arguments.only or list(PLAIN):
        shape = tuple(arguments.batch or (SHORT if arguments.short else {}).get(name, PUBLISHED))
        rows.append(measure(name, shape, device, arguments.turns))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(device), "training": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
