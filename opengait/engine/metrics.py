"""Means over a log interval, summed on the device so that no iteration waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from opengait.engine.distributed import gather_rows, rank, world_size


class IntervalMeans:
    """Sums of named values since the last reading.

    Values of single processes are weighted by their number of sequences, so that the mean is that of one process over
    the whole batch; a value that every process has alike is not changed by this.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, info: Mapping[str, Tensor]) -> None:
        """One iteration's values `scalar/<name>` -> tensor of any shape, of which the mean counts."""
        self.steps += 1
        for name, value in info.items():
            if name.startswith("scalar/"):
                mean = torch.as_tensor(value).detach().float().mean()
                self._sums[name] = self._sums[name] + mean if name in self._sums else mean

    def read(self, shares: Sequence[int]) -> dict[str, float]:
        """Name without `scalar/` -> mean over interval and processes, in order of first appearance; starts anew.

        Args:
            shares: sequences of every process.
        """
        if not self._sums:
            return {}
        means = torch.stack(list(self._sums.values())) / self.steps
        if world_size() > 1:
            everyone = gather_rows(means[None].cpu(), [1] * world_size())
            weights = torch.tensor(shares, dtype=everyone.dtype) / sum(shares)
            means = (everyone * weights[:, None]).sum(0)
        result = dict(zip((name.removeprefix("scalar/") for name in self._sums), means.tolist(), strict=True))
        self.steps, self._sums = 0, {}
        return result

    def state_dict(self) -> dict[str, Any]:
        """Sums of every process, so that a resumed run logs what an uninterrupted one does; needs all processes."""
        own = torch.stack(list(self._sums.values())).cpu()[None] if self._sums else torch.zeros(1, 0)
        return {"steps": self.steps, "names": list(self._sums), "sums": gather_rows(own, [1] * world_size())}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on in the middle of an interval; with another number of processes the interval starts anew."""
        if len(state["sums"]) == world_size():
            self.steps = int(state["steps"])
            own = state["sums"][rank()].to(device)
            self._sums = {name: own[number].clone() for number, name in enumerate(state["names"])}
