"""Sections that choose a class by name: model, losses, optimiser, scheduler, transforms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from opengait.config import dead
from opengait.config.bind import array_parameter, bind, signature_of
from opengait.config.problems import Report, did_you_mean
from opengait.config.source import Node
from opengait.config.typed import check_model, show
from opengait.registry import BACKBONES, LOSSES, MODELS, TRANSFORMS, Registry

# Arguments of schedules that may be a list with an entry for every parameter group.
PER_GROUP = ("base_lr", "max_lr", "base_momentum", "max_momentum")
UNFIT_OPTIMIZERS = {
    "LBFGS": "it needs to run the network several times a step",
    "SparseAdam": "it takes sparse gradients only",
}
UNFIT_SCHEDULERS = {
    "ReduceLROnPlateau": "it needs a figure at every step, and schedules here step once an iteration",
    "LambdaLR": "it takes a Python function, which YAML cannot hold",
    "MultiplicativeLR": "it takes a Python function, which YAML cannot hold",
    "ChainedScheduler": "it takes scheduler objects, which YAML cannot hold",
    "SequentialLR": "it takes scheduler objects, which YAML cannot hold",
}


def choose(node: Node, selector: str, place: str, report: Report) -> str | None:
    """The name under the selector key; None (and a problem) where it is missing or not text."""
    chosen = node.value.get(selector)
    if chosen is None:
        report.problem(node, f"{place}.{selector}", f"missing; '{selector}' must be given")
    elif not isinstance(chosen.value, str):
        report.problem(chosen, f"{place}.{selector}", f"expected a name, found {show(chosen.plain())}")
    else:
        return chosen.value
    return None


def from_registry(
    registry: Registry, node: Node, selector: str, place: str, report: Report
) -> Callable[..., Any] | None:
    """The class that the selector key names."""
    name = choose(node, selector, place, report)
    if name is None:
        return None
    if name not in registry:
        known = ", ".join(registry.names())
        message = f"unknown {registry.kind} '{name}'{did_you_mean(name, registry.names())}; known: {known}"
        report.problem(node.value[selector], f"{place}.{selector}", message)
        return None
    try:
        return registry.get(name)
    except ImportError as error:
        report.problem(
            node.value[selector], f"{place}.{selector}", f"{registry.kind} '{name}' cannot be imported: {error}"
        )
        return None


def check_model_section(node: Node, place: str, report: Report) -> tuple[Node, Any]:
    """model_cfg against the `Settings` of the model class; returns the section and the class (None if unknown)."""
    model = from_registry(MODELS, node, "model", place, report)
    settings = getattr(model, "Settings", None)
    if model is None or settings is None:
        return node, model
    chosen = node.value["model"]
    table = {key: why for key, why in dead.MODEL.items() if key not in settings.model_fields}
    node = dead.drop(node, table, place, report)
    arguments = {key: value for key, value in node.value.items() if key != "model"}
    checked, _ = check_model(settings, _with(node, arguments), place, report, chosen.layer)
    found = {"model": chosen, **checked.value}
    if "backbone_cfg" in found:
        found["backbone_cfg"] = _check_backbone(found["backbone_cfg"], f"{place}.backbone_cfg", report)
    return _with(node, found), model


def _check_backbone(node: Node, place: str, report: Report) -> Node:
    """A backbone, or a list of them."""
    if node.is_list:
        return _with(node, [_check_backbone(one, f"{place}.{index}", report) for index, one in enumerate(node.value)])
    backbone = from_registry(BACKBONES, node, "type", place, report) if node.is_mapping else None
    return node if backbone is None else bind(backbone, node, place, report)


def _with(node: Node, value: Any) -> Node:
    return Node(value, node.file, node.line, node.layer)


def check_losses(node: Node, place: str, report: Report) -> Node:
    """loss_cfg: one mapping, or a list of them, each with a log_prefix of its own."""
    if node.is_mapping:
        return _check_loss(node, place, report)
    if not node.is_list:
        report.problem(node, place, f"expected a mapping or a list of mappings, found {show(node.plain())}")
        return node
    entries = []
    first: dict[str, int] = {}
    for index, entry in enumerate(node.value):
        here = f"{place}.{index}"
        if not entry.is_mapping:
            report.problem(entry, here, f"expected a mapping with 'type' and 'log_prefix', found {show(entry.plain())}")
            continue
        entries.append(_check_loss(entry, here, report))
        prefix = entry.value.get("log_prefix")
        if prefix is None or not isinstance(prefix.value, str):
            continue
        if prefix.value in first:
            other = f"{place}.{first[prefix.value]}"
            message = f"'{prefix.value}' is the log_prefix of {other} too; each loss needs its own"
            report.problem(prefix, f"{here}.log_prefix", message)
        first.setdefault(prefix.value, index)
    return _with(node, entries)


def _check_loss(node: Node, place: str, report: Report) -> Node:
    prefix = choose(node, "log_prefix", place, report)
    if prefix is not None and (not prefix or "." in prefix):
        message = f"expected a name without dots, found '{prefix}'"
        report.problem(node.value["log_prefix"], f"{place}.log_prefix", message)
    loss = from_registry(LOSSES, node, "type", place, report)
    if loss is None:
        return node
    taken = signature_of(loss).annotations
    node = dead.drop(node, {k: why for k, why in dead.LOSS.items() if k not in taken}, place, report)
    return bind(loss, node, place, report, known=("log_prefix",), supplied=("log_prefix",))


def check_transforms(node: Node, place: str, report: Report) -> Node:
    """A list of transforms: mappings with `type`, null for none."""
    if not node.is_list:
        report.problem(node, place, f"expected a list with one transform per modality, found {show(node.plain())}")
        return node
    return _with(node, [_check_transform(e, f"{place}.{i}", report) for i, e in enumerate(node.value)])


def _check_transform(node: Node, place: str, report: Report) -> Node:
    if node.value is None:
        return node
    if not node.is_mapping:
        report.problem(node, place, f"expected a mapping with 'type', or null, found {show(node.plain())}")
        return node
    transform = from_registry(TRANSFORMS, node, "type", place, report)
    if transform is None:
        return node
    taken = signature_of(transform).annotations
    table = dead.TRANSFORMS.get(node.value["type"].value, {})
    node = dead.drop(node, {key: why for key, why in table.items() if key not in taken}, place, report)
    inner = node.value.get("trf_cfg") if "trf_cfg" in taken else None
    if inner is not None:
        node = _with(node, {**node.value, "trf_cfg": check_transforms(inner, f"{place}.trf_cfg", report)})
    frames = array_parameter(transform, node.value)
    supplied = () if frames is None else (frames,)
    return bind(transform, node, place, report, known=("trf_cfg",) if inner is not None else (), supplied=supplied)


def check_optimizer(node: Node, place: str, report: Report) -> Node:
    """optimizer_cfg against a class of torch.optim."""
    import torch

    classes = _classes(torch.optim, torch.optim.Optimizer)
    return _check_torch(node, "solver", "params", classes, UNFIT_OPTIMIZERS, place, report)


def check_scheduler(node: Node, place: str, report: Report) -> Node:
    """scheduler_cfg against a class of torch.optim.lr_scheduler."""
    from torch.optim import lr_scheduler

    classes = _classes(lr_scheduler, lr_scheduler.LRScheduler)
    classes["ReduceLROnPlateau"] = lr_scheduler.ReduceLROnPlateau
    return _check_torch(node, "scheduler", "optimizer", classes, UNFIT_SCHEDULERS, place, report)


def _classes(module: Any, base: type) -> dict[str, Callable[..., Any]]:
    found = {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    return {name: value for name, value in found.items() if not name.startswith("_") and value is not base}


def _check_torch(
    node: Node,
    selector: str,
    supplied: str,
    classes: Mapping[str, Callable[..., Any]],
    unfit: Mapping[str, str],
    place: str,
    report: Report,
) -> Node:
    name = choose(node, selector, place, report)
    if name is None:
        return node
    fit = sorted(set(classes) - set(unfit))
    chosen = node.value[selector]
    if name in unfit:
        report.problem(chosen, f"{place}.{selector}", f"{name} cannot be used: {unfit[name]}; known: {', '.join(fit)}")
    elif name not in classes:
        message = f"unknown {selector} '{name}'{did_you_mean(name, fit)}; known: {', '.join(fit)}"
        report.problem(chosen, f"{place}.{selector}", message)
    else:
        return bind(classes[name], node, place, report, selector=selector, supplied=(supplied,))
    return node


def try_schedule(optimizer_cfg: Node, scheduler_cfg: Node, report: Report) -> int | None:
    """Builds optimiser and schedule over one number, so that torch's own checks of the values speak now.

    Returns:
        the number of steps after which the schedule raises an error; None where it never does.
    """
    import torch
    from torch.optim import lr_scheduler

    def arguments(node: Node, selector: str) -> dict[str, Any]:
        return {key: value for key, value in node.plain().items() if key != selector}

    # How many groups the network has is seen when it is built.
    given = scheduler_cfg.plain()
    groups = max([1, *(len(given[key]) for key in PER_GROUP if isinstance(given.get(key), list))])
    weights = [{"params": [torch.nn.Parameter(torch.zeros(1, 1))]} for _ in range(groups)]
    node, place, selector = optimizer_cfg, "optimizer_cfg", "solver"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solver = getattr(torch.optim, optimizer_cfg.value["solver"].value)
            optimizer = solver(weights, **arguments(optimizer_cfg, "solver"))
            node, place, selector = scheduler_cfg, "scheduler_cfg", "scheduler"
            schedule = getattr(lr_scheduler, scheduler_cfg.value["scheduler"].value)
            built = schedule(optimizer, **arguments(scheduler_cfg, "scheduler"))
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, ZeroDivisionError) as error:
        chosen = node.value[selector]
        report.problem(chosen, place, f"{chosen.value} refuses its arguments: {error}")
        return None
    return built.total_steps if isinstance(built, lr_scheduler.OneCycleLR) else None
