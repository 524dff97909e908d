"""Optimisers of `torch.optim` and schedules of `torch.optim.lr_scheduler`, by the names of the config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from opengait.modeling.base_model import BaseModel
from opengait.registry import nearest

# Schedules that need more than the number of the step.
_NOT_BY_STEP = {"ReduceLROnPlateau": "a figure to watch", "LRScheduler": "a subclass", "ChainedScheduler": "schedulers"}


def optimizer_names() -> list[str]:
    """Classes that `optimizer_cfg.solver` may name."""
    return sorted(
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
    )


def scheduler_names() -> list[str]:
    """Classes that `scheduler_cfg.scheduler` may name."""
    return sorted(
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value)
        and issubclass(value, lr_scheduler.LRScheduler)
        and name not in _NOT_BY_STEP
        and not name.startswith("_")
    )


def _lookup(key: str, name: str, names: list[str], place: Any) -> Callable[..., Any]:
    if name not in names:
        near = nearest(name, names)
        hint = f" (did you mean '{near}'?)" if near else ""
        why = f": it needs {_NOT_BY_STEP[name]}" if name in _NOT_BY_STEP else ""
        raise ValueError(f"{key}: cannot use '{name}'{why}{hint}; known: {', '.join(names)}")
    return getattr(place, name)


def _arguments(key: str, factory: Callable[..., Any], cfg: Mapping[str, Any], selector: str) -> dict[str, Any]:
    """The keys of the section that the class takes; other keys belong to the model's own parameter groups."""
    taken = inspect.signature(factory).parameters
    arguments = {name: value for name, value in cfg.items() if name != selector and name in taken}
    missing = [
        name
        for name, parameter in list(taken.items())[1:]
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in arguments
    ]
    if missing:
        raise ValueError(f"{key}: {cfg[selector]} needs {', '.join(missing)}")
    return arguments


def build_optimizer(optimizer_cfg: Mapping[str, Any], model: nn.Module) -> Optimizer:
    """The optimiser of `optimizer_cfg` over the model's parameter groups.

    All parameters are updated by one fused call where the class has it.

    A network that overrides `get_optimizer` makes it itself.

    Args:
        optimizer_cfg: `solver` and the arguments of that class.
        model: its `parameter_groups(optimizer_cfg)` decides what is trained, and at which rate. It gets the optimiser
            as its attribute `optimizer`.

    Raises:
        ValueError: unknown solver, a missing argument, a value the class refuses, or nothing to train.
    """
    if not isinstance(model, BaseModel) or not model.overrides("get_optimizer"):
        optimizer = default_optimizer(optimizer_cfg, model)
    else:
        optimizer = model.get_optimizer(optimizer_cfg)
        if not isinstance(optimizer, Optimizer):
            name, found = f"{type(model).__name__}.get_optimizer", type(optimizer).__name__
            raise ValueError(f"{name} must return a torch optimiser, found {found}")
    if isinstance(model, BaseModel):
        model.optimizer = optimizer
    return optimizer


def default_optimizer(optimizer_cfg: Mapping[str, Any], model: nn.Module) -> Optimizer:
    """The optimiser of `optimizer_cfg` over the model's parameter groups, whatever `get_optimizer` it has."""
    factory = _lookup("optimizer_cfg.solver", optimizer_cfg["solver"], optimizer_names(), torch.optim)
    arguments = _arguments("optimizer_cfg", factory, optimizer_cfg, "solver")
    own_groups = getattr(model, "parameter_groups", None)
    if callable(own_groups):
        groups = list(own_groups(optimizer_cfg))
    else:
        groups = [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]
    for group in groups:
        group["params"] = list(group["params"])
    if not any(group["params"] for group in groups):
        raise ValueError("optimizer_cfg: the model has no parameter that requires a gradient")
    takes_fused = "fused" in inspect.signature(factory).parameters
    if takes_fused and not {"fused", "foreach", "differentiable"} & arguments.keys():
        arguments["fused"] = True
    try:
        return factory(groups, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer_cfg: {optimizer_cfg['solver']} refuses its arguments: {error}") from error


def build_scheduler(
    scheduler_cfg: Mapping[str, Any], optimizer: Optimizer, model: nn.Module | None = None
) -> lr_scheduler.LRScheduler:
    """The schedule of `scheduler_cfg`, or the one that a network's own `get_scheduler` makes.

    A network gets it as its attribute `scheduler`.

    Raises:
        ValueError: see `default_scheduler`; a network's own is no schedule.
    """
    if not isinstance(model, BaseModel):
        return default_scheduler(scheduler_cfg, optimizer)
    if model.overrides("get_scheduler"):
        scheduler = model.get_scheduler(scheduler_cfg)
        needed = ("step", "state_dict", "load_state_dict", "get_last_lr")
        lacking = [name for name in needed if not callable(getattr(scheduler, name, None))]
        if lacking:
            name, found = f"{type(model).__name__}.get_scheduler", type(scheduler).__name__
            raise ValueError(f"{name} must return a torch schedule; {found} has no {', '.join(lacking)}")
    else:
        scheduler = default_scheduler(scheduler_cfg, optimizer)
    model.scheduler = scheduler
    return scheduler


def default_scheduler(scheduler_cfg: Mapping[str, Any], optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    """The schedule of `scheduler_cfg`, to be stepped once per counted iteration.

    Raises:
        ValueError: unknown scheduler, one that needs more than the step's number, or arguments it refuses.
    """
    name = scheduler_cfg["scheduler"]
    factory = _lookup("scheduler_cfg.scheduler", name, scheduler_names(), lr_scheduler)
    arguments = _arguments("scheduler_cfg", factory, scheduler_cfg, "scheduler")
    try:
        return factory(optimizer, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scheduler_cfg: {name} refuses its arguments: {error}") from error


def learning_rate(optimizer: Optimizer) -> float:
    """Rate of the first parameter group."""
    return float(optimizer.param_groups[0]["lr"])


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Moments and rates of a stored optimiser; how a step is computed (fused or not) stays this run's choice."""
    own = [{key: group[key] for key in ("fused", "foreach") if key in group} for group in optimizer.param_groups]
    # Told before it loads: where a fused step counts its steps is on the device, else on the host.
    groups = [{**group, **choice} for group, choice in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
