"""What the loader gives and the transforms take."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Batch:
    """Raw frames of n sequences and what is known of them.

    Attributes:
        frames: one tensor a modality, raw dtype (uint8 for silhouettes). `[n, s, ...]` where every sequence has the
            same number of frames, else packed `[1, sum of lengths, ...]`.
        labels: int64 [n], class index in the dataset's `label_set`.
        types, views: walking condition and view of each sequence.
        lengths: int64 [1, n] when packed, else None.
        indices: int64 [n], record indices in the dataset.
        positions: int64 [n], positions in the global batch (training); equal to `indices` in testing.
        iteration: the iteration this batch belongs to, from 0; 0 in testing. With seed and positions, the key of all
            randomness.
        seed: the run's seed.
        as_one: whether a packed batch is augmented as if it were one sequence, with the draws of its first, as the
            reference implementation does.
        prepared: whether what transforms leave to the loader's workers was done: those that work on arrays, or the
            cut that others begin with.
    """

    frames: list[Tensor]
    labels: Tensor
    types: list[str]
    views: list[str]
    lengths: Tensor | None
    indices: Tensor
    positions: Tensor
    iteration: int
    seed: int
    as_one: bool = False
    prepared: bool = False

    def __len__(self) -> int:
        return len(self.types)

    def __getstate__(self) -> dict[str, Any]:
        """For the way from a worker: every tensor of a pickle takes a connection and a shared file of its own, which
        only the frames are worth."""
        small = {name: value.numpy() for name, value in vars(self).items() if _on_cpu(value)}
        return vars(self) | small

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {name: torch.from_numpy(value) for name, value in state.items() if isinstance(value, np.ndarray)}
        vars(self).update(state | arrays)

    @property
    def total_frames(self) -> int:
        """Frames of all its sequences together."""
        return self.frames[0].shape[0] * self.frames[0].shape[1]

    def split(self, number: int) -> list[Batch]:
        """So many batches of neighbouring sequences, views of this one; fewer where it has fewer sequences."""
        number = min(number, len(self))
        borders = [len(self) * part // number for part in range(number + 1)]
        return [self._part(start, stop) for start, stop in itertools.pairwise(borders)]

    def _part(self, start: int, stop: int) -> Batch:
        rows = slice(start, stop)
        if self.lengths is None:
            frames = [one[rows] for one in self.frames]
        else:
            ends = self.lengths[0].cumsum(0).tolist()
            first, last = ends[start - 1] if start else 0, ends[stop - 1]
            frames = [one[:, first:last] for one in self.frames]
        return replace(
            self,
            frames=frames,
            labels=self.labels[rows],
            types=self.types[rows],
            views=self.views[rows],
            lengths=None if self.lengths is None else self.lengths[:, rows],
            indices=self.indices[rows],
            positions=self.positions[rows],
        )

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Frames and labels on the device. The rest stays on the host, where it is used for index arithmetic: reading
        it back from a device would halt the device's queue."""
        return replace(
            self,
            frames=[frames.to(device, non_blocking=non_blocking) for frames in self.frames],
            labels=self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """Page-locked copies, from which a transfer to a GPU runs beside the computation."""
        return replace(self, frames=[frames.pin_memory() for frames in self.frames], labels=self.labels.pin_memory())


def _on_cpu(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cpu"
