"""Whether the training data are kept in the device's memory: `data_cfg.resident`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from opengait.data.dataset import GaitDataset
from opengait.data.memory import is_out_of_memory
from opengait.data.resident import ResidentFrames, resident_bytes, resident_obstacle
from opengait.data.transforms import Transforms
from opengait.engine.memory import OutOfMemoryError

logger = logging.getLogger(__name__)

# What `auto` leaves to network, activations, optimiser and tests of a device's whole memory. How much they take shows
# only while they run; a run that takes more than this is one to set `resident` by hand for.
RESERVE = 0.5


def check_resident(
    data_cfg: Mapping[str, Any], dataset: GaitDataset, transforms: Transforms, model: nn.Module
) -> str | None:
    """The error of `resident: true` with data or a network that it cannot be used with; None where there is none."""
    if data_cfg.get("resident", False) is not True:
        return None
    obstacle = resident_obstacle(dataset, data_cfg, _applied(transforms, model))
    return None if obstacle is None else f"data_cfg.resident: true: {obstacle}"


def keep_resident(
    data_cfg: Mapping[str, Any],
    dataset: GaitDataset,
    transforms: Transforms,
    model: nn.Module,
    device: torch.device,
) -> ResidentFrames | None:
    """The training data in the device's memory as `data_cfg.resident` wants it; None: a loader reads the frames.

    `auto` keeps them on CUDA where they fit into what is free beside a reserve of half the device's memory.

    Raises:
        ValueError: `true`, and it is not possible.
        OutOfMemoryError: `true`, and they do not fit.
    """
    setting = data_cfg.get("resident", False)
    if setting is False:
        return None
    if setting == "auto":
        obstacle = auto_obstacle(data_cfg, dataset, transforms, model, device)
        if obstacle is not None:
            logger.info("data_cfg.resident: auto: a loader reads the frames, since %s", obstacle)
            return None
    elif (obstacle := resident_obstacle(dataset, data_cfg, _applied(transforms, model))) is not None:
        raise ValueError(f"data_cfg.resident: true: {obstacle}")
    return _load(dataset, device)


def auto_obstacle(
    data_cfg: Mapping[str, Any],
    dataset: GaitDataset,
    transforms: Transforms,
    model: nn.Module,
    device: torch.device,
) -> str | None:
    """Why `auto` would not keep the training data on the device; None where it would."""
    if device.type != "cuda":
        return f"{device} has no memory of its own"
    obstacle = resident_obstacle(dataset, data_cfg, _applied(transforms, model))
    return obstacle or no_room(resident_bytes(dataset), *torch.cuda.mem_get_info(device))


def no_room(needed: int, free: int, total: int) -> str | None:
    """Why so many bytes should not be taken of a device with `free` of `total` bytes left; None where they may."""
    left = free - int(RESERVE * total)
    if needed <= left:
        return None
    return (
        f"they take {needed / 1e9:.1f} GB and {free / 1e9:.1f} of {total / 1e9:.1f} GB are free, "
        f"of which {RESERVE:.0%} of the whole is kept for the network"
    )


def _load(dataset: GaitDataset, device: torch.device) -> ResidentFrames:
    try:
        frames = ResidentFrames(dataset, device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"data_cfg.resident: true: {resident_bytes(dataset) / 1e9:.1f} GB of frames do not fit into the memory of "
            f"{device}; `false` reads them with a loader, `auto` does so where they do not fit"
        ) from error
    logger.info("%.2f GB of frames are kept in the memory of %s (data_cfg.resident)", frames.bytes / 1e9, device)
    return frames


def _applied(transforms: Transforms, model: nn.Module) -> Transforms | None:
    return None if getattr(model, "transforms_itself", False) else transforms
