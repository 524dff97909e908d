"""What would make the host wait for a device, found without one: tensors without memory stand for those of a GPU."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opengait.data.batch import Batch
from opengait.engine import deferred
from opengait.engine.optimizer import build_optimizer
from opengait.engine.trainer import Trainer

DEVICE = torch.device("meta")


class HostRead(AssertionError):
    """The host would wait for the device."""


class _Operations(TorchDispatchMode):
    """Refuses operations that read from the device, and those that send to it from memory that may change."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in given if one.device == DEVICE]
        to = torch.device(kwargs.get("device") or (given[0].device if given else "cpu"))
        if name in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal") and there:
            raise HostRead(f"{name} of a tensor on the device")
        if name in ("_to_copy", "copy_") and len({one.device for one in given} | {to}) > 1:
            waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            if waits or to != DEVICE:
                raise HostRead(f"{name} from {given[-1].device} to {to}")
        elif there and any(one.device != DEVICE and one.dim() for one in given):
            # CUDA refuses most of these; indices it copies, and waits.
            raise HostRead(f"{name} of tensors on the device and on the host")
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Refuses tensors made on the device from Python's numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE
        if (made and not isinstance(args[0], Tensor)) or (func is Tensor.new_tensor and args[0].device == DEVICE):
            raise HostRead(f"{func.__name__} of numbers, on the device")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == DEVICE:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(one, (list, np.ndarray)) for one in index):
                raise HostRead("a list as the index of a tensor on the device")
        return func(*args, **kwargs)


@contextlib.contextmanager
def no_host_reads() -> Iterator[None]:
    """A `with` block in which nothing may wait for the device `DEVICE`."""
    with _Operations(), _Calls():
        yield


def reads(work: Callable[[], Any]) -> str:
    """What made the host wait in some work; empty where nothing did."""
    try:
        with no_host_reads():
            work()
    except (HostRead, NotImplementedError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def check_iteration(trainer: Trainer, batch: Batch) -> None:
    """Two iterations wait for nothing, without the fused kernel and the outcome; the trainer is spoilt by it."""
    trainer.device = DEVICE
    trainer.model.train().to(DEVICE)
    trainer.losses.to(DEVICE)
    trainer.optimizer = build_optimizer(trainer.config["optimizer_cfg"], trainer.model)
    trainer.kept, trainer.total_iter, trainer.defers = deferred.KeptBuffers(), 10**9, True
    trainer.scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]  # else it warns of an order
    trained: list[bool] = []
    with (
        patch.object(deferred, "has_moments", lambda optimizer: True),
        patch.object(deferred.Sent, "read", lambda self: [0.0, 0.0]),
        patch.object(trainer.optimizer, "step", lambda: trained.append(True)),
        no_host_reads(),
    ):
        results = deferred.steps(trainer, itertools.repeat(batch))
        for _ in range(2):
            trainer.call("after_step", next(results))
    assert len(trained) == 2
    assert trainer.log_hook.means.steps >= 2
