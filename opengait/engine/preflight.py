"""What can be known to be wrong before the first iteration."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from opengait.data.dataset import GaitDataset
from opengait.data.transforms import Transforms

logger = logging.getLogger(__name__)


def check_training(config: Mapping[str, Any], dataset: GaitDataset, transforms: Transforms, model: nn.Module) -> None:
    """Data, transforms and network against each other.

    Raises:
        ValueError: modalities and transforms differ in number, the network cannot take the frames, or a classifier
            has fewer classes than there are training subjects.
    """
    transforms.check_count(dataset.modalities)
    check_frame_size(dataset, transforms, model)
    check_class_numbers(config["model_cfg"], len(dataset.label_set))


def check_frame_size(dataset: GaitDataset, transforms: Transforms, model: nn.Module) -> None:
    """The first sequence's frame size through the transforms and to the network; first modality with frames."""
    check = getattr(model, "check_frame_size", None)
    frames = dataset.open(0)[0]
    if check is None or frames.ndim < 3:
        return
    size = transforms.transforms[0].output_size(*frames.shape[-2:])
    try:
        check(*size)
    except ValueError as error:
        height, width = frames.shape[-2:]
        raise ValueError(
            f"{dataset.name(0)}: frames are {height}x{width}, {size[0]}x{size[1]} transformed: {error}"
        ) from error


def check_class_numbers(model_cfg: Mapping[str, Any], subjects: int) -> None:
    """Every `class_num` in model_cfg against the number of training subjects: fewer is an error, more a warning."""
    for key, classes in _class_numbers(model_cfg, "model_cfg"):
        if classes < subjects:
            raise ValueError(f"{key}: {classes} classes for {subjects} training subjects; set it to {subjects}")
        if classes > subjects:
            logger.warning("%s: %d classes for %d training subjects", key, classes, subjects)


def _class_numbers(tree: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == "class_num" and isinstance(value, int):
                yield f"{path}.{key}", value
            else:
                yield from _class_numbers(value, f"{path}.{key}")
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _class_numbers(value, f"{path}[{number}]")
