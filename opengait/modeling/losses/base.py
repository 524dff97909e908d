"""What every loss is."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn


class BaseLoss(nn.Module):
    """A loss of keyword arguments, which knows nothing of processes.

    `forward(**kwargs)` returns (loss, info): the loss a scalar or one value a part [p], info a mapping from names to
    detached tensors.

    Args:
        loss_term_weight: factor of this loss in the total.
    """

    pairwise: ClassVar[bool] = False
    """Whether the loss compares sequences, and so needs the batch of all processes together."""

    def __init__(self, loss_term_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_term_weight = loss_term_weight
        self.info: dict[str, Tensor] = {}

    # Declared as a callable, since every loss names its own arguments.
    forward: Callable[..., tuple[Tensor, dict[str, Tensor]]]
