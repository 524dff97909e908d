"""Values against types: pydantic does the checking, this module says what is wrong in the person's own terms."""

from __future__ import annotations

import functools
import json
import operator
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from opengait.config.problems import Report, did_you_mean
from opengait.config.source import Node

Path = tuple[str | int, ...]

PLAIN_WORDS = {
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "none_required": "expected null",
}


def dotted(path: Iterable[str | int]) -> str:
    """A place in a config as it is written on a command line: `trainer_cfg.sampler.batch_size.0`."""
    return ".".join(str(part) for part in path)


def check_model(
    schema: type[BaseModel], node: Node, place: str, report: Report, selector_layer: int | None = None
) -> tuple[Node, BaseModel | None]:
    """Validates a mapping against a pydantic class.

    Keys that the class does not have are problems, unless they come from a layer below `selector_layer` (or from the
    defaults): those are leftovers of another choice and are dropped.

    Returns:
        the node without leftovers, and the validated model (None where there are problems).
    """
    while True:
        try:
            return node, schema.model_validate_json(_json(node), strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False)
        leftovers = [
            path
            for path, kind in ((_tree_path(node, item["loc"])[0], item["type"]) for item in found)
            if kind == "extra_forbidden" and is_leftover(_at(node, path), selector_layer)
        ]
        if not leftovers:
            _report(schema, found, node, place, report)
            return node, None
        for path in leftovers:
            node = without(node, path)


def check_value(annotation: Any, node: Node, place: str, report: Report) -> None:
    """Validates one value against a type annotation."""
    try:
        TypeAdapter(annotation).validate_json(_json(node), strict=True)
    except ValidationError as error:
        _report(None, error.errors(include_url=False), node, place, report)


def is_leftover(node: Node, selector_layer: int | None) -> bool:
    """Whether an unfit key came from below the choice it does not fit."""
    return selector_layer is not None and (node.layer == 0 or node.layer < selector_layer)


def without(node: Node, path: Sequence[str | int]) -> Node:
    """A copy of the tree without the mapping entry at `path`."""
    head, rest = path[0], path[1:]
    if node.is_list:
        items = [without(child, rest) if index == head else child for index, child in enumerate(node.value)]
        return Node(items, node.file, node.line, node.layer)
    entries = dict(node.value)
    if rest:
        entries[str(head)] = without(entries[str(head)], rest)
    else:
        del entries[str(head)]
    return Node(entries, node.file, node.line, node.layer)


def _json(node: Node) -> str:
    # Strict JSON mode: lists may stand for tuples and integers for floats, and nothing else is converted.
    return json.dumps(node.plain())


def _tree_path(node: Node, loc: Sequence[str | int]) -> tuple[Path, bool, Path]:
    """A pydantic location as (path in the tree, whether it went through a union, what of it is not in the tree)."""
    path: list[str | int] = []
    through_union = False
    rest: list[str | int] = []
    for part in loc:
        child = node.child(part)
        if child is None:
            through_union = True
            rest.append(part)
        else:
            path.append(part)
            node = child
            rest = []
    return tuple(path), through_union, tuple(rest)


def _at(node: Node, path: Iterable[str | int]) -> Node:
    for part in path:
        child = node.child(part)
        if child is None:
            return node
        node = child
    return node


def _report(schema: type[BaseModel] | None, errors: Sequence[Any], node: Node, place: str, report: Report) -> None:
    """One problem for each mistake; the branches of a union are one mistake."""
    by_path: dict[Path, list[Any]] = {}
    for error in errors:
        path, _, rest = _tree_path(node, error["loc"])
        if error["type"] == "missing":
            path = (*path, rest[-1])
        by_path.setdefault(path, []).append(error)
    for path, items in by_path.items():
        deeper = any(other[: len(path)] == path for other in by_path if other != path)
        if deeper and all(_tree_path(node, item["loc"])[1] for item in items if item["type"] != "missing"):
            continue  # another branch of the union fits better and names the entry that does not
        _report_one(schema, path, items, node, place, report)


