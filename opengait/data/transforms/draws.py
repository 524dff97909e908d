"""The random numbers of one batch: one a sequence, a function of the sequence's place in the run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from opengait.data.batch import Batch
from opengait.data.randomness import uniforms

FRAME_BITS = 24  # a sequence has fewer than 2^24 frames


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
        device, positions, lengths = batch.frames[0].device, batch.positions, batch.lengths
        if batch.as_one and lengths is not None:
            positions, lengths = positions[:1], lengths.sum(dim=1, keepdim=True)
        return cls(batch.seed, batch.iteration, positions, device, lengths, stream)

    def __len__(self) -> int:
        """Sequences n."""
        return len(self._positions)

    @property
    def packed(self) -> bool:
        """Whether sequences are joined along time."""
        return self._lengths is not None

    def within(self, name: str) -> Draws:
        """The draws of one step of a chain, apart from those of its other steps."""
        return self._like(self._positions, self._lengths, f"{self.stream}/{name}")

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Real numbers in [low, high), float32 [n]."""
        return self._send(self.numbers(name, low, high).astype(np.float32))

    def integers(self, name: str, low: int, high: int) -> Tensor:
        """Whole numbers from low to high, both included, int64 [n]."""
        return self._send(self.whole_numbers(name, low, high))

    def numbers(self, name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Real numbers in [low, high) on the host, float64 [n]: what is decided there waits for no device."""
        return low + (high - low) * self._unit(name)

    def whole_numbers(self, name: str, low: int | np.ndarray, high: int | np.ndarray) -> np.ndarray:
        """Whole numbers from low to high, both included, on the host, int64 [n]; a bound may be one a sequence."""
        return (low + np.floor(self._unit(name) * (high - low + 1))).astype(np.int64)

    def chosen(self, prob: float) -> np.ndarray:
        """Which sequences of the batch a change of that probability falls on, int64 [k]."""
        return np.flatnonzero(self.numbers("whether") < prob)

    def only(self, chosen: np.ndarray) -> Draws:
        """The draws of some sequences of the batch."""
        lengths = None if self._lengths is None else self._lengths[:, torch.from_numpy(chosen)]
        return self._like(self._positions[chosen], lengths, self.stream)

    def of_frames(self, frames: Tensor) -> Draws:
        """Draws for which every frame is a sequence of its own, packed [1, n s, ...]; keyed by its place in its own."""
        if self._lengths is None:
            positions = np.repeat(self._positions, frames.shape[1])
            places = np.tile(np.arange(frames.shape[1]), len(self._positions))
        else:
            lengths = self._lengths[0].numpy()
            positions = np.repeat(self._positions, lengths)
            places = np.concatenate([np.arange(length) for length in lengths])
        alone = torch.ones((1, len(places)), dtype=torch.int64)
        return self._like((positions << FRAME_BITS) + places, alone, f"{self.stream}/frame")

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """Where the chosen sequences are along the first axis of a batch, or along time when packed, int64."""
        if self._lengths is None:
            return chosen
        ends = np.cumsum(self._lengths[0].numpy())
        starts = ends - self._lengths[0].numpy()
        return np.concatenate([np.arange(starts[one], ends[one]) for one in chosen])

    def by_row(self, values: np.ndarray) -> Tensor:
        """One value a sequence [n, ...] -> one a row as `rows` counts them, on the device; float64 as float32."""
        if self._lengths is not None:
            values = values.repeat(self._lengths[0].numpy(), axis=0)
        return self._send(values.astype(np.float32) if values.dtype == np.float64 else values)

    def split(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The frames [s, ...] of each sequence."""
        return frames.unbind() if self._lengths is None else frames[0].split(self._lengths[0].tolist())

    def per_frame(self, values: Tensor, frames: Tensor) -> Tensor:
        """One value a sequence [n] -> a shape that multiplies frames: [n, 1, 1, ...], or packed [1, s, 1, ...]."""
        ones = (1,) * (frames.ndim - 2)
        if self._lengths is None:
            return values.reshape(-1, 1, *ones)
        # The total is given, so that the device need not be asked for it.
        repeats = self._lengths[0].to(values.device, non_blocking=True)
        return values.repeat_interleave(repeats, output_size=frames.shape[1]).reshape(1, -1, *ones)

    def _like(self, positions: np.ndarray, lengths: Tensor | None, stream: str) -> Draws:
        return Draws(self.seed, self.iteration, torch.from_numpy(positions), self.device, lengths, stream)

    def _unit(self, name: str) -> np.ndarray:
        return uniforms(f"{self.stream}/{name}", self.seed, self.iteration, self._positions)

    def _send(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)
