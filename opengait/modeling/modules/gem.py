"""Generalised-mean pooling of horizontal strips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from opengait.modeling.modules.precision import full_precision, no_autocast


class GeMHPP(nn.Module):
    """Generalised mean of horizontal strips, with one learnt power for all of them; key `p`.

    y = (mean(max(x, eps)^p))^(1/p): p = 1 is the mean, a large p the maximum. Each strip is divided by its largest
    value first and multiplied by it again: the same map, and neither 1e-6^p nor its gradient leaves float32.

    Source: GaitGL (Lin et al., ICCV 2021), section 3.3; generalised mean: Radenovic et al., TPAMI 2019.

    Args:
        bin_num: numbers of strips; their sum is the number of parts p.
        p: initial power.
        eps: smallest value that is raised to it.
    """

    def __init__(self, bin_num: Sequence[int] = (64,), p: float = 6.5, eps: float = 1.0e-6) -> None:
        super().__init__()
        self.bin_num = list(bin_num)
        self.p = nn.Parameter(torch.full((1,), p))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, p], at least float32, in the order of `bin_num`.

        Raises:
            ValueError: a number of strips does not divide h * w.
        """
        h, w = x.shape[-2:]
        wrong = [bins for bins in self.bin_num if (h * w) % bins]
        if wrong:
            raise ValueError(f"a map of {h}x{w} cannot be cut into {wrong} equal strips (bin_num {self.bin_num})")
        with no_autocast(x):
            plane = full_precision(x).flatten(2).clamp(min=self.eps)
            return torch.cat([self._pool(plane.unflatten(2, (bins, -1))) for bins in self.bin_num], dim=-1)

    def _pool(self, strips: Tensor) -> Tensor:
        """[n, c, p, values] -> [n, c, p]."""
        largest = strips.detach().amax(-1, keepdim=True)
        mean = (strips / largest).pow(self.p).mean(-1)
        return mean.pow(1.0 / self.p) * largest.squeeze(-1)
