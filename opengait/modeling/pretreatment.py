"""What networks of the field that override `inputs_pretreament` are given, and what is made of their result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opengait.modeling.inputs import Inputs

Modality = list[np.ndarray]


@dataclass
class Pretreatment:
    """One batch on its way through a network's own `inputs_pretreament`.

    Args:
        batch: raw frames (`opengait.data.batch.Batch`).
        transforms: those of the engine section in use.
    """

    batch: Any
    transforms: Any

    def collated(self) -> list[Any]:
        """The field's five entries: for each modality a list of n arrays `[s, ...]` (packed: of one array
        `[sum of lengths, ...]`), class indices, types, views, and lengths, int `[1, n]` or None."""
        frames = [list(one.cpu().numpy()) for one in self.batch.frames]
        lengths = None if self.batch.lengths is None else self.batch.lengths.cpu().numpy()
        return [frames, self.batch.labels.tolist(), list(self.batch.types), list(self.batch.views), lengths]

    def sequence_transforms(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """One callable a modality: an array `[s, ...]` of one sequence -> float32 array, by the batch's transforms."""
        return [_OneSequence(self, number) for number in range(len(self.transforms))]

    def default(self, collated: Sequence[Any]) -> Inputs:
        """What becomes of five entries, with other modalities than the batch has if need be.

        Raises:
            ValueError: they are not five, or a modality's arrays differ in shape.
        """
        data, labels, types, views, lengths = _five(collated, "inputs_pretreament is given")
        device = self.batch.labels.device
        frames = [torch.from_numpy(_stacked(arrays, number)).to(device) for number, arrays in enumerate(data)]
        whole = replace(self.batch, frames=frames, lengths=None if lengths is None else torch.as_tensor(lengths))
        return Inputs(self.transforms(whole), _labels(labels, device), list(types), list(views), whole.lengths)

    def finished(self, result: Any) -> Inputs:
        """What an overridden `inputs_pretreament` returned, as tensors on the network's device.

        Raises:
            ValueError: it is not five entries.
        """
        ipts, labels, types, views, lengths = _five(result, "inputs_pretreament must return")
        device = self.batch.labels.device
        if isinstance(lengths, np.ndarray):
            lengths = torch.from_numpy(lengths)
        return Inputs([_floats(one, device) for one in ipts], _labels(labels, device), types, views, lengths)


class _AsItIs:
    on_device = True

    def __call__(self, frames: Tensor, draws: Any) -> Tensor:
        return frames


class _OneSequence:
    """A batched transform for one sequence at a time, as loops over `self.trainer_trfs` call it.

    Calls go through the sequences of the batch in order (packed: each is for all of them), so that each has the random
    numbers it would have in the batch; a second round, for another view of each, has others.
    """

    def __init__(self, pretreatment: Pretreatment, modality: int) -> None:
        self.batch, self.modality = pretreatment.batch, modality
        transforms = pretreatment.transforms
        # Something has to stand before it, since the place of a modality is part of its random numbers' key.
        self.transforms = type(transforms)([_AsItIs()] * modality + [transforms.transforms[modality]])
        self.calls = 0

    def __call__(self, frames: Any) -> np.ndarray:
        """Frames [s, ...] -> float32 [s, ...]."""
        batch = self.batch
        one = torch.as_tensor(np.asarray(frames))[None]
        turn, place = (self.calls, 0) if batch.lengths is not None else divmod(self.calls, len(batch))
        self.calls += 1
        own = replace(batch, frames=[one] * (self.modality + 1), seed=batch.seed + (turn << 32))
        if batch.lengths is None:
            chosen = slice(place, place + 1)
            own = replace(
                own,
                labels=batch.labels[chosen],
                types=batch.types[chosen],
                views=batch.views[chosen],
                indices=batch.indices[chosen],
                positions=batch.positions[chosen],
            )
        return self.transforms(own)[-1][0].numpy()


def _five(entries: Any, what: str) -> Sequence[Any]:
    if not isinstance(entries, (list, tuple)) or len(entries) != 5:
        found = f"{len(entries)} entries" if isinstance(entries, (list, tuple)) else type(entries).__name__
        raise ValueError(f"{what} ipts, labs, typs, vies, seqL; found {found}")
    return entries


def _stacked(arrays: Any, modality: int) -> np.ndarray:
    try:
        return np.stack([one.cpu().numpy() if isinstance(one, Tensor) else np.asarray(one) for one in arrays])
    except ValueError as error:
        shapes = sorted({tuple(np.shape(one)) for one in arrays})
        raise ValueError(f"inputs_pretreament: sequences of modality {modality} have shapes {shapes}") from error


def _labels(labels: Any, device: torch.device) -> Tensor | None:
    return None if labels is None else torch.as_tensor(labels, dtype=torch.int64).to(device)


def _floats(value: Any, device: torch.device) -> Any:
    """Float tensors on the device, also inside lists (several views of a batch)."""
    if isinstance(value, (list, tuple)) and not all(np.isscalar(one) for one in value):
        return [_floats(one, device) for one in value]
    return torch.as_tensor(value).to(device).float()
