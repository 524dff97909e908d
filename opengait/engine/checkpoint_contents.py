"""What the entries of a checkpoint may be; a file is input like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor


def problem(state: Mapping[str, Any]) -> str:
    """What is wrong with a checkpoint's entries, in words; empty where nothing is. Entries may be absent, but for
    `model`."""
    if not isinstance(state.get("model"), Mapping):
        return "not a checkpoint of this framework: it has no 'model' mapping"
    for key, value in state["model"].items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            return f"model has {_shown(key)}: {type(value).__name__}; tensors by name were expected"
    for name, (fits, expected) in ENTRIES.items():
        if state.get(name) is not None and not fits(state[name]):
            return f"{name} is {_shown(state[name])}; {expected} was expected"
    return ""


def alike(own: Any, stored: Any) -> bool:
    """Whether a stored setting can stand in the place of one of a fresh optimiser or schedule."""
    if own is None or stored is None:
        return True
    if isinstance(own, Mapping) or isinstance(stored, Mapping):
        return isinstance(own, Mapping) and isinstance(stored, Mapping)
    if _is_list(own) or _is_list(stored):
        same_length = _is_list(own) and _is_list(stored) and len(own) == len(stored)
        return same_length and all(alike(one, other) for one, other in zip(own, stored, strict=True))
    if _is_number(own):
        return _is_number(stored)
    return isinstance(own, str) == isinstance(stored, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_count(least: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value < 1 << 62


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: _is_list(value) and all(isinstance(one, kind) for one in value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_plain(value: Any) -> bool:
    """Mappings with names, lists and scalars, as YAML has them."""
    if isinstance(value, Mapping):
        return _is_mapping(value) and all(map(_is_plain, value.values()))
    if _is_list(value):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _is_plain_mapping(value: Any) -> bool:
    return _is_mapping(value) and _is_plain(value)


def _is_optimizer(value: Any) -> bool:
    if not _is_mapping(value) or not value:
        return _is_mapping(value)
    groups, moments = value.get("param_groups"), value.get("state")
    return (
        _is_list_of(Mapping)(groups)
        and all(_is_mapping(group) and _is_list_of(int)(group.get("params")) for group in groups)
        and isinstance(moments, Mapping)
        and all(_is_mapping(one) and all(_is_number(part) or part is None or isinstance(part, Tensor)
                                         for part in one.values()) for one in moments.values())
    )  # fmt: skip


def _is_interval(value: Any) -> bool:
    return (
        _is_mapping(value)
        and _is_count(0)(value.get("steps"))
        and _is_list_of(str)(value.get("names"))
        and isinstance(value.get("sums"), Tensor)
        and value["sums"].dim() == 2
        and value["sums"].shape[1] == len(value["names"])
    )


def _is_scaler(value: Any) -> bool:
    return _is_mapping(value) and all(_is_number(one) for one in value.values())


def _is_rng(value: Any) -> bool:
    return _is_mapping(value) and all(isinstance(one, Tensor) for one in value.values())


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | Sequence | Tensor) and not isinstance(value, str):
        return f"of type {type(value).__name__}"
    return repr(value)[:80]


ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "iteration": (_is_count(0), "a whole number of 0 or more"),
    "draws": (_is_count(0), "a whole number of 0 or more"),
    "world_size": (_is_count(1), "a whole number of 1 or more"),
    "optimizer": (_is_optimizer, "an optimiser's state, a mapping with state and param_groups,"),
    "scheduler": (_is_mapping, "a schedule's state, a mapping,"),
    "scaler": (_is_scaler, "a loss scaler's state, a mapping of numbers,"),
    "rng": (_is_rng, "a mapping of tensors"),
    "interval": (_is_interval, "a mapping with steps, names and sums"),
    "format": (_is_count(0), "a whole number"),
    "config": (_is_plain_mapping, "a mapping of sections with plain values"),
    "compat": (_is_list_of(str), "a list of places"),
    "labels": (_is_list_of(str), "a list of subjects"),
    "data_fingerprint": (_is_plain_mapping, "a mapping of plain values"),
}
