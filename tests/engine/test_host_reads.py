"""Where the host would wait for a device is found without one, and there is no such place in a quiet iteration.

Every shipped recipe goes through the same check in `tests/test_shipped_recipes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from host_reads import DEVICE, reads

X = torch.zeros(4, 3, device=DEVICE)
HOST = torch.arange(2)


@pytest.mark.parametrize(
    "work",
    [
        lambda: X.sum().item(),
        lambda: X.tolist(),
        lambda: bool((X > 0).any()),
        lambda: int(X[0, 0]),
        lambda: X.cpu(),
        lambda: X.nonzero(),
        lambda: X[X > 0],
        lambda: X[:, HOST],
        lambda: X[:, [0, 2]],
        lambda: X.index_select(0, HOST),
        lambda: HOST.to(DEVICE),
        lambda: torch.zeros(3, device=DEVICE).copy_(torch.ones(3)),
        lambda: torch.tensor([0.5], device=DEVICE),
        lambda: X.new_tensor([0.5]),
        lambda: torch.arange(4, device=DEVICE).repeat_interleave(torch.ones(4, device=DEVICE, dtype=torch.int64)),
    ],
)
def test_what_waits_is_found(work: Callable[[], Any]) -> None:
    assert reads(work)


@pytest.mark.parametrize(
    "work",
    [
        lambda: HOST.sum().item(),
        lambda: HOST.to(DEVICE, non_blocking=True),
        lambda: X * torch.tensor(2.0),
        lambda: X[:, HOST.to(DEVICE, non_blocking=True)],
        lambda: torch.where(X > 0, X, 0).sum(),
        lambda: X.split([1, 3]),
        lambda: torch.full((2,), 0.5, device=DEVICE),
    ],
)
def test_what_does_not_wait_is_not(work: Callable[[], Any]) -> None:
    assert reads(work) == ""
