"""What a network is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """One batch, transformed and on the network's device. All but `ipts` may be None.

    Attributes:
        ipts: one float tensor a modality. Fixed length: `[n, s, ...]`; packed: `[1, sum of lengths, ...]`.
        labs: class indices, `[n]`.
        typs: walking condition of each sequence.
        vies: view of each sequence.
        seqL: lengths of packed sequences, int `[1, n]`; None when every sequence has the same length.
    """

    ipts: Sequence[Tensor]
    labs: Tensor | None = None
    typs: Sequence[str] | None = None
    vies: Sequence[str] | None = None
    seqL: Tensor | None = None
