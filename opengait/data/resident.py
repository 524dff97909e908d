"""A packed data set kept in a device's memory, from which batches are gathered where they are used.

What a loader would copy frame by frame is one indexed read of the device's memory. Loader workers, where there are any,
only draw which frames are taken: batches of row numbers travel in the place of frames.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.packed import PackedStore
from opengait.data.packed_index import Modality
from opengait.data.store import Frames, SequenceStore
from opengait.data.transforms import Transforms

STRETCH = 1 << 26  # bytes that pass through the host's memory at once


def resident_obstacle(dataset: GaitDataset, data_cfg: Mapping[str, Any], transforms: Transforms | None) -> str | None:
    """Why a data set cannot be kept on a device, as a sentence that says what would help; None where it can.

    Args:
        transforms: what is applied to its batches; None: the network makes its inputs of arrays by itself.
    """
    store = dataset.store
    if not isinstance(store, PackedStore):
        return f"{dataset.root} is a folder tree of pickles; `opengait pack {dataset.root}` makes a packed store of it"
    if any(modality.ragged for modality in store.used):
        return f"{dataset.root}: frames with unequal numbers of points; leave them out with data_cfg.data_in_use"
    if data_cfg.get("cache"):
        return "data_cfg.cache keeps the same frames in the host's memory; one of the two is enough"
    if transforms is None:
        return "this network makes its inputs of arrays in the host's memory (inputs_pretreament)"
    if on_arrays := transforms.on_arrays():
        return f"transform {on_arrays[0]} works on arrays in the host's memory"
    return None


def resident_bytes(dataset: GaitDataset) -> int:
    """What the frames of a packed data set's split take; known from its index."""
    store = dataset.store
    if not isinstance(store, PackedStore):
        raise TypeError(f"a packed store was expected, found {type(store).__name__}")
    return int(dataset.lengths().sum()) * sum(modality.row_bytes for modality in store.used)


class ResidentFrames:
    """All frames of a split of a packed store in the memory of one device, in their own dtype.

    Attributes:
        rows: the data set with the number of its row here in the place of each frame; what a loader is to read.

    Args:
        dataset: one without a `resident_obstacle`.

    Raises:
        DataError: a file of the store cannot be read.
        RuntimeError, MemoryError: no memory for it.
    """

    def __init__(self, dataset: GaitDataset, device: torch.device) -> None:
        store = dataset.store
        if not isinstance(store, PackedStore):
            raise TypeError(f"a packed store was expected, found {type(store).__name__}")
        lengths = dataset.lengths()
        self.device = device
        self._modalities = [_Resident(modality, int(lengths.sum()), device) for modality in store.used]
        start = 0
        for stretch in store.stretches(STRETCH):
            for kept, frames in zip(self._modalities, stretch, strict=True):
                kept.fill(start, frames)
            start += len(stretch[0])
        self.rows = copy.copy(dataset)
        self.rows.store = _RowNumbers(store, lengths)
        self.rows._cache = None

    @property
    def bytes(self) -> int:
        """Of all modalities."""
        return sum(one.frames.nbytes for one in self._modalities)

    def batch(self, rows: Batch) -> Batch:
        """A batch of row numbers, read from `rows` -> the batch of the frames, which lie on the device."""
        [numbers] = rows.frames
        numbers = numbers.to(self.device, non_blocking=True)
        return replace(rows, frames=[one.take(numbers) for one in self._modalities])


class _Resident:
    """One modality: each frame is a row of bytes, since not every dtype can be gathered."""

    def __init__(self, modality: Modality, count: int, device: torch.device) -> None:
        self.frames = torch.empty((count, modality.row_bytes), dtype=torch.uint8, device=device)
        self.shape = modality.row
        self.dtype = torch.from_numpy(np.empty(0, modality.dtype.newbyteorder("="))).dtype
        # Gathered element by element, so the wider an element, the fewer there are.
        self.element = torch.int64 if modality.row_bytes % 8 == 0 else torch.uint8

    def fill(self, start: int, frames: np.ndarray) -> None:
        # A copy, since torch takes no memory that may not be written to.
        rows = torch.from_numpy(np.array(frames).reshape(len(frames), -1).view(np.uint8))
        self.frames[start : start + len(frames)].copy_(rows)

    def take(self, numbers: Tensor) -> Tensor:
        """Row numbers [n, s] -> frames [n, s, ...]."""
        taken = self.frames.view(self.element).index_select(0, numbers.reshape(-1))
        return taken.view(self.dtype).reshape(*numbers.shape, *self.shape)


class _RowNumbers(SequenceStore):
    """The sequences of another store, with one modality: where each frame's row is."""

    modalities = 1

    def __init__(self, store: PackedStore, lengths: np.ndarray) -> None:
        self.subjects, self.types, self.views = store.subjects, store.types, store.views
        self._lengths = lengths
        self._starts = np.cumsum(lengths) - lengths

    def open(self, index: int) -> list[Frames]:
        start = int(self._starts[index])
        return [np.arange(start, start + int(self._lengths[index]))]

    def lengths(self) -> np.ndarray:
        return self._lengths

    def damage(self, done: Callable[[int], object]) -> Iterator[str]:
        return iter(())
