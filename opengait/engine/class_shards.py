"""Classifiers whose classes are spread over the processes: who has which, norms over all of them, checkpoints.

A classifier `fc_bin` [p, c, k] of 20,000 classes and 64 parts has more parameters than the rest of a network many times
over. Where each process keeps the weights, gradients and moments of a part of the classes alone, none of these are
sent between processes; the loss is that of the whole classifier (`opengait.engine.sharded_loss`).

Checkpoints hold whole classifiers, so that any number of processes can go on with them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from opengait.engine.distributed import is_main, rank, world_size
from opengait.engine.findings import Findings
from opengait.engine.sharded_loss import takes_shards
from opengait.modeling.modules.heads import PartClassifier
from opengait.registry import LOSSES

logger = logging.getLogger(__name__)

KEY = "trainer_cfg.shard_classes"
# Each number of a parameter is updated from its own gradient and moments, so that a part of it can be updated alone.
ELEMENTWISE = ("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


def classifiers(model: nn.Module) -> dict[str, PartClassifier]:
    """The layers whose classes can be spread, by their names in the network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PartClassifier)}


def class_ranges(classes: int, processes: int) -> list[range]:
    """The classes of every process: as many each, and one more for the first ones where that does not work out."""
    each, more = divmod(classes, processes)
    begins = [number * each + min(number, more) for number in range(processes + 1)]
    return [range(begin, end) for begin, end in itertools.pairwise(begins)]


def check_shards(
    model: nn.Module, loss_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]], findings: Findings
) -> None:
    """Whether network and losses allow for `shard_classes`, with whatever number of processes."""
    found = classifiers(model)
    if not found:
        findings.error(
            f"{KEY}: {type(model).__name__} has no classifier whose classes can be spread over processes, which are "
            "those of SeparateBNNecks and SeparateClassifiers; set it to false"
        )
        return
    for name, layer in found.items():
        if layer.class_num < world_size():
            findings.error(f"{KEY}: {name} has {layer.class_num} classes for {world_size()} processes; set it to false")
    types = [entry["type"] for entry in ([loss_cfg] if isinstance(loss_cfg, Mapping) else loss_cfg)]
    if not any(takes_shards(LOSSES.get(name)) for name in types):
        findings.error(
            f"{KEY}: it is for CrossEntropyLoss, and loss_cfg has {', '.join(types)}; set it to false, or add that loss"
        )


def check_elementwise(optimizer: Optimizer) -> None:
    """Whether an optimiser can update a part of a parameter by itself.

    Raises:
        ValueError: it cannot, or nothing is known of it.
    """
    name = type(optimizer).__name__
    if type(optimizer) is not getattr(torch.optim, name, None) or name not in ELEMENTWISE:
        raise ValueError(
            f"{KEY}: {name} is not known to update each number of a parameter by itself, as "
            f"{', '.join(ELEMENTWISE)} do; choose one of these as optimizer_cfg.solver, or set it to false"
        )


class ClassShards:
    """Cuts the classifiers of a network, and what an optimiser keeps of them, down to this process's classes.

    Parameters stay the same objects. To be made after weights and moments were restored.

    Args:
        model: its `PartClassifier` layers are cut; `check_shards` has found nothing against it.
        optimizer: one that `check_elementwise` lets pass.

    Attributes:
        layers: those that were cut, by name.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.layers = classifiers(model)
        for name, layer in self.layers.items():
            self._cut(layer)
            if is_main():
                own = layer.fc_bin.numel() / 1e6
                whole = own * layer.class_num / layer.fc_bin.shape[2]
                logger.info(
                    "%s: %d classes over %d processes, %.2f of %.2f million parameters in this one",
                    *(name, layer.class_num, world_size(), own, whole),
                )

    def _cut(self, layer: PartClassifier) -> None:
        parameter, own = layer.fc_bin, class_ranges(layer.class_num, world_size())[rank()]
        whole = parameter.shape
        moments = self.optimizer.state.get(parameter, {})
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == whole:
                moments[name] = _columns(value, own)
        # No new parameter: the optimiser and its groups hold on to this one.
        parameter.data = _columns(parameter.data, own)
        layer.begin = own.start

    @property
    def keys(self) -> list[str]:
        """State-dict keys of the parameters that differ between processes."""
        return [f"{name}.fc_bin" for name in self.layers]

    def total_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Norm [] of the gradients of all processes together; `gradients` are this one's, of all its parameters."""
        own = self._gradients()
        shared = [gradient for gradient in gradients if all(gradient is not one for one in own)]
        square = torch.nn.utils.get_total_norm(shared).square()
        if own:
            squares = torch.nn.utils.get_total_norm(own).square()
            dist.all_reduce(squares)
            square = squares + square
        return square.sqrt()

    def spread_overflow(self) -> None:
        """A gradient that is not finite on one process becomes so on all, so that all skip the step."""
        own = self._gradients()
        if not own:
            return
        bad = (~torch.isfinite(torch.nn.utils.get_total_norm(own, float("inf")))).float()
        dist.all_reduce(bad, dist.ReduceOp.MAX)
        own[0].view(-1)[:1].add_(torch.where(bad > 0, torch.nan, 0.0))

    def _gradients(self) -> list[Tensor]:
        return [layer.fc_bin.grad for layer in self.layers.values() if layer.fc_bin.grad is not None]

    def whole_model(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's state dict, made to have whole classifiers on the main process, under the same keys.

        Others only send what they have. Needs all processes.
        """
        for key, layer in zip(self.keys, self.layers.values(), strict=True):
            weights[key] = _join(weights[key], layer.class_num)
        return weights

    def whole_optimizer(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The optimiser's state dict with moments of whole classifiers, in the same way."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        kept = dict(state["state"])
        for layer in self.layers.values():
            for number, parameter in enumerate(parameters):
                if parameter is layer.fc_bin and number in kept:
                    # A new mapping: that of the state dict is the one the optimiser works with.
                    kept[number] = {
                        name: _join(value, layer.class_num)
                        if isinstance(value, Tensor) and value.shape == parameter.shape
                        else value
                        for name, value in kept[number].items()
                    }
        return {**state, "state": kept}


def _columns(values: Tensor, own: range) -> Tensor:
    """[p, c, k] -> [p, c, k'], in memory of its own so that the whole can be freed."""
    return values[..., own.start : own.stop].clone(memory_format=torch.contiguous_format)


def _join(part: Tensor, classes: int) -> Tensor:
    """[p, c, k'] of every process -> [p, c, k] on the main process's host; the own part elsewhere."""
    own = part.detach().cpu()
    if not is_main():
        dist.send(own.contiguous(), 0)
        return own
    whole = own.new_empty((*own.shape[:-1], classes))
    for source, columns in enumerate(class_ranges(classes, world_size())):
        received = own if source == 0 else own.new_empty((*own.shape[:-1], len(columns)))
        if source:
            dist.recv(received, source)
        whole[..., columns.start : columns.stop] = received
    return whole
