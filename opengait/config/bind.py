"""Keys of a mapping against the parameters of the constructor that they feed."""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from opengait.config.problems import Report
from opengait.config.source import Node
from opengait.config.typed import check_value, is_leftover, simple


@dataclass(frozen=True)
class Signature:
    """What a constructor takes.

    Attributes:
        annotations: parameter -> checkable annotation, None where anything goes.
        mandatory: parameters without a default.
        open: takes any keyword (`**kwargs`).
    """

    annotations: dict[str, Any]
    mandatory: tuple[str, ...]
    open: bool


def signature_of(factory: Callable[..., Any], supplied: Collection[str] = ()) -> Signature:
    """The keyword parameters of a class or function, less those that the framework supplies itself."""
    parameters = [p for p in inspect.signature(factory).parameters.values() if p.name not in supplied]
    hints = _hints(factory)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Signature(
        annotations={p.name: simple(hints[p.name]) if p.name in hints else None for p in named},
        mandatory=tuple(p.name for p in named if p.default is p.empty),
        open=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def array_parameter(transform: Callable[..., Any], given: Collection[str]) -> str | None:
    """The parameter of a registered function that takes the frames, where it is itself a transform on arrays.

    It is the first one, if it has no default and is not `given` in the config: other functions return the transform.
    """
    if not inspect.isfunction(transform):
        return None
    first = next(iter(inspect.signature(transform).parameters.values()), None)
    if first is None or first.default is not first.empty or first.name in given:
        return None
    return first.name if first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD) else None


class _Names(dict[str, Any]):
    """Names that annotations may use without importing them at run time (`if TYPE_CHECKING:`)."""

    def __init__(self, module: dict[str, Any]) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        if name in self.module or hasattr(builtins, name):
            raise KeyError(name)  # looked up there next
        return getattr(collections.abc, name, Any)


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    target = inspect.getattr_static(factory, "__init__") if isinstance(factory, type) else factory
    try:
        return typing.get_type_hints(target, localns=_Names(getattr(inspect.unwrap(target), "__globals__", {})))
    except (NameError, TypeError, AttributeError):
        # An annotation that only a type checker can resolve: the names are still checked, the values are not.
        return {}


def bind(
    factory: Callable[..., Any],
    node: Node,
    place: str,
    report: Report,
    *,
    selector: str = "type",
    known: Collection[str] = (),
    supplied: Collection[str] = (),
) -> Node:
    """Checks the arguments that a mapping gives to `factory`: unknown, missing and of the wrong type.

    Args:
        factory: what the selector key names.
        selector: the key that chose `factory`; an unknown key of a lower layer is a leftover and is dropped.
        known: keys that are read elsewhere.
        supplied: parameters that the framework gives.

    Returns:
        the mapping without leftovers.
    """
    taken = signature_of(factory, supplied)
    chosen = node.value[selector]
    kept: dict[str, Node] = {}
    for name, value in node.value.items():
        if name == selector or name in known:
            kept[name] = value
        elif name in taken.annotations or taken.open:
            kept[name] = value
            annotation = taken.annotations.get(name)
            if annotation is not None:
                check_value(annotation, value, f"{place}.{name}", report)
        elif not is_leftover(value, chosen.layer):
            choices = {*taken.annotations, *known}
            report.unknown(value, place, name, choices, f" for {chosen.value}")
    for name in taken.mandatory:
        if name not in kept:
            report.problem(chosen, f"{place}.{name}", f"missing; {chosen.value} needs '{name}'")
    return Node(kept, node.file, node.line, node.layer)
