"""Operations and bytes of the recipes that `scaling.py` computes with, counted without computing them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from opengait import build_model, load_config
from opengait.engine.bench.counting import Counter
from opengait.modeling.inputs import Inputs

SIZES = (4, 8)
HEIGHT, WIDTH = 64, 44


@dataclass(frozen=True)
class Counts:
    """Of a network in float32, counted as if no cache held anything; losses and optimiser are not in it.

    Attributes:
        batch: sequences of the recipe's batch.
        frames: of each in training; the mean where their number is drawn.
        views: of each; 2 where a sequence is contrasted with itself.
        iterations: of the recipe.
        parameters: that get a gradient.
        state: numbers a parameter that the optimiser keeps.
        train_flops, train_bytes: of a sequence, forward and backward; `fixed_bytes`: of a batch, however small.
        test_flops, test_bytes: of a frame, forward.
        embedding: numbers of an embedding.
    """

    batch: int
    frames: int
    views: int
    iterations: int
    parameters: int
    state: int
    train_flops: int
    train_bytes: int
    fixed_bytes: int
    test_flops: int
    test_bytes: int
    embedding: int


def count(recipe: str) -> dict[str, int]:
    """Of a shipped recipe. Work is linear in the number of sequences, so that two sizes tell all others."""
    config = load_config(f"configs/{recipe}")
    sampler = config["trainer_cfg"]["sampler"]
    size = sampler["batch_size"]
    frames = sampler.get("frames_num_fixed") or 0
    if sampler["sample_type"].startswith("unfixed"):
        frames = (sampler["frames_num_min"] + sampler["frames_num_max"]) // 2
    with torch.device("meta"):  # not a CPU, so that networks take the way they take on a GPU
        model = build_model(config["model_cfg"], training=True, data_cfg=config["data_cfg"], config=config)
        views = 2 if sampler["type"] == "BilateralSampler" else 1
        (small_flops, small), (large_flops, large) = (_train(model.train(), n, frames, views) for n in SIZES)
        test_flops, test_bytes, embedding = _test(model.eval(), SIZES[1], frames)
    difference = SIZES[1] - SIZES[0]
    per_sequence = (large - small) // difference
    return asdict(
        Counts(
            batch=size if isinstance(size, int) else size[0] * size[1],
            frames=frames,
            views=views,
            iterations=config["trainer_cfg"]["total_iter"],
            parameters=sum(one.numel() for one in model.parameters() if one.requires_grad),
            state={"SGD": 1, "Adam": 2, "AdamW": 2}[config["optimizer_cfg"]["solver"]],
            train_flops=(large_flops - small_flops) // difference,
            train_bytes=per_sequence,
            fixed_bytes=small - SIZES[0] * per_sequence,
            test_flops=test_flops // (SIZES[1] * frames),
            test_bytes=test_bytes // (SIZES[1] * frames),
            embedding=embedding,
        )
    )


def _inputs(n: int, frames: int, views: int = 1) -> Inputs:
    silhouettes = [torch.empty(n, frames, HEIGHT, WIDTH) for _ in range(views)]
    return Inputs(silhouettes, torch.zeros(n, dtype=torch.int64), [""] * n, [""] * n, None)


def _train(model: nn.Module, n: int, frames: int, views: int) -> tuple[int, int]:
    model.zero_grad()
    with Counter() as counter:
        found: Any = model(_inputs(n, frames, views))["training_feat"]
        leaves = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.autograd.backward(leaves, [torch.empty_like(leaf) for leaf in leaves])
    return counter.flops, counter.bytes


def _test(model: nn.Module, n: int, frames: int) -> tuple[int, int, int]:
    with Counter() as counter, torch.no_grad():
        embeddings = model(_inputs(n, frames))["inference_feat"]["embeddings"]
    return counter.flops, counter.bytes, embeddings[0].numel()
