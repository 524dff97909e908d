"""The gradient of a whole batch from parts of it, so that only a part's activations are in memory at a time.

Adding up the gradients of smaller batches is something else where a loss compares all sequences with all others, as
batch-all triplets do. Here the parts go through the network without a graph first; the losses see the features of the
whole batch together, and give the gradient of each feature; then every part goes through the network once more, and its
share of these gradients goes back through its own graph. That is the gradient of one batch, at the price of a second
forward pass.

Source: gradient caching (Gao et al., 2021, arXiv 2101.06983), section 3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opengait.data.batch import Batch

Features = dict[str, dict[str, Any]]
Place = tuple[str, str]  # a loss and one of its arguments


def check_accumulation(model: nn.Module, cfg: Mapping[str, Any]) -> None:
    """Raises ValueError where parts would not give the gradient of the whole batch; `cfg` is `trainer_cfg`."""
    training = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    key = f"trainer_cfg.accumulate: {cfg['accumulate']}"
    if training:
        raise ValueError(
            f"{key} would change what is trained: {len(training)} batch norms ({training[0]}, ...) compute their "
            "statistics over the batch, and would over each part. Set trainer_cfg.fix_BN: true, which freezes them, "
            "or leave accumulate out and use more processes with sync_BN, or fewer frames"
        )
    if cfg.get("shard_classes"):
        raise ValueError(f"{key} cannot be joined with shard_classes, whose losses see features with their graphs")
    if cfg["sampler"].get("compat"):
        raise ValueError(
            f"{key} cannot be joined with sampler.compat, which augments a batch as if it were one sequence"
        )


def no_targets(targets: Tensor) -> tuple[Tensor, int]:
    """In the place of `BaseModel.gather_targets`, for parts that do not see the whole batch."""
    raise ValueError(
        "trainer_cfg.accumulate: this network contrasts its sequences with those of the whole batch inside its "
        "forward pass, which a part does not see; leave accumulate out"
    )


class Accumulation:
    """Forward, losses and backward of one batch in parts.

    Args:
        parts: how many.
        model: whose buffers must not change in the forward pass.
        forward: a part -> what the network returns, under autocast.
        losses: training_feat -> (total, info).
        backward: makes gradients of a total, scaled where they have to be.
    """

    def __init__(
        self,
        parts: int,
        model: nn.Module,
        forward: Callable[[Batch], Mapping[str, Any]],
        losses: Callable[[Features], tuple[Tensor, dict[str, Tensor]]],
        backward: Callable[[Tensor], None],
    ) -> None:
        self.parts, self.model = parts, model
        self.forward, self.losses, self.backward = forward, losses, backward

    def __call__(self, batch: Batch, network: nn.Module) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Adds the batch's gradients to the parameters; (total, info, visual_summary), without graphs.

        Raises:
            ValueError: the network gives something that cannot be put together from parts.
        """
        parts = batch.split(self.parts)
        device = next(self.model.parameters()).device
        states, first = [], []
        versions = [buffer._version for buffer in self.model.buffers()]
        for part in parts:
            states.append(_random_state(device))
            with torch.no_grad():
                first.append(self.forward(part))
        self._check_buffers(versions)
        whole, leaves = _joined([output["training_feat"] for output in first], parts)
        summary = _summary([output.get("visual_summary") or {} for output in first], parts)
        del first
        loss, info = self.losses(whole)
        self.backward(loss)
        gradients = {
            place: leaf.grad.split(shares) for place, (leaf, shares) in leaves.items() if leaf.grad is not None
        }
        no_sync = getattr(network, "no_sync", contextlib.nullcontext)
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            _restore_random_state(state, device)
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last else no_sync():  # gradients of processes are averaged once
                own = {place: shares[number] for place, shares in gradients.items()}
                _replay(self.forward(part)["training_feat"], own)
        return loss.detach(), info, summary

    def _check_buffers(self, versions: list[int]) -> None:
        for (name, buffer), version in zip(self.model.named_buffers(), versions, strict=True):
            if buffer._version != version:
                raise ValueError(
                    f"trainer_cfg.accumulate: the forward pass changes the buffer {name}, once for every part and "
                    "again when gradients are replayed; leave accumulate out"
                )


def _joined(feats: list[Features], parts: list[Batch]) -> tuple[Features, dict[Place, tuple[Tensor, list[int]]]]:
    """training_feat of the whole batch, and its tensors that gradients are wanted of, with each part's rows."""
    whole: Features = {}
    leaves: dict[Place, tuple[Tensor, list[int]]] = {}
    for prefix, arguments in feats[0].items():
        if not isinstance(arguments, Mapping):
            raise ValueError(
                f"trainer_cfg.accumulate: the network computes '{prefix}' of a part by itself, which is not that of "
                "the whole batch; leave accumulate out"
            )
        whole[prefix] = {}
        for name, value in arguments.items():
            values = [feat[prefix][name] for feat in feats]
            if not isinstance(value, Tensor):
                whole[prefix][name] = value
                continue
            _check_rows(prefix, name, values, parts)
            joined = torch.cat(values)
            if joined.is_floating_point():
                joined.requires_grad_()
                leaves[prefix, name] = joined, [len(one) for one in values]
            whole[prefix][name] = joined
    return whole, leaves


def _check_rows(prefix: str, name: str, values: list[Tensor], parts: list[Batch]) -> None:
    """Rows of a tensor belong to sequences, or to frames of sequences."""
    by_sequence = all(value.dim() and len(value) == len(part) for value, part in zip(values, parts, strict=True))
    by_frame = all(value.dim() and len(value) == part.total_frames for value, part in zip(values, parts, strict=True))
    if not by_sequence and not by_frame:
        raise ValueError(
            f"trainer_cfg.accumulate: training_feat['{prefix}']['{name}'] {list(values[0].shape)} has no row for each "
            f"of the part's {len(parts[0])} sequences; leave accumulate out"
        )


def _summary(summaries: list[Mapping[str, Tensor]], parts: list[Batch]) -> dict[str, Tensor]:
    """Images of the first part; of numbers the mean over the batch."""
    whole = dict(summaries[0])
    weights = [len(part) / sum(map(len, parts)) for part in parts]
    for key in whole:
        if key.startswith("scalar/"):
            whole[key] = torch.stack(
                [weight * one[key].detach().mean() for weight, one in zip(weights, summaries, strict=True)]
            ).sum()
    return whole


def _replay(feat: Features, gradients: Mapping[Place, Tensor]) -> None:
    """Sends a part's share of the gradients back through its graph."""
    values = {place: feat[place[0]][place[1]] for place in gradients}
    wanted = [place for place, value in values.items() if value.requires_grad]
    if wanted:
        torch.autograd.backward([values[place] for place in wanted], [gradients[place] for place in wanted])


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """A part is dropped out the same way in both passes."""
    host, own = state
    torch.set_rng_state(host)
    if own is not None:
        torch.cuda.set_rng_state(own, device)
