"""Raw frames -> network input, batched and on the batch's own device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from opengait.data.batch import Batch
from opengait.data.errors import DataError
from opengait.data.transforms.base import Transform
from opengait.data.transforms.build import build_transform
from opengait.data.transforms.compose import Compose, after_cut, first_cut, works_on_arrays
from opengait.data.transforms.draws import Draws

__all__ = ["Draws", "Transform", "Transforms", "build_transforms"]


class Transforms:
    """One transform a modality, in file order.

    A loader that is given them applies in its workers those that work on arrays, and cuts that others begin with
    (`prepare`); calling them does the rest on the batch's device, and all of it where no loader has.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __len__(self) -> int:
        return len(self.transforms)

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Float32 tensors on the batch's device, one a modality.

        Raises:
            DataError: the numbers of modalities and transforms differ.
        """
        batch = self.prepare(batch)
        return [_finish(*each).float() for each in self._of_modalities(batch)]

    def prepare(self, batch: Batch) -> Batch:
        """The batch after what is for the loader's workers; a batch that was prepared stays as it is."""
        if batch.prepared or not any(works_on_arrays(one) or first_cut(one) for one in self.transforms):
            return batch
        return replace(batch, frames=[_begin(*each) for each in self._of_modalities(batch)], prepared=True)

    def on_arrays(self) -> list[str]:
        """Names of those that work on arrays."""
        return [
            getattr(transform, "name", type(transform).__name__)
            for transform in self.transforms
            if works_on_arrays(transform)
        ]

    def _of_modalities(self, batch: Batch) -> list[tuple[Transform, Tensor, Draws]]:
        self.check_count(len(batch.frames))
        return [
            (transform, frames, Draws.of_batch(batch, f"modality {number}"))
            for number, (transform, frames) in enumerate(zip(self.transforms, batch.frames, strict=True))
        ]

    def check_count(self, modalities: int) -> None:
        if modalities != len(self.transforms):
            raise DataError(
                f"sequences have {modalities} modalities and the section `transform` has {len(self.transforms)} "
                "entries; one entry a modality in use, in file order (choose files with data_cfg.data_in_use)"
            )


def _begin(transform: Transform, frames: Tensor, draws: Draws) -> Tensor:
    if (cut := first_cut(transform)) is not None:
        return cut.cut(frames)
    if isinstance(transform, Compose):
        return transform.begin(frames, draws)
    return transform(frames, draws) if works_on_arrays(transform) else frames


def _finish(transform: Transform, frames: Tensor, draws: Draws) -> Tensor:
    if first_cut(transform) is not None:
        return after_cut(transform, frames, draws)
    if isinstance(transform, Compose):
        return transform.finish(frames, draws)
    return frames if works_on_arrays(transform) else transform(frames, draws)


def build_transforms(list_cfg: Sequence[Mapping[str, Any] | None]) -> Transforms:
    """The transforms of a section `transform`: a list of mappings with `type` and arguments, null for none.

    Raises:
        ValueError: no list, an unknown type, an argument that the type does not take.
    """
    if not isinstance(list_cfg, list | tuple):
        raise DataError(f"transform: a list with one entry a modality was expected, found {list_cfg!r}")
    return Transforms([build_transform(entry, f"transform[{number}]") for number, entry in enumerate(list_cfg)])
