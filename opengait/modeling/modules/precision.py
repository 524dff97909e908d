"""Heads, losses and distances run in float32 whatever the precision of the layers before them."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Context in which autocast leaves operations on the device of `x` alone."""
    if x.device.type == "meta":  # tensors without values, by which work is counted; torch knows no autocast for them
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)
