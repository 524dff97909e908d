"""The sequences of one split: labels, lengths, frames."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from opengait.data.errors import DataError
from opengait.data.packed import PackedStore, is_packed
from opengait.data.packed_index import PackedIndex
from opengait.data.partition import Partition, read_partition
from opengait.data.store import Selection, SequenceStore
from opengait.data.tree import PickleTree, subject_folders

log = logging.getLogger(__name__)


class GaitDataset(Dataset):
    """The training or test sequences of a data set, subjects in the order of the partition.

    Attributes:
        labels, types, views: one string a sequence, in record order.
        label_set, type_set, view_set: the different ones, sorted as strings; a sequence's class index is the position
            of its label in `label_set`.
        sequences_of: label -> indices of its sequences.
        class_index: int64 [n], the class index of every sequence.
        absent, unlisted: subjects of the split without a folder; folders that neither split of the partition names.

    Args:
        data_cfg: `dataset_root` (a folder tree or a packed store), `dataset_partition`, and optionally `data_in_use`,
            `cache` (keep every sequence in memory), `self_supervised` (training: every sequence is a class of its own),
            `dataset_name`.
        training: take TRAIN_SET, else TEST_SET.

    Raises:
        DataError: a ValueError that names the file or folder, what was found and what was expected.
    """

    def __init__(self, data_cfg: Mapping[str, Any], training: bool) -> None:
        self.training = training
        self.partition: Partition = read_partition(data_cfg["dataset_partition"])
        self.root = Path(data_cfg["dataset_root"])
        selection = Selection(data_cfg.get("data_in_use"))
        self.store: SequenceStore
        if is_packed(self.root):
            index = PackedIndex(self.root)
            subjects = self._present_subjects(index.subjects)
            self.store = PackedStore(index, subjects, selection)
        else:
            subjects = self._present_subjects(subject_folders(self.root))
            self.store = PickleTree(self.root, subjects, selection)
        if not self.store.subjects:
            raise DataError(
                f"{self.root}: no sequence found for {self._split} of {self.partition.source}; "
                f"{len(subjects)} subject folders such as {subjects[0]!r} were expected to hold type/view/*.pkl"
            )
        self._name_sequences(str(data_cfg.get("dataset_name") or ""), bool(data_cfg.get("self_supervised")))
        self._lengths: np.ndarray | None = None
        self._cache: list[list[np.ndarray]] | None = None
        if data_cfg.get("cache"):
            self._cache = [self.read(index) for index in range(len(self))]

    @property
    def _split(self) -> str:
        return "TRAIN_SET" if self.training else "TEST_SET"

    def _present_subjects(self, folders: list[str]) -> list[str]:
        """The split's subjects that there are; what does not match is counted in the log."""
        known = set(folders)
        listed = self.partition.train if self.training else self.partition.test
        if not listed:
            raise DataError(f"{self.partition.source}: {self._split} names no subject")
        present = [subject for subject in listed if subject in known]
        if not present:
            raise DataError(
                f"{self.root}: none of the {len(listed)} subjects in {self._split} of {self.partition.source} "
                f"({_examples(listed)}) has a folder here; found {len(folders)} folders ({_examples(folders)})"
            )
        self.absent = [subject for subject in listed if subject not in known]
        if self.absent:
            log.warning("%d of %d subjects in %s are not in %s: %s",
                        len(self.absent), len(listed), self._split, self.root, _examples(self.absent))  # fmt: skip
        self.unlisted = sorted(known - set(self.partition.train) - set(self.partition.test))
        if self.unlisted:
            log.info("%d folders in %s are in neither set of %s: %s",
                     len(self.unlisted), self.root, self.partition.source, _examples(self.unlisted))  # fmt: skip
        return present

    def _name_sequences(self, dataset_name: str, self_supervised: bool) -> None:
        store = self.store
        self.labels, self.types, self.views = store.subjects, store.types, store.views
        if "d-gait" in dataset_name.lower():  # its walking conditions are graded per subject
            self.types = [f"{subject}-{kind}" for subject, kind in zip(store.subjects, store.types, strict=True)]
        if self_supervised and self.training:
            self.labels = ["-".join(names) for names in zip(store.subjects, store.types, store.views, strict=True)]
        self.label_set, self.type_set, self.view_set = (
            sorted(set(names)) for names in (self.labels, self.types, self.views)
        )
        sequences_of: defaultdict[str, list[int]] = defaultdict(list)
        for index, label in enumerate(self.labels):
            sequences_of[label].append(index)
        self.sequences_of: dict[str, list[int]] = dict(sequences_of)

    @cached_property
    def class_index(self) -> np.ndarray:
        position = {label: index for index, label in enumerate(self.label_set)}
        return np.array([position[label] for label in self.labels], dtype=np.int64)

    @property
    def modalities(self) -> int:
        """Arrays per sequence."""
        return self.store.modalities

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What a message calls a sequence."""
        return f"{self.store.subjects[index]}/{self.store.types[index]}/{self.store.views[index]}"

    def lengths(self) -> np.ndarray:
        """Frames per sequence, int64 [n]. In a folder tree, found once by a look at every file's header, and cached
        between runs."""
        if self._lengths is None:
            self._lengths = self.store.lengths()
        return self._lengths

    def open(self, index: int) -> list[np.ndarray]:
        """One array a modality, [frames, ...], read only; frames are fetched from disk when they are indexed."""
        if self._cache is not None:
            return self._cache[index]
        arrays = []
        for modality, frames in enumerate(self.store.open(index)):
            if isinstance(frames, list):
                raise DataError(
                    f"{self.root}: sequence {self.name(index)}, modality {modality}: its frames hold unequal numbers "
                    "of points, of which no batch can be made; leave it out with data_cfg.data_in_use"
                )
            arrays.append(frames)
        return arrays

    def read(self, index: int, frames: np.ndarray | None = None) -> list[np.ndarray]:
        """One array a modality in its raw dtype, all frames or those of the given indices; the caller's own copy."""
        return [np.array(array) if frames is None else array.take(frames, axis=0) for array in self.open(index)]

    def fingerprint(self) -> dict[str, Any]:
        """Counts, and a digest of the sequences and their lengths; the same for any way of storing them."""
        return dict(self._fingerprint)

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        lengths = self.lengths()
        digest = hashlib.sha256()
        store = self.store
        for subject, kind, view, length in zip(store.subjects, store.types, store.views, lengths, strict=True):
            digest.update(f"{subject}\0{kind}\0{view}\0{length}\n".encode())
        return {
            "split": self._split,
            "subjects": len(self.label_set),
            "sequences": len(self),
            "frames": int(lengths.sum()),
            "modalities": self.modalities,
            "digest": digest.hexdigest(),
        }


def _examples(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "none"
