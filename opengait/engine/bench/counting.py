"""Operations and bytes of a piece of work, counted from what is dispatched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_UNTOUCHED = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
}


class Traffic(TorchDispatchMode):
    """Adds up the bytes that every operation reads and writes, as if nothing stayed in a cache between two.

    Views cost nothing; a tensor that is spread over a larger shape counts once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func not in _UNTOUCHED:
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(_bytes(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        return result


class Counter:
    """Within `with`, counts matrix products and convolutions in `flops`, and traffic in `bytes`."""

    def __init__(self) -> None:
        self._flops, self._traffic = FlopCounterMode(display=False), Traffic()

    def __enter__(self) -> Counter:
        self._flops.__enter__()
        self._traffic.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._traffic.__exit__(*error)
        self._flops.__exit__(*error)

    @property
    def flops(self) -> int:
        return int(self._flops.get_total_flops())

    @property
    def bytes(self) -> int:
        return self._traffic.bytes


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
