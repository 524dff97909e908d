"""Raw frames -> network input, batched and on the batch's own device."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from opengait.data.batch import Batch
from opengait.data.errors import DataError
from opengait.data.transforms.draws import Draws
from opengait.registry import TRANSFORMS, nearest


class Transform(Protocol):
    """One modality of a batch, `[n, s, ...]` or packed `[1, sum of lengths, ...]`, raw -> float32."""

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor: ...

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Frame size after the transform; ValueError where it leaves nothing."""
        ...


class Identity:
    """A null entry: the values as they are, as float32."""

    def __call__(self, frames: Tensor, draws: Draws) -> Tensor:
        return frames.float()

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width


class Transforms:
    """One transform a modality, in file order."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __len__(self) -> int:
        return len(self.transforms)

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Float32 tensors on the batch's device, one a modality.

        Raises:
            DataError: the numbers of modalities and transforms differ.
        """
        self.check_count(len(batch.frames))
        return [
            transform(frames, Draws.of_batch(batch, f"modality {number}"))
            for number, (transform, frames) in enumerate(zip(self.transforms, batch.frames, strict=True))
        ]

    def check_count(self, modalities: int) -> None:
        if modalities != len(self.transforms):
            raise DataError(
                f"sequences have {modalities} modalities and the section `transform` has {len(self.transforms)} "
                "entries; one entry a modality in use, in file order (choose files with data_cfg.data_in_use)"
            )


def build_transforms(list_cfg: Sequence[Mapping[str, Any] | None]) -> Transforms:
    """The transforms of a section `transform`: a list of mappings with `type` and arguments, null for none.

    Raises:
        ValueError: no list, an unknown type, an argument that the type does not take.
    """
    if not isinstance(list_cfg, list | tuple):
        raise DataError(f"transform: a list with one entry a modality was expected, found {list_cfg!r}")
    return Transforms([_build(entry, f"transform[{number}]") for number, entry in enumerate(list_cfg)])


def _build(entry: object, where: str) -> Transform:
    if entry is None:
        return Identity()
    if not isinstance(entry, Mapping) or "type" not in entry:
        raise DataError(f"{where}: a mapping with `type` or null was expected, found {entry!r}")
    build = TRANSFORMS.get(entry["type"])
    arguments = {key: value for key, value in entry.items() if key != "type"}
    takes = list(inspect.signature(build).parameters)
    for key in arguments:
        if key not in takes:
            near = nearest(key, takes)
            hint = f" (did you mean '{near}'?)" if near else ""
            raise DataError(f"{where}: {entry['type']} takes no argument '{key}'{hint}; it takes: {', '.join(takes)}")
    return build(**arguments)
