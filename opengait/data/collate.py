"""Sequences -> one batch of raw frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.errors import DataError
from opengait.data.frames import FrameChoice
from opengait.data.randomness import generator
from opengait.data.transforms import Transforms

Empty = Callable[[Sequence[int], np.dtype], np.ndarray]


class BatchReader:
    """Reads the chosen frames of a list of sequences, and nothing else of them, into a Batch.

    Args:
        dataset, choice: where the frames come from, and which are taken.
        purpose: the purpose that frame choice is keyed by, with (seed, iteration, position).
        packed: join sequences along time, whatever their lengths; None does so only where the lengths differ.
        transforms: what they leave to the loader's workers is done here.
        as_one: augment a packed batch as if it were one sequence.
    """

    def __init__(
        self,
        dataset: GaitDataset,
        choice: FrameChoice,
        seed: int,
        purpose: str,
        packed: bool | None,
        transforms: Transforms | None = None,
        as_one: bool = False,
    ) -> None:
        self.dataset = dataset
        self.choice = choice
        self.seed = seed
        self.purpose = purpose
        self.packed = packed
        self.transforms = transforms
        self.as_one = as_one

    def read(self, iteration: int, positions: np.ndarray, indices: np.ndarray, empty: Empty = np.empty) -> Batch:
        """The batch of these sequences.

        Args:
            empty: makes the arrays that hold the frames.

        Raises:
            DataError: a file that cannot be used, or frames of unequal shape or dtype in one batch.
        """
        opened = [self.dataset.open(int(index)) for index in indices]
        chosen = [
            self.choice.choose(len(arrays[0]), generator(self.purpose, self.seed, iteration, int(position)))
            for arrays, position in zip(opened, positions, strict=True)
        ]
        counts = [len(frame_indices) for frame_indices in chosen]
        packed = len(set(counts)) > 1 if self.packed is None else self.packed
        frames = [
            self._join(modality, opened, chosen, indices, packed, empty) for modality in range(self.dataset.modalities)
        ]
        lengths = torch.tensor([counts]) if packed else None
        batch = Batch(
            frames=frames,
            labels=torch.from_numpy(self.dataset.class_index[indices]),
            types=[self.dataset.types[index] for index in indices],
            views=[self.dataset.views[index] for index in indices],
            lengths=lengths,
            indices=torch.from_numpy(np.asarray(indices, dtype=np.int64)),
            positions=torch.from_numpy(np.asarray(positions, dtype=np.int64)),
            iteration=iteration,
            seed=self.seed,
            as_one=self.as_one,
        )
        return batch if self.transforms is None else self.transforms.prepare(batch)

    def _join(
        self,
        modality: int,
        opened: list[list[np.ndarray]],
        chosen: list[np.ndarray],
        indices: np.ndarray,
        packed: bool,
        empty: Empty,
    ) -> Tensor:
        """One modality of all sequences, [n, s, ...] or packed [1, sum of lengths, ...]."""
        first = opened[0][modality]
        total = sum(len(frames) for frames in chosen)
        # Filled in place: every frame is copied once, from the mapped file into the batch.
        joined = empty((total, *first.shape[1:]), first.dtype.newbyteorder("="))
        start = 0
        for arrays, frames, index in zip(opened, chosen, indices, strict=True):
            array = arrays[modality]
            if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
                raise DataError(
                    f"sequence {self.dataset.name(int(index))}, modality {modality}: frames of shape "
                    f"{list(array.shape[1:])} and dtype {array.dtype}, others in the batch "
                    f"({self.dataset.name(int(indices[0]))}) have {list(first.shape[1:])} and {first.dtype}"
                )
            joined[start : start + len(frames)] = array.take(frames, axis=0)
            start += len(frames)
        shape = (1, total) if packed else (len(opened), len(chosen[0]))
        return torch.from_numpy(joined).reshape(*shape, *first.shape[1:])
