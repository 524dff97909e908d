"""Embedding a test set of sequences of 20 to 120 frames: ours against one sequence a step.

Ours: uint8 frames, batches under the frame budget (ragged where the network looks at frames one by one), embedded as a
test does it; a loader's worker reads them where a GPU computes, and nobody else where all cores do. The plain form: the
plain networks, one sequence a step, float frames made in the main process from pickles. Same weights, and the
embeddings are compared. The sequences are dealt into three shares that both forms take in turn, and the medians of the
three count.

Run from the project's root: `python benchmarks/testing.py`; `--sequences 500` is the long form.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Ratio, machine, seconds, table
from plain.networks import PLAIN
from training import CONFIGS

from opengait import build_model, load_config
from opengait.config import Config
from opengait.engine.evaluator import Evaluator
from opengait.engine.precision import Precision, has_fast_bf16

TARGETS = {"GaitSet": 2.0, "GaitGL": 1.3, "GaitBase": 1.5}
SHORTEST, LONGEST, EACH = 20, 120, 4


def write(folder: Path, sequences: int, shares: int = 3) -> dict[str, Any]:
    """Blobs that swing as legs do, `EACH` sequences a subject, and a partition for each share; `data_cfg` entries."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    subjects = [f"{number:03d}" for number in range(-(-sequences // EACH))]
    for number in range(sequences):
        length = int(rng.integers(SHORTEST, LONGEST + 1))
        phase = np.sin(np.arange(length) * rng.uniform(0.3, 0.5))[:, None, None]
        wide = rng.uniform(6, 9) + 4 * np.abs(phase) * (y / 64)
        frames = np.where(((x - 32) / wide) ** 2 + ((y - 32) / 30) ** 2 < 1, 255, 0).astype(np.uint8)
        frames[rng.random(frames.shape) < 0.02] = 0
        path = folder / subjects[number // EACH] / "nm-01" / f"{number % EACH:03d}"
        path.mkdir(parents=True)
        (path / "frames.pkl").write_bytes(pickle.dumps(frames, protocol=4))
    for share in range(shares):
        partition = {"TRAIN_SET": [], "TEST_SET": subjects[share::shares]}
        (folder / f"partition-{share}.json").write_text(json.dumps(partition))
    return {"dataset_root": str(folder), "cache": False}


class Plain:
    """One sequence a step."""

    def __init__(self, name: str, model: torch.nn.Module, paths: list[Path], device: torch.device) -> None:
        self.network = PLAIN[name]().to(device).eval()
        self.network.load_state_dict(model.state_dict())
        self.paths, self.device = paths, device

    @torch.no_grad()
    def __call__(self) -> np.ndarray:
        rows = []
        for path in self.paths:
            with open(path, "rb") as file:
                frames = pickle.load(file)[..., 10:-10].astype(np.float32) / 255.0
            rows.append(self.network(torch.from_numpy(frames)[None].to(self.device))["embeddings"].cpu().numpy())
        return np.concatenate(rows)


class Share:
    """Both forms on one share of the sequences."""

    def __init__(self, name: str, tree: dict[str, Any], number: int, device: torch.device) -> None:
        partition = str(Path(tree["data_cfg"]["dataset_root"], f"partition-{number}.json"))
        self.config = Config.from_dict(tree | {"data_cfg": tree["data_cfg"] | {"dataset_partition": partition}})
        torch.manual_seed(0)
        self.model = build_model(self.config["model_cfg"]).to(device)
        stir(self.model)
        self.device = device
        self.evaluator = self.evaluator_of("fp32")
        dataset = self.evaluator.dataset
        paths = [dataset.root / dataset.name(index) / "frames.pkl" for index in range(len(dataset))]
        self.plain = Plain(name, self.model, paths, device)
        self.sequences, self.frames = len(dataset), int(dataset.lengths().sum())
        self.worst = 0.0

    def evaluator_of(self, precision: str) -> Evaluator:
        evaluator = Evaluator(self.config, Path("output"), device=self.device)  # writes nothing: only embeds
        evaluator.precision = Precision(precision, self.device)
        return evaluator

    def seconds_a_frame(self) -> tuple[float, float]:
        """Of the plain form and of ours, whose embeddings are compared."""
        kept: list[np.ndarray] = []
        plain = seconds(lambda: kept.append(self.plain()), self.device)
        ours = seconds(lambda: kept.append(self.evaluator.embed(self.model)["embeddings"]), self.device)
        expected, found = kept
        largest = float(np.abs(expected).max())
        self.worst = float(np.abs(found - expected).max()) / largest
        if self.worst > 1e-5:
            raise ArithmeticError(f"embeddings differ by {self.worst:.1e} of the largest number, {largest:.2g}")
        return plain / self.frames, ours / self.frames

    def in_bf16(self) -> tuple[float, float]:
        """Seconds of ours in float32 and in bfloat16."""
        half = self.evaluator_of("bf16")
        whole = seconds(lambda: self.evaluator.embed(self.model), self.device)
        return whole, seconds(lambda: half.embed(self.model), self.device)


def measure(name: str, data_cfg: dict[str, Any], device: torch.device, shares: int) -> dict[str, Any]:
    """One network's row."""
    tree = load_config(CONFIGS[name]).to_dict()
    tree["data_cfg"] |= data_cfg
    turns = [Share(name, tree, number, device) for number in range(shares)]
    ratio = Ratio.of([turn.seconds_a_frame() for turn in turns])
    fast = has_fast_bf16(device)
    return {
        "network": name,
        "sequences": sum(turn.sequences for turn in turns),
        "frames": sum(turn.frames for turn in turns),
        "plain, frames a second": f"{1 / ratio.plain:.0f}",
        "ours": f"{1 / ratio.ours:.0f}",
        "ratio": f"{ratio.times:.2f}",
        "target": TARGETS[name],
        "largest difference": f"{max(turn.worst for turn in turns):.0e}",
        "fp32 / bf16": f"{Ratio.of([turn.in_bf16() for turn in turns]).times:.2f}" if fast else "emulated here",
        "spread": f"{ratio.spread:.2f}",
    }


def stir(model: torch.nn.Module) -> None:
    """Running statistics as training leaves them, none of them 0 or 1."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", choices=sorted(TARGETS), action="append", help="one network; repeatable")
    options.add_argument("--sequences", type=int, default=40)
    options.add_argument("--shares", type=int, default=3)
    options.add_argument("--workers", type=int, help="default 1 for a GPU, 0 for a CPU")
    options.add_argument("--device", default="cpu")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as name:
        workers = int(device.type != "cpu") if given.workers is None else given.workers
        data_cfg = write(Path(name), given.sequences, given.shares) | {"num_workers": workers}
        rows = [measure(network, data_cfg, device, given.shares) for network in given.only or TARGETS]
    print(", ".join(f"{key} {value}" for key, value in machine(device).items()))
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(device), "testing": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
