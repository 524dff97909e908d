"""The engine on CUDA: mixed precision, synchronised batch norm over NCCL, the same figures as a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from engine_deferred import ADAM, SGD, Quiet, run, without_nan
from engine_same import assert_same, assert_same_checkpoints
from engine_tiny import tiny_config
from torch import nn

from opengait import engine
from opengait.data.tree_packing import pack_tree
from opengait.engine.checkpoint import load_checkpoint
from opengait.engine.deferred import steps
from opengait.engine.evaluator import Evaluator
from opengait.engine.sync_batchnorm import _SynchronisedNorm
from opengait.engine.trainer import Trainer
from opengait.modeling.build import build_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fp16", {"trainer_cfg__enable_float16": True}),
        ("bf16", {"trainer_cfg__precision": "bf16"}),
        ("fp32", {"trainer_cfg__clip_grad_norm": 1.0}),
        ("compiled", {"trainer_cfg__compile": True}),
    ],
)
def test_training_in_every_precision(tree: Path, tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    result = engine.train(tiny_config(tree, trainer_cfg__with_test=True, **changes), output=tmp_path, device="cuda")
    state = load_checkpoint(result.checkpoint or "")
    assert state["iteration"] == 5
    assert bool(state["scaler"]) == (name == "fp16")
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())
    assert set(state["rng"]) == {"cpu", "cuda"}
    more = tiny_config(tree, trainer_cfg__total_iter=6, **changes)
    assert engine.train(more, output=tmp_path, device="cuda", resume="auto").iteration == 6


def test_deterministic_training_gives_the_same_bits(tree: Path, tmp_path: Path) -> None:
    config = tiny_config(tree, trainer_cfg__deterministic=True, model_cfg__dropout=0.3)
    try:
        results = [engine.train(config, output=tmp_path / run, device="cuda") for run in ("a", "b")]
    finally:
        torch.use_deterministic_algorithms(False)
    one, other = (load_checkpoint(result.checkpoint or "")["model"] for result in results)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_resident_data_give_the_same_bits_as_a_loader(tree: Path, tmp_path: Path) -> None:
    root = str(pack_tree(tree / "tree", progress=False).out)
    changes = {"data_cfg__dataset_root": root, "trainer_cfg__deterministic": True, "model_cfg__dropout": 0.3}
    try:
        results = [
            engine.train(tiny_config(tree, data_cfg__resident=how, **changes), output=tmp_path / name, device="cuda")
            for name, how in (("loader", False), ("resident", True), ("auto", "auto"))
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    expected, *others = (load_checkpoint(result.checkpoint or "")["model"] for result in results)
    for found in others:
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("resident", [False, True])
def test_batches_sent_ahead_are_whole_when_they_are_computed(tree: Path, tmp_path: Path, resident: bool) -> None:
    """Also while the device is busy, and after batches before them have been let go of."""
    root = str(pack_tree(tree / "tree", progress=False).out)
    config = tiny_config(tree, data_cfg__dataset_root=root, data_cfg__resident=resident, data_cfg__num_workers=1)
    trainer = Trainer(config, tmp_path, device=torch.device("cuda", 0))
    work = torch.randn(2048, 2048, device="cuda")
    batches, expected = trainer.batches(), trainer._read()
    sums, found = [], []
    for _ in range(30):
        for _ in range(5):
            work = (work @ work).clamp(-1, 1)
        batch = next(batches)
        weights = torch.arange(batch.frames[0].numel(), device="cuda").remainder(97)
        found.append((batch.frames[0].long().flatten() * weights).sum() + batch.labels.sum())
        del batch
        sums.append(next(expected).to("cpu"))
    for one, whole in zip(found, sums, strict=True):
        weights = torch.arange(whole.frames[0].numel()).remainder(97)
        assert int(one) == int((whole.frames[0].long().flatten() * weights).sum() + whole.labels.sum())
    batches.close()  # type: ignore[attr-defined]
    expected.close()


@pytest.mark.parametrize(
    ("solver", "changes"),
    [
        (SGD, {"trainer_cfg__precision": "bf16"}),
        (SGD, {"trainer_cfg__precision": "fp16", "trainer_cfg__clip_grad_norm": 1.0}),
        (ADAM, {"trainer_cfg__precision": "fp16"}),
        (ADAM, {"trainer_cfg__clip_grad_norm": 1.0, "data_cfg__num_workers": 1}),
    ],
)
def test_a_quiet_iteration_waits_for_nothing(
    tree: Path, tmp_path: Path, solver: dict[str, Any], changes: dict[str, Any]
) -> None:
    quiet = {"trainer_cfg__log_iter": 100, "trainer_cfg__total_iter": 100, "optimizer_cfg": solver}
    trainer = Trainer(tiny_config(tree, **quiet, **changes), tmp_path, device=torch.device("cuda", 0))
    assert trainer.defers
    batches = trainer.batches()
    results = steps(trainer, batches)
    for _ in range(5):  # moments are made, algorithms chosen
        trainer.call("after_step", next(results))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            step = next(results)
            trainer.call("after_step", step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (step.counted, trainer.iteration) == (True, 10)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("precision", "solver"), [("fp32", SGD), ("fp16", SGD), ("fp32", ADAM), ("fp16", {**ADAM, "solver": "AdamW"})]
)
@pytest.mark.parametrize(("batches", "gradients"), [((0, 1, 4), (3, 8)), ((2, 12), (5, 6, 7)), ((), ())])
def test_deferred_equals_waited_for_bit_for_bit(
    tree: Path,
    tmp_path: Path,
    precision: str,
    solver: dict[str, Any],
    batches: tuple[int, ...],
    gradients: tuple[int, ...],
) -> None:
    changes = {
        "trainer_cfg__precision": precision,
        "trainer_cfg__deterministic": True,
        "model_cfg__poison_at": list(batches),
        "optimizer_cfg": solver,
    }
    hooks, device = [Quiet(gradients), Quiet(gradients)], torch.device("cuda", 0)
    try:
        expected, found = (
            run(tree, tmp_path / str(defers), defers, hooks[defers], device=device, **changes)
            for defers in (False, True)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(without_nan(hooks[1].seen), without_nan(hooks[0].seen))
    assert_same(hooks[1].logged, hooks[0].logged)
    assert hooks[1].iterations == hooks[0].iterations
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)


def test_embeddings_equal_those_of_a_cpu(tree: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model({"model": "TinyNet"})
    found = []
    for name in ("cpu", "cuda"):
        device = torch.device(name, 0) if name == "cuda" else torch.device(name)
        evaluator = Evaluator(tiny_config(tree), tmp_path, device=device)
        found.append((evaluator.embed(model.to(device)) or {})["embeddings"])
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.fixture
def nccl(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_synchronised_batch_norm_on_cuda(nccl: None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, dtype=torch.float64 if dtype == torch.float64 else torch.float32, device="cuda")
    x = (torch.randn(6, 5, 7, 3, device="cuda", dtype=dtype) * 3 + 2).requires_grad_()
    weights = torch.randn_like(x)
    results = []
    for apply in (norm, lambda rows: _SynchronisedNorm.apply(rows, norm.weight, norm.bias, norm.eps)[0]):
        y = apply(x)
        results.append((y, *torch.autograd.grad((y * weights).sum(), [x, norm.weight, norm.bias])))
    for expected, found in zip(*results, strict=True):
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
