"""What happens where a device's memory runs out: a test goes on with smaller batches, training ends with advice."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from opengait.data.batch import Batch
from opengait.data.memory import is_out_of_memory

T = TypeVar("T")
logger = logging.getLogger(__name__)


class OutOfMemoryError(ValueError):
    """Memory ran out; the message says what to change."""


class FrameBudget:
    """The most frames of a test batch: as many as the loader gives, until memory runs out; half as many from then on.

    Attributes:
        limit: frames; None until memory has run out.

    Args:
        name_of: what a message calls a sequence of the test set.
    """

    def __init__(self, name_of: Callable[[int], str] = str) -> None:
        self.limit: int | None = None
        self._name_of = name_of

    def apply(self, batch: Batch, compute: Callable[[Batch], T]) -> Iterator[tuple[Batch, T]]:
        """(part, what `compute` makes of it): the batch as one, or where it does not fit, in parts of whole sequences.

        Raises:
            OutOfMemoryError: a single sequence does not fit.
        """
        pending = [batch]
        while pending:
            part = pending.pop()
            if self.limit is not None and part.total_frames > self.limit and len(part) > 1:
                pending.extend(reversed(part.split(2)))
                continue
            result = _attempt(part, compute)
            if result is None:
                self._halve(part)
                pending.append(part)
            else:
                yield part, result[0]

    def _halve(self, part: Batch) -> None:
        frames = part.total_frames
        if len(part) == 1:
            raise OutOfMemoryError(
                f"memory ran out with sequence {self._name_of(int(part.indices[0]))} alone, {frames} frames. "
                "evaluator_cfg.precision: bf16 (or fp16) halves what it takes; device: cpu may have more memory; "
                "evaluator_cfg.sampler.frames_all_limit would cut it, which changes the figures and is reported"
            )
        self.limit = frames // 2
        logger.warning(
            "memory ran out with a batch of %d frames: going on with at most %d "
            "(evaluator_cfg.frames_per_batch: %d does so from the start)",
            frames,
            self.limit,
            self.limit,
        )


def _attempt(part: Batch, compute: Callable[[Batch], T]) -> tuple[T] | None:
    """None where memory ran out; what the attempt held is free again when this returns."""
    try:
        return (compute(part),)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None


@contextlib.contextmanager
def training_advice(
    cfg: Mapping[str, Any], device: torch.device, iteration: Callable[[], int], resident: int = 0
) -> Iterator[None]:
    """Turns running out of memory into an error that says what to change in `cfg`, the section `trainer_cfg`.

    Args:
        resident: bytes of the data set that are kept in the device's memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_advice(cfg, device, iteration(), resident)) from error


def _advice(cfg: Mapping[str, Any], device: torch.device, iteration: int, resident: int) -> str:
    sampler = cfg["sampler"]
    keys = ("frames_num_fixed", "frames_num_max", "frames_all_limit")
    frames = [f"trainer_cfg.sampler.{key} (now {sampler[key]})" for key in keys if sampler.get(key) is not None]
    advice = [
        f"fewer frames: {' or '.join(frames) or 'trainer_cfg.sampler.frames_all_limit'}",
        f"a smaller batch: trainer_cfg.sampler.batch_size (now {sampler['batch_size']}), or more processes for it",
        f"trainer_cfg.accumulate (now {cfg.get('accumulate', 1)}): the batch in so many parts, where no batch norm "
        "computes statistics",
    ]
    if resident:
        advice.insert(0, f"data_cfg.resident: false, which frees the {resident / 1e9:.1f} GB of the data set")
    if (cfg.get("precision") or "fp32") == "fp32":
        advice.append("trainer_cfg.precision: bf16 or fp16")
    return f"memory of {device} ran out after iteration {iteration}. What helps: {'; '.join(advice)}"
