"""What every loss is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

Forward = TypeVar("Forward", bound=Callable[..., Any])


def gather_and_scale_wrapper(forward: Forward) -> Forward:
    """The field's decorator of a `forward` on pairs: the same as `pairwise = True` in the class."""
    forward.pairwise = True  # type: ignore[attr-defined]
    return forward


class BaseLoss(nn.Module):
    """A loss of keyword arguments, which knows nothing of processes.

    `forward(**kwargs)` returns (loss, info): the loss a scalar or one value a part [p], info a mapping from names to
    detached tensors. Parameters to be learnt, and buffers that change, belong to the network, which hands them over.

    Args:
        loss_term_weight: factor of this loss in the total.
    """

    pairwise: ClassVar[bool] = False
    """Whether the loss compares sequences, and so needs the batch of all processes together."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if getattr(vars(cls).get("forward"), "pairwise", False):
            cls.pairwise = True

    def __init__(self, loss_term_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_term_weight = loss_term_weight
        self.info: dict[str, Tensor] = {}

    # Declared as a callable, since every loss names its own arguments.
    forward: Callable[..., tuple[Tensor, dict[str, Tensor]]]
