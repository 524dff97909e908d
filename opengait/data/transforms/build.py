"""An entry of a section `transform` -> a transform."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from opengait.config.bind import array_parameter
from opengait.data.errors import DataError
from opengait.data.transforms.arrays import OnArrays
from opengait.data.transforms.base import NoOperation, Transform
from opengait.registry import TRANSFORMS, nearest


def build_transform(entry: object, where: str) -> Transform:
    """The transform that a mapping with `type` and arguments names, or null for none.

    A class that says `on_device = True` is called with batches. Everything else works on the array of a sequence: the
    objects of a class, a function whose first parameter takes the array, or what a function of arguments returns.

    Raises:
        ValueError: no mapping, an unknown type, an argument that the type does not take.
    """
    if entry is None:
        return NoOperation()
    if not isinstance(entry, Mapping) or "type" not in entry:
        raise DataError(f"{where}: a mapping with `type` or null was expected, found {entry!r}")
    name = entry["type"]
    build = TRANSFORMS.get(name)
    arguments = {key: value for key, value in entry.items() if key != "type"}
    frames = array_parameter(build, arguments)
    _check_arguments(build, arguments, frames, name, where)
    if frames is not None:
        return OnArrays(functools.partial(build, **arguments), name)
    built = build(**arguments)
    if getattr(built, "on_device", False):
        return built
    if not callable(built):
        raise DataError(
            f"{where}: {name} gives {type(built).__name__}, and something to call with an array was expected; "
            "a class needs __call__, and a function takes the array or returns the function that does"
        )
    return OnArrays(built, name)


def _check_arguments(
    build: Callable[..., Any], arguments: Mapping[str, object], frames: str | None, name: str, where: str
) -> None:
    parameters = inspect.signature(build).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    takes = [key for key in parameters if key != frames]
    for key in arguments:
        if key not in takes:
            near = nearest(key, takes)
            hint = f" (did you mean '{near}'?)" if near else ""
            raise DataError(f"{where}: {name} takes no argument '{key}'{hint}; it takes: {', '.join(takes)}")
    for key in takes:
        parameter = parameters[key]
        mandatory = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if mandatory and key not in arguments:
            raise DataError(f"{where}: {name} needs the argument '{key}'")