def _report_one(
    schema: type[BaseModel] | None, path: Path, items: Sequence[Any], node: Node, place: str, report: Report
) -> None:
    here = _at(node, path)
    key = dotted([place, *path])
    section = dotted([place, *path[:-1]])
    kinds = {item["type"] for item in items}
    if "extra_forbidden" in kinds:
        report.unknown(here, section, str(path[-1]), _field_names(schema, path[:-1]))
    elif "missing" in kinds:
        report.problem(here, key, f"missing; '{path[-1]}' must be given")
    elif "value_error" in kinds:
        for item in items:
            if item["type"] == "value_error":  # the others are branches of a union that were not meant
                report.problem(here, key, item["msg"].removeprefix("Value error, "))
    else:
        messages = list(dict.fromkeys(_words(item) for item in items))
        wanted = messages[0] + "".join(f" or {_after_verb(message)}" for message in messages[1:])
        report.problem(here, key, f"{wanted}, found {show(here.plain())}{_hint(here.plain(), items)}")


def _words(item: Any) -> str:
    if item["type"] in PLAIN_WORDS:
        return PLAIN_WORDS[item["type"]]
    if item["type"] == "literal_error":
        return f"expected {item['ctx']['expected']}"
    if item["type"] == "string_pattern_mismatch":
        return f"expected text of the form {item['ctx']['pattern']}"
    return re.sub(r"^(Input|Value|String|List|Tuple) should ", "must ", item["msg"]).removeprefix("Value error, ")


def _after_verb(message: str) -> str:
    return message.removeprefix("expected ").removeprefix("must be ")


def _hint(value: Any, items: Sequence[Any]) -> str:
    if not isinstance(value, str):
        return " (put it in quotes)" if _only(items, "string_type") and not isinstance(value, (dict, list)) else ""
    for item in items:
        if item["type"] == "literal_error":
            return did_you_mean(value, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    if any(item["type"] in ("int_type", "float_type") for item in items) and re.fullmatch(r"[-+.\deE]*\d", value):
        return " (a number without quotes)"
    return ""


def _only(items: Sequence[Any], kind: str) -> bool:
    return all(item["type"] == kind for item in items)


def show(value: Any) -> str:
    """A value as a message shows it, cut where it is long; YAML's words for null, true and false."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _field_names(schema: type[BaseModel] | None, path: Path) -> set[str]:
    """Names that a mapping at `path` may have."""
    found: list[Any] = [schema]
    for part in path:
        found = [inner for annotation in found for inner in _step(annotation, part)]
    return {name for annotation in found for model in _models(annotation) for name in _names(model)}


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for member in get_args(annotation):
            yield from _models(member)


def _step(annotation: Any, part: str | int) -> Iterator[Any]:
    for model in _models(annotation):
        for name, field in model.model_fields.items():
            if (field.alias or name) == part:
                yield field.annotation
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, Annotated):
        for member in members:
            if get_origin(member) is not None:
                yield from _step(member, part)
    elif origin in (list, tuple, set):
        yield from members
    elif origin is dict:
        yield members[1]


def simple(annotation: Any) -> Any | None:
    """The part of an annotation that YAML values can satisfy and that can be checked; None where there is none.

    `float | Tensor` becomes `float`, `Iterable[int]` becomes `list[int]`.
    """
    if annotation in (int, float, bool, str, type(None)) or get_origin(annotation) is Literal:
        return annotation
    if annotation is None:
        return type(None)
    origin = get_origin(annotation) or annotation
    members = get_args(annotation)
    build: Callable[[Any], Any] | None = None
    if origin is Annotated:
        return annotation if simple(members[0]) is not None else None
    if origin in (Union, types.UnionType):
        kept = [inner for member in members if (inner := simple(member)) is not None]
        real = [inner for inner in kept if inner is not type(None)]
        return functools.reduce(operator.or_, kept) if real else None
    if not isinstance(origin, type):
        return None
    if issubclass(origin, tuple) and members and Ellipsis not in members:
        inner = [simple(member) for member in members]
        return tuple[tuple(Any if one is None else one for one in inner)]  # type: ignore[misc]
    if issubclass(origin, Mapping):
        return dict[str, Any]
    if origin is not str and (issubclass(origin, (list, tuple)) or origin.__module__ == "collections.abc"):
        build = list.__class_getitem__
        member = simple(members[0]) if members else None
        return build(Any if member is None else member) if _iterates(origin) else None
    return None


def _iterates(origin: type) -> bool:
    return issubclass(origin, Iterable) and not issubclass(origin, Iterator)
