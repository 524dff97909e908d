"""Transforms that people write for NumPy arrays, one sequence at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from opengait.data.errors import DataError
from opengait.data.transforms.base import Transform
from opengait.data.transforms.draws import Draws


class OnArrays(Transform):
    """Calls a function with the array [s, h, w] (or [s, c, h, w], ...) of each sequence, and puts the results together.

    Python's, NumPy's and PyTorch's global generators are seeded for each sequence from its draws, so that a function
    that uses them gives the same whatever process or worker calls it; afterwards they are as they were.

    Args:
        function: array of a sequence -> array of a sequence.
        name: what messages call it.
    """

    on_device: ClassVar[bool] = False

    def __init__(self, function: Callable[[np.ndarray], Any], name: str) -> None:
        self.function = function
        self.name = name

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        """[n, s, ...] or packed -> the same with what the function makes of the axes of a frame.

        Raises:
            DataError: results that do not fit together.
        """
        seeds = draws.whole_numbers("global generators", 0, 2**32 - 1)
        results = []
        with _generators_kept():
            for sequence, seed in zip(draws.split(frames.cpu()), seeds.tolist(), strict=True):
                random.seed(seed)
                np.random.seed(seed)
                torch.default_generator.manual_seed(seed)
                # A copy, since many a function works in place.
                results.append(np.asarray(self.function(sequence.numpy().copy())))
        return self._join(results, draws, frames).to(frames.device)

    def _join(self, results: list[np.ndarray], draws: Draws, frames: Tensor) -> Tensor:
        first = results[0]
        for result, sequence in zip(results, draws.split(frames), strict=True):
            shapes = [array.shape[1:] if draws.packed else array.shape for array in (first, result)]
            if shapes[0] != shapes[1] or first.dtype != result.dtype:
                raise DataError(
                    f"transform {self.name}: one sequence became {first.dtype} {list(first.shape)} and another "
                    f"{result.dtype} {list(result.shape)}; sequences of a batch have to stay alike"
                )
            if draws.packed and len(result) != len(sequence):
                raise DataError(
                    f"transform {self.name}: {len(sequence)} frames became {len(result)}, and sequences of unequal "
                    "length are packed by their numbers of frames; keep them, or use a fixed number of frames"
                )
        if first.dtype.kind not in "fiub":
            raise DataError(f"transform {self.name}: an array of numbers was expected, found dtype {first.dtype}")
        joined = np.concatenate(results)[None] if draws.packed else np.stack(results)
        return torch.from_numpy(joined)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        size = getattr(self.function, "output_size", None)
        return (height, width) if size is None else size(height, width)


@contextmanager
def _generators_kept() -> Iterator[None]:
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)
