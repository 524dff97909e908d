"""From feature maps to parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HorizontalPoolingPyramid:
    """Mean plus max of horizontal strips, at several numbers of strips. No parameters.

    Source: Horizontal Pyramid Matching (Fu et al., AAAI 2019, arXiv 1804.05275).

    Args:
        bin_num: numbers of strips; their sum is the number of parts p.
    """

    def __init__(self, bin_num: Sequence[int] | None = None) -> None:
        self.bin_num = list(bin_num) if bin_num is not None else [16, 8, 4, 2, 1]

    def __call__(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, p], in the order of `bin_num`.

        Raises:
            ValueError: a number of strips does not divide h * w.
        """
        h, w = x.shape[-2:]
        wrong = [bins for bins in self.bin_num if (h * w) % bins]
        if wrong:
            raise ValueError(f"a map of {h}x{w} cannot be cut into {wrong} equal strips (bin_num {self.bin_num})")
        plane = x.flatten(2)
        strips = [plane.unflatten(2, (bins, -1)) for bins in self.bin_num]
        return torch.cat([strip.mean(-1) + strip.max(-1).values for strip in strips], dim=-1)
