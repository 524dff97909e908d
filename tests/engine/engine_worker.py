"""Jobs that the laws of several processes compare; the same functions run in the test itself as one process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine_segmentation import segment
from engine_shards import guard, head, overflow, train_classes
from engine_tiny import tiny_config
from torch import nn

from opengait.engine.distributed import (
    GatheredLoss,
    collect_rows,
    gather_rows,
    init_from_environment,
    on_main,
    rank,
    world_size,
)
from opengait.engine.evaluator import Evaluator
from opengait.engine.sync_batchnorm import convert_sync_batchnorm
from opengait.engine.trainer import Trainer
from opengait.modeling.losses.triplet import TripletLoss

CPU = torch.device("cpu")


def gather() -> dict[str, Any]:
    """Rows of unequal number: rank r holds r + 1, the first process none of the second tensor."""
    rows = (torch.arange(2.0 * (rank() + 1)) + 100 * rank()).reshape(-1, 2).requires_grad_()
    gathered = gather_rows(rows)
    (gathered**2).sum().backward()
    flags = gather_rows(torch.ones(rank(), 3, dtype=torch.bool))
    return {"rows": gathered.detach(), "grad": rows.grad, "flags": flags, "own": rows.detach()}


def collect() -> dict[str, Any]:
    indices = torch.arange(rank(), 7, world_size())
    table = collect_rows(indices[:, None].double() * 10, indices, 7)
    error = ""
    try:
        collect_rows(torch.zeros(1, 2), torch.tensor([0]), 2)
    except ValueError as found:
        error = str(found)
    return {"table": torch.zeros(0) if table is None else table, "error": error}


def failure() -> dict[str, Any]:
    def fail() -> None:
        raise KeyError("the cause")

    try:
        on_main(fail)
    except Exception as error:  # noqa: BLE001 - the test looks at what it is
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": ""}


def golden_triplet(path: str) -> dict[str, Any]:
    data = np.load(path)
    embeddings = torch.from_numpy(data[f"rank{rank()}/embeddings"]).requires_grad_()
    labels = torch.from_numpy(data[f"rank{rank()}/labels"])
    loss, info = GatheredLoss(TripletLoss(margin=0.2))(embeddings=embeddings, labels=labels)
    loss.mean().backward()
    return {"loss": loss.detach(), "grad": embeddings.grad, "info": dict(info)}


def batch_norm(dims: int, shares: list[int], momentum: float | None, affine: bool) -> dict[str, Any]:
    """Two steps of a network with batch norm on this process's share of the same rows."""
    torch.manual_seed(dims)
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    norm: nn.Module = convert_sync_batchnorm(kind(3, momentum=momentum, affine=affine))
    rows = torch.randn(2, sum(shares), 3, *(4,) * dims) * 3 + 7
    weights = torch.randn(rows.shape)
    begin = sum(shares[: rank()]) if world_size() > 1 else 0
    own = slice(begin, begin + shares[rank()]) if world_size() > 1 else slice(None)
    result: dict[str, Any] = {}
    for step in range(2):
        x = rows[step, own].clone().requires_grad_()
        y = norm(x)
        (y * weights[step, own] + y**3).sum().backward()
        result |= {f"y{step}": y.detach(), f"dx{step}": x.grad}
    result["affine"] = [parameter.grad for parameter in norm.parameters()]
    norm.eval()
    result["eval"] = norm(rows[0]).detach()
    return {**result, "state": norm.state_dict()}


def train(root: str, output: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Gradients of the first iteration, and the final weights."""
    trainer = Trainer(tiny_config(Path(root), **changes), Path(output), device=CPU)
    batches = trainer.batches()
    first: dict[str, Any] = {}
    info: list[dict[str, Any]] = []
    for _ in range(trainer.total_iter):
        step = trainer.train_step(next(batches))
        trainer.log_hook.means.add(step.info)
        info.append(trainer.log_hook.means.read(trainer.shares))
        if not first:
            first = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    return {"gradients": first, "weights": trainer.model.state_dict(), "info": info, "shares": trainer.shares}


def score(root: str, output: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Embeddings and figures of a network initialised from the seed."""
    from opengait.engine.randomness import seed_everything
    from opengait.modeling.build import build_model

    config = tiny_config(Path(root), **changes)
    seed_everything(3)
    model = build_model(config["model_cfg"])
    evaluator = Evaluator(config, Path(output), device=CPU)
    features = evaluator.embed(model)
    figures = evaluator.run(model, 0)
    return {"features": torch.zeros(0) if features is None else torch.from_numpy(features["embeddings"]), **figures}


JOBS = {
    "gather": gather,
    "collect": collect,
    "failure": failure,
    "golden_triplet": golden_triplet,
    "batch_norm": batch_norm,
    "train": train,
    "score": score,
    "segment": segment,
    "head": head,
    "overflow": overflow,
    "train_classes": train_classes,
    "guard": guard,
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    jobs = json.loads((folder / "jobs.json").read_text())
    with init_from_environment(CPU, timeout=120):
        results = {name: JOBS[name.split(":")[0]](**arguments) for name, arguments in jobs.items()}
        torch.save(results, folder / f"rank{rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
