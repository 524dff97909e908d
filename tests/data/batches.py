"""Batches and draws made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from opengait.data.batch import Batch
from opengait.data.transforms import build_transforms


def batch_of(
    *frames: Tensor, lengths: list[int] | None = None, positions: list[int] | None = None, iteration: int = 3
) -> Batch:
    count = len(lengths) if lengths else len(frames[0])
    where = torch.tensor(positions if positions is not None else range(count))
    return Batch(
        frames=list(frames),
        labels=torch.zeros(count, dtype=torch.int64),
        types=["nm-01"] * count,
        views=["000"] * count,
        lengths=torch.tensor([lengths]) if lengths else None,
        indices=where,
        positions=where,
        iteration=iteration,
        seed=11,
    )


def apply(entry: Any, frames: Tensor, **of_batch: Any) -> Tensor:
    [out] = build_transforms([entry])(batch_of(frames, **of_batch))
    return out


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def walkers(*shape: int) -> Tensor:
    """Binary frames, uint8 0 and 255, each an ellipse of its own."""
    rng = np.random.default_rng(1)
    height, width = shape[-2:]
    y, x = np.mgrid[:height, :width]
    frames = np.zeros((int(np.prod(shape[:-2])), height, width), dtype=np.uint8)
    for frame in frames:
        middle_y, middle_x = rng.uniform(0.35, 0.65, 2) * (height, width)
        radius_y, radius_x = rng.uniform(0.25, 0.6, 2) * (height, width)
        frame[((y - middle_y) / radius_y) ** 2 + ((x - middle_x) / radius_x) ** 2 < 1] = 255
    return torch.from_numpy(frames.reshape(shape))


def chain(*steps: Any) -> dict[str, Any]:
    return {"type": "Compose", "trf_cfg": [step if isinstance(step, dict) else {"type": step} for step in steps]}
