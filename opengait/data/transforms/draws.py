"""The random numbers of one batch: one a sequence, a function of the sequence's place in the run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from opengait.data.batch import Batch
from opengait.data.randomness import uniforms


class Draws:
    """Keyed random numbers for the n sequences of a batch.

    Equal names give equal numbers, so that a transform names each of its decisions. A sequence gets the same number
    whatever else is in the batch, however sequences are packed and on whatever device they are.

    Args:
        seed, iteration, positions: the key; positions int64 [n], on the host.
        device: where numbers are wanted.
        lengths: frames a sequence, int64 [1, n], when packed.
        stream: separates uses of the same names (one stream a modality).
    """

    def __init__(
        self,
        seed: int,
        iteration: int,
        positions: Tensor,
        device: torch.device | str,
        lengths: Tensor | None = None,
        stream: str = "",
    ) -> None:
        self.seed, self.iteration, self.stream = seed, iteration, stream
        self.device = torch.device(device)
        self._positions = positions.numpy()
        self._lengths = lengths

    @classmethod
    def of_batch(cls, batch: Batch, stream: str) -> Draws:
        device = batch.frames[0].device
        return cls(batch.seed, batch.iteration, batch.positions, device, batch.lengths, stream)

    def within(self, name: str) -> Draws:
        """The draws of one step of a chain, apart from those of its other steps."""
        return Draws(
            self.seed, self.iteration, torch.from_numpy(self._positions), self.device, self._lengths,
            f"{self.stream}/{name}",
        )  # fmt: skip

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Real numbers in [low, high), float32 [n]."""
        return self._send((low + (high - low) * self._unit(name)).astype(np.float32))

    def integers(self, name: str, low: int, high: int) -> Tensor:
        """Whole numbers from low to high, both included, int64 [n]."""
        return self._send((low + np.floor(self._unit(name) * (high - low + 1))).astype(np.int64))

    def per_frame(self, values: Tensor, frames: Tensor) -> Tensor:
        """One value a sequence [n] -> a shape that multiplies frames: [n, 1, 1, ...], or packed [1, s, 1, ...]."""
        ones = (1,) * (frames.ndim - 2)
        if self._lengths is None:
            return values.reshape(-1, 1, *ones)
        # The total is given, so that the device need not be asked for it.
        repeats = self._lengths[0].to(values.device, non_blocking=True)
        return values.repeat_interleave(repeats, output_size=frames.shape[1]).reshape(1, -1, *ones)

    def _unit(self, name: str) -> np.ndarray:
        return uniforms(f"{self.stream}/{name}", self.seed, self.iteration, self._positions)

    def _send(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)
