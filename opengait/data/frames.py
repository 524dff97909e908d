"""Which frames of a sequence are taken: the `sample_type` of a sampler section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from opengait.data.errors import DataError
from opengait.registry import nearest

NUMBERS = ("fixed", "unfixed", "all")
ORDERS = ("ordered", "unordered", "allordered")
SAMPLE_TYPES = [f"{number}_{order}" for number in NUMBERS for order in ORDERS]


class FrameChoice:
    """Takes frame indices out of a sequence of T frames.

    How many, n: `fixed` takes `frames_num_fixed`; `unfixed` draws a number from `frames_num_min` to `frames_num_max`
    for each sequence; `all` takes every frame in natural order, up to the first `frames_all_limit`.

    Which: `unordered` draws n without replacement (with, where T < n) and keeps the order drawn; `allordered` sorts
    them; `ordered` takes a random window of n + `frames_skip_num` neighbouring frames, repeating the sequence where it
    is shorter, and leaves out `frames_skip_num` of them at random.

    Args:
        sampler_cfg: `sample_type` and the keys above that it needs; with `compat: reference` the frames of
            `allordered` stay unsorted, as the reference implementation leaves them. Further keys are other classes'
            business.

    Raises:
        DataError: an unknown sample type, a missing or impossible number.
    """

    def __init__(self, sampler_cfg: Mapping[str, Any]) -> None:
        self.sample_type = sampler_cfg.get("sample_type")
        if self.sample_type not in SAMPLE_TYPES:
            near = nearest(str(self.sample_type), SAMPLE_TYPES)
            hint = f" (did you mean '{near}'?)" if near else ""
            known = ", ".join(SAMPLE_TYPES)
            raise DataError(f"sampler.sample_type: unknown value {self.sample_type!r}{hint}; known: {known}")
        self.number, self.order = self.sample_type.split("_")
        if sampler_cfg.get("points_in_use"):
            raise DataError("sampler.points_in_use: point clouds are not supported")
        self.sorts = self.order == "allordered" and sampler_cfg.get("compat") != "reference"
        self._cfg = sampler_cfg
        self.limit: int | None = None
        if self.number == "fixed":
            self.low = self.high = self._whole("frames_num_fixed", 1)
        elif self.number == "unfixed":
            self.low, self.high = self._whole("frames_num_min", 1), self._whole("frames_num_max", 1)
            if self.low > self.high:
                raise DataError(f"sampler: frames_num_min {self.low} is above frames_num_max {self.high}")
        elif sampler_cfg.get("frames_all_limit") is not None:
            self.limit = self._whole("frames_all_limit", 1)
        windowed = self.order == "ordered" and self.number != "all"
        self.skip = self._whole("frames_skip_num", 0) if windowed else 0

    def _whole(self, key: str, least: int) -> int:
        value = self._cfg.get(key)
        if value is None:
            raise DataError(f"sampler.{key}: is needed for sample_type {self.sample_type}")
        if type(value) is not int or value < least:
            raise DataError(f"sampler.{key}: a whole number of {least} or more was expected, found {value!r}")
        return value

    @property
    def equal_lengths(self) -> bool:
        """Whether every sequence gives the same number of frames, so that a batch needs no packing."""
        return self.number == "fixed"

    def count(self, length: int, rng: np.random.Generator) -> int:
        """How many frames `choose` takes of a sequence, when it is given a generator of the same state."""
        if self.number == "all":
            return length if self.limit is None else min(length, self.limit)
        return self.low if self.number == "fixed" else int(rng.integers(self.low, self.high, endpoint=True))

    def counts(self, lengths: np.ndarray, generator_of: Callable[[int], np.random.Generator]) -> np.ndarray:
        """`count` for sequences 0, 1, 2, ..., int64 [n], each with its own generator where one is needed."""
        if self.number == "all":
            return lengths if self.limit is None else np.minimum(lengths, self.limit)
        if self.number == "fixed":
            return np.full(len(lengths), self.low)
        return np.array([self.count(int(length), generator_of(index)) for index, length in enumerate(lengths)])

    def choose(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Frame indices, int64 [n], out of 0 .. length - 1."""
        count = self.count(length, rng)
        if self.number == "all":
            return np.arange(count)
        if self.order == "ordered":
            return self._window(length, count, rng)
        chosen = rng.integers(0, length, count) if length < count else rng.permutation(length)[:count]
        return np.sort(chosen) if self.sorts else chosen

    def _window(self, length: int, count: int, rng: np.random.Generator) -> np.ndarray:
        window = count + self.skip
        repeated = length * -(-window // length) if length < window else length
        start = rng.integers(0, repeated - window, endpoint=True)
        kept = np.sort(rng.permutation(window)[:count])
        return (start + kept) % length

    def cut(self, lengths: np.ndarray) -> int:
        """How many sequences lose frames to `frames_all_limit`."""
        return 0 if self.limit is None else int((lengths > self.limit).sum())
