"""fp32, bf16 or fp16: what the forward pass computes in, and how a step is taken."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from opengait.engine.class_shards import ClassShards

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_name(engine_cfg: Mapping[str, Any], device: torch.device) -> str:
    """'fp32', 'bf16' or 'fp16' for an engine section on a device.

    `precision` decides where it is given; otherwise `enable_float16: true` is fp16 on CUDA and fp32 on a CPU.

    Raises:
        ValueError: `precision` is none of the three.
    """
    asked = engine_cfg.get("precision")
    if asked is not None:
        if asked not in DTYPES:
            raise ValueError(f"precision {asked!r}: expected one of {', '.join(DTYPES)}")
        if asked == "bf16" and not has_fast_bf16(device):
            logger.warning("precision: bf16 is emulated on this CPU, many times slower than fp32")
        return str(asked)
    if not engine_cfg.get("enable_float16", False):
        return "fp32"
    if device.type == "cuda":
        return "fp16"
    logger.info("enable_float16 has no effect on a CPU: computing in fp32 (precision: bf16 or fp16 would force it)")
    return "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself; CPUs without such instructions emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False


class Precision:
    """Autocast for the forward pass and the step that belongs to it.

    Losses are computed outside of `autocast()`, in float32.

    Args:
        name: fp32, bf16 or fp16.
        device: where the network is.
        training: fp16 training scales the loss (`torch.amp.GradScaler`), testing never does.
        clip_grad_norm: largest norm of all gradients together; None leaves them.
        scaler_options: arguments for the scaler, such as `init_scale`.
        growth_skips: a step at which the scale grows counts as skipped although it was taken, as in the reference
            implementation.

    Attributes:
        shards: the parameters of which this process has a part, where there are such.
        overflowed: fp16: the last step was skipped, since a scaled gradient was not finite.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        *,
        training: bool = False,
        clip_grad_norm: float | None = None,
        scaler_options: Mapping[str, Any] | None = None,
        growth_skips: bool = False,
    ) -> None:
        self.name = name
        self.device = device
        self.clip_grad_norm = clip_grad_norm
        self.growth_skips = growth_skips
        self.shards: ClassShards | None = None
        self.overflowed = False
        self.scaler: torch.amp.GradScaler | None = None
        if training and name == "fp16":
            self.scaler = torch.amp.GradScaler(device.type, **(scaler_options or {}))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of the forward pass."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.name])

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss; of the scaled loss in fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def non_finite(self, loss: Tensor, optimizer: Optimizer) -> Tensor:
        """bool []: the loss, or without a scaler a gradient, is not finite; stays on the device.

        In fp16 an infinite gradient means that the scale is too large, which is the scaler's business.
        """
        bad = ~torch.isfinite(loss.detach())
        if self.scaler is None:
            gradients = _gradients(optimizer)
            if gradients:
                bad = bad | ~torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        return bad

    def step(self, optimizer: Optimizer) -> bool:
        """Clips and steps; whether the weights were changed and the step counts.

        fp16: a step is skipped when the scaler finds a gradient that is not finite. The scale says nothing about it: it
        also changes when it grows, after many good steps.
        """
        if self.scaler is None:
            self._clip(optimizer)
            optimizer.step()
            return True
        if self.shards is not None:
            self.shards.spread_overflow()
        before = self.scaler.get_scale() if self.growth_skips else 0.0
        self.scaler.unscale_(optimizer)
        self._clip(optimizer)
        self.overflowed = bool(self._overflow(optimizer))
        if not self.overflowed:
            optimizer.step()
        self.scaler.update()
        return not self.overflowed and not (self.growth_skips and self.scaler.get_scale() != before)

    def step_unless(self, bad: Tensor, optimizer: Optimizer) -> Tensor:
        """The same step, of a fused optimiser, left out by the device where `bad` or an overflow: bad, 0 or 1 [] -> [].

        The result is 1 where the step was left out, and the host waits for nothing. The scale of the loss has changed
        either way, and as it should only where the step was taken (see `restore_scaler`).
        """
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
            bad = torch.maximum(bad, self._overflow(optimizer))
        self._clip(optimizer)
        optimizer.found_inf = bad  # type: ignore[attr-defined]  # as torch's scaler hands it to fused optimisers
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
        if self.scaler is not None:
            self.scaler.update()
        return bad

    def _overflow(self, optimizer: Optimizer) -> Tensor:
        """0 or 1 []: whether the scaler, in unscaling, has found a gradient that is not finite."""
        assert self.scaler is not None
        return torch.stack(list(self.scaler._found_inf_per_device(optimizer).values())).amax()

    def scaler_state(self) -> list[Tensor]:
        """The scale of the loss and how often it was right, on the device; empty without a scaler."""
        return [] if self.scaler is None else [one.clone() for one in self._of_scaler()]

    def restore_scaler(self, state: list[Tensor]) -> None:
        """Makes the scaler what it was."""
        for one, kept in zip(self._of_scaler(), state, strict=True):
            one.copy_(kept)

    def _of_scaler(self) -> list[Tensor]:
        found = [] if self.scaler is None else [self.scaler._scale, self.scaler._growth_tracker]
        return [one for one in found if one is not None]

    def _clip(self, optimizer: Optimizer) -> None:
        if self.clip_grad_norm is not None:
            gradients = _gradients(optimizer)
            norm = self.shards.total_norm(gradients) if self.shards else torch.nn.utils.get_total_norm(gradients)
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_grad_norm, norm)

    @property
    def scale(self) -> float | None:
        """What losses are multiplied by in fp16 training; None without a scaler."""
        return None if self.scaler is None else self.scaler.get_scale()

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, empty without one."""
        return self.scaler.state_dict() if self.scaler is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a scaler's state, where both have one."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
