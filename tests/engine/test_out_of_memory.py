"""Where memory runs out, a test goes on with half the frames a batch and training ends with advice; no sequence is ever
shortened or lost."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_processes import HERE, process_environment
from engine_tiny import TinyNet, tiny_config
from memory_child import Hungry  # noqa: F401 - registers it

from opengait import engine
from opengait.data.batch import Batch
from opengait.data.collate import BatchReader
from opengait.data.memory import is_out_of_memory
from opengait.engine.evaluator import Evaluator
from opengait.engine.memory import FrameBudget, OutOfMemoryError
from opengait.engine.randomness import seed_everything
from opengait.engine.trainer import Trainer
from opengait.mistakes import MISTAKES, is_mistake
from opengait.modeling.build import build_model

CPU = torch.device("cpu")
ERRORS: list[Callable[[], Exception]] = [
    lambda: MemoryError(),
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    lambda: RuntimeError("could not create a memory object"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def packed(*lengths: int) -> Batch:
    count = len(lengths)
    return Batch(
        frames=[torch.arange(sum(lengths))[None, :, None], torch.arange(2 * sum(lengths)).reshape(1, -1, 2)],
        labels=torch.arange(count),
        types=[f"t{number}" for number in range(count)],
        views=[f"v{number}" for number in range(count)],
        lengths=torch.tensor([lengths]),
        indices=torch.arange(count) + 10,
        positions=torch.arange(count) + 10,
        iteration=0,
        seed=0,
    )


def equal(count: int, frames: int) -> Batch:
    batch = packed(*[frames] * count)
    batch.lengths = None
    batch.frames = [one.reshape(count, frames, *one.shape[2:]) for one in batch.frames]
    return batch


@pytest.mark.parametrize("batch", [packed(3, 1, 4, 1, 5), equal(5, 3), packed(7)])
@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_parts_of_a_batch_are_the_batch(batch: Batch, number: int) -> None:
    parts = batch.split(number)
    assert len(parts) == min(number, len(batch))
    axis = 0 if batch.lengths is None else 1
    for modality, frames in enumerate(batch.frames):
        assert torch.equal(torch.cat([part.frames[modality] for part in parts], axis), frames)
    for name in ("labels", "indices", "positions"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert [name for part in parts for name in part.types] == batch.types
    assert [name for part in parts for name in part.views] == batch.views
    assert sum(part.total_frames for part in parts) == batch.total_frames
    if batch.lengths is not None:
        assert torch.equal(torch.cat([part.lengths for part in parts if part.lengths is not None], 1), batch.lengths)
        assert all(part.lengths is not None and int(part.lengths.sum()) == part.total_frames for part in parts)


@pytest.mark.parametrize("make", ERRORS)
def test_every_kind_of_error_halves_the_budget_and_nothing_is_lost(
    make: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    assert is_out_of_memory(make())
    tried: list[int] = []

    def compute(batch: Batch) -> list[int]:
        tried.append(batch.total_frames)
        if batch.total_frames > 7:
            raise make()
        return batch.indices.tolist()

    budget = FrameBudget()
    found = [(part.indices.tolist(), rows) for part, rows in budget.apply(packed(3, 1, 4, 1, 5, 2), compute)]
    assert [index for part, _ in found for index in part] == [10, 11, 12, 13, 14, 15]
    assert all(part == rows for part, rows in found)
    assert budget.limit == 4
    assert caplog.text.count("memory ran out with a batch of") == 2  # 16 frames, then 8
    before = len(tried)
    list(budget.apply(packed(4, 4, 4), compute))
    assert max(tried[before:]) <= 4  # further batches begin with what fits
    caplog.clear()
    [(whole, _)] = budget.apply(packed(6), compute)
    assert whole.total_frames == 6  # a sequence above the budget stands alone and whole


def test_a_sequence_that_does_not_fit_alone_is_named() -> None:
    def compute(batch: Batch) -> None:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match=r"sequence 010/nm-01/000 alone, 30 frames.*precision: bf16.*frames_all"):
        list(FrameBudget(lambda index: f"{index:03d}/nm-01/000").apply(packed(30)._part(0, 1), compute))


def test_other_errors_are_not_taken_for_it() -> None:
    def compute(batch: Batch) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError, match="mat1"):
        list(FrameBudget().apply(packed(3, 3), compute))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_cannot_be_read_is_read_in_halves(
    tree: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tree, evaluator_cfg__frames_per_batch=40, data_cfg__num_workers=workers)
    seed_everything(3)
    model = build_model(config["model_cfg"])
    expected = Evaluator(config, tmp_path, device=CPU).embed(model) or {}
    read = BatchReader.read

    def reading(self: BatchReader, iteration: int, positions: Any, indices: Any, *empty: Any) -> Batch:
        if len(indices) > 2:
            raise MemoryError("Unable to allocate")
        return read(self, iteration, positions, indices, *empty)

    monkeypatch.setattr(BatchReader, "read", reading)
    found = Evaluator(config, tmp_path, device=CPU).embed(model) or {}
    np.testing.assert_allclose(found["embeddings"], expected["embeddings"], rtol=1e-5, atol=1e-6)
    assert "no memory to read a batch of" in caplog.text
    with pytest.raises(OutOfMemoryError, match="What helps"):
        Trainer(config, tmp_path, device=CPU).fit()


@pytest.mark.parametrize("make", ERRORS)
def test_training_ends_with_advice_and_the_last_checkpoint(
    tree: Path, tmp_path: Path, make: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TinyNet.forward

    def failing(self: TinyNet, inputs: Any) -> Any:
        if self.iteration == 2:
            raise make()
        return forward(self, inputs)

    monkeypatch.setattr(TinyNet, "forward", failing)
    config = tiny_config(tree, trainer_cfg__save_iter=2)
    with pytest.raises(OutOfMemoryError) as found:
        engine.train(config, device="cpu", output=tmp_path)
    said = str(found.value)
    for part in ("memory of cpu ran out after iteration 2", "frames_num_fixed (now 4)", "batch_size (now [3, 3])",
                 "trainer_cfg.accumulate (now 1)", "trainer_cfg.precision: bf16 or fp16"):  # fmt: skip
        assert part in said
    assert isinstance(found.value, MISTAKES)  # shown as its message alone, with status 2
    assert is_mistake(found.value)
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["tiny-00002.pt"]


def limited(root: Path, device: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE / "memory_child.py"), str(root), device],
        # What is freed goes back to the system, so that a limit of address space is one of memory in use.
        env={**process_environment(), "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check_limited(found: dict[str, Any]) -> None:
    assert 1 <= len(found["lines"]) <= 2
    assert all("going on with at most" in line for line in found["lines"])
    assert found["difference"] <= 1e-4 * found["scale"]
    assert found["alone_kind"] == found["trained_kind"] == "OutOfMemoryError"
    assert "alone" in found["alone"]
    assert "What helps" in found["trained"]


@pytest.mark.slow
def test_under_a_limit_of_address_space(tree: Path) -> None:
    check_limited(limited(tree, "cpu"))


@pytest.mark.gpu
def test_under_a_limit_of_a_gpus_memory(tree: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    check_limited(limited(tree, "cuda:0"))


def test_sequences_that_are_cut_are_counted_and_others_are_whole(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A frame budget of one frame still embeds every frame; only `frames_all_limit` cuts, and says how many."""
    lengths: dict[str, list[int]] = {}
    for name, changes in {"whole": {}, "cut": {"evaluator_cfg__sampler__frames_all_limit": 6}}.items():
        caplog.clear()
        config = tiny_config(tree, evaluator_cfg__frames_per_batch=1, **changes)
        evaluator = Evaluator(config, tmp_path, device=CPU)
        model = build_model(config["model_cfg"])
        seen: list[int] = []
        model.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0].ipts[0].shape[1]))
        with caplog.at_level(logging.INFO, logger="opengait"):
            evaluator.embed(model)
        lengths[name] = seen
        longer = int((evaluator.dataset.lengths() > 6).sum())
        said = f"{longer} of {len(evaluator.dataset)} sequences are cut to their first 6 frames"
        assert (said in caplog.text) is (name == "cut")
        if name == "whole":
            assert sorted(seen) == sorted(evaluator.dataset.lengths().tolist())
    assert max(lengths["cut"]) == 6
    assert max(lengths["whole"]) > 6
