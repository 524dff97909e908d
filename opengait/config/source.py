"""YAML text -> a tree in which every key and value knows its file and line.

The tree is built from parser events, not by the loader's constructors: nothing but plain scalars, lists and mappings
can come out, a key given twice is seen, and aliases are counted as often as they are used, so that a few lines
cannot grow into gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from opengait.config.problems import Report

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 40

TAG = "tag:yaml.org,2002:"
# With numbers of YAML 1.2 (`1e-4`, `-.5`), which PyYAML alone would read as text.
FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
INT = re.compile(r"^(?:[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$")
BOOL = re.compile(r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$")
NULL = re.compile(r"^(?:~|null|Null|NULL|)$")


class _Events(yaml.SafeLoader):
    """Parser and scalar rules of PyYAML's safe loader, but dates and sexagesimal numbers stay text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Events.add_implicit_resolver(f"{TAG}bool", BOOL, list("yYnNtTfFoO"))
_Events.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+0123456789."))
_Events.add_implicit_resolver(f"{TAG}int", INT, list("-+0123456789"))
_Events.add_implicit_resolver(f"{TAG}merge", re.compile(r"^<<$"), ["<"])
_Events.add_implicit_resolver(f"{TAG}null", NULL, ["~", "n", "N", ""])


@dataclass(frozen=True)
class Node:
    """A value of a config and where it came from.

    Attributes:
        value: a scalar, a `dict[str, Node]` or a `list[Node]`.
        file, line: of the key, or of the list entry; line is None for overrides.
        layer: 0 for the shipped defaults, rising through base files and the experiment to the overrides.
    """

    value: Any
    file: str
    line: int | None
    layer: int = 0

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list)

    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars."""
        if self.is_mapping:
            return {key: child.plain() for key, child in self.value.items()}
        if self.is_list:
            return [child.plain() for child in self.value]
        return self.value

    def child(self, part: str | int) -> Node | None:
        """The entry of a mapping or list; None where there is none."""
        if self.is_mapping:
            return self.value.get(part)
        if self.is_list and isinstance(part, int) and 0 <= part < len(self.value):
            return self.value[part]
        return None

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """(dotted path, node) of this value and of every value inside it."""
        yield prefix, self
        for key, child in self.value.items() if self.is_mapping else enumerate(self.value) if self.is_list else ():
            yield from child.walk(f"{prefix}.{key}" if prefix else str(key))


class _Refused(Exception):
    """A document that cannot be taken at all; the rest of it is not looked at."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _TreeBuilder:
    """Builds nodes from the events of one document."""

    def __init__(self, text: bytes | str, file: str, layer: int, report: Report) -> None:
        self.loader = _Events(text)
        self.file, self.layer, self.report = file, layer, report
        self.count = 0
        self.anchors: dict[str, tuple[Node, int] | None] = {}

    def document(self) -> Node | None:
        """The only document of the text, None where it is empty."""
        loader = self.loader
        loader.get_event()  # stream start
        if loader.check_event(yaml.StreamEndEvent):
            return None
        loader.get_event()  # document start
        root = self.node(0)
        loader.get_event()  # document end
        if not loader.check_event(yaml.StreamEndEvent):
            raise _Refused(_line(loader.peek_event()), "a config is one YAML document; remove the second '---'")
        return root

    def node(self, depth: int) -> Node:
        event = self.loader.get_event()
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, line)
        started = self.count
        self.grow(1, line)
        if depth > MAX_DEPTH:
            raise _Refused(line, f"nested deeper than {MAX_DEPTH} levels")
        if event.anchor:
            self.anchors[event.anchor] = None
        build: dict[type, Callable[[Any, int], Any]] = {
            yaml.ScalarEvent: self.scalar,
            yaml.SequenceStartEvent: self.sequence,
            yaml.MappingStartEvent: self.mapping,
        }
        made = Node(build[type(event)](event, depth), self.file, line, self.layer)
        if event.anchor:
            self.anchors[event.anchor] = (made, self.count - started)
        return made

    def grow(self, nodes: int, line: int) -> None:
        self.count += nodes
        if self.count > MAX_NODES:
            raise _Refused(line, f"more than {MAX_NODES} values, aliases counted as often as they are used")

    def alias(self, anchor: str | None, line: int) -> Node:
        if anchor is None or anchor not in self.anchors:
            raise _Refused(line, f"alias '*{anchor}' has no anchor '&{anchor}' above it")
        found = self.anchors[anchor]
        if found is None:
            raise _Refused(line, f"alias '*{anchor}' stands inside its own anchor")
        node, size = found
        self.grow(size, line)
        return replace(node, line=line)

    def scalar(self, event: yaml.ScalarEvent, depth: int) -> Any:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = self.standard(tag, ("null", "bool", "int", "float", "str", "merge"), event)
        if kind in ("str", "merge"):
            return event.value
        make = {
            "null": self.loader.construct_yaml_null,
            "bool": self.loader.construct_yaml_bool,
            "int": self.loader.construct_yaml_int,
            "float": self.loader.construct_yaml_float,
        }[kind]
        try:
            return make(yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError, IndexError) as error:
            raise _Refused(_line(event), f"cannot read {event.value[:40]!r} as {kind}") from error

    def standard(self, tag: str, allowed: tuple[str, ...], event: yaml.Event) -> str:
        """The short name of a tag; anything but the plain YAML types is refused and never executed."""
        kind = tag.removeprefix(TAG)
        if kind not in allowed or not tag.startswith(TAG):
            shown = f"!!{kind}" if tag.startswith(TAG) else tag
            raise _Refused(_line(event), f"tag '{shown}' is not allowed; a config holds plain values only")
        return kind

    def sequence(self, event: yaml.SequenceStartEvent, depth: int) -> list[Node]:
        self.standard(event.tag if event.tag not in (None, "!") else f"{TAG}seq", ("seq",), event)
        items = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self.node(depth + 1))
        self.loader.get_event()
        return items

    def mapping(self, event: yaml.MappingStartEvent, depth: int) -> dict[str, Node]:
        self.standard(event.tag if event.tag not in (None, "!") else f"{TAG}map", ("map",), event)
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            key_event = self.loader.peek_event()
            plain_merge = isinstance(key_event, yaml.ScalarEvent) and key_event.value == "<<" and not key_event.style
            key = self.node(depth + 1)
            value = self.node(depth + 1)
            if plain_merge:
                merged = {**self.merge_source(value), **merged}
                continue
            if not isinstance(key.value, str):
                raise _Refused(_line(key_event), f"key {key.plain()!r} is not text; put it in quotes")
            if key.value in own:
                first = own[key.value].line
                self.report.problem(key, key.value, f"key '{key.value}' is given twice, first in line {first}")
                continue
            own[key.value] = replace(value, line=key.line)
        self.loader.get_event()
        return {**merged, **own}

    def merge_source(self, value: Node) -> dict[str, Node]:
        """What `<<:` brings in; of several mappings the first wins."""
        sources = value.value if value.is_list else [value]
        found: dict[str, Node] = {}
        for source in sources:
            if not source.is_mapping:
                raise _Refused(value.line or 1, "'<<' takes a mapping or a list of mappings")
            found = {**source.value, **found}
        return found


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def parse(text: bytes | str, file: str, layer: int, report: Report) -> Node | None:
    """The tree of one YAML document; None where it is empty or was refused (the reason is in the report)."""
    failed = Node(None, file, None, layer)
    try:
        return _TreeBuilder(text, file, layer, report).document()
    except _Refused as refused:
        report.problem(replace(failed, line=refused.line), "", str(refused))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(filter(None, [error.context, error.problem]))
        line = mark.line + 1 if mark else None
        report.problem(replace(failed, line=line), "", f"not valid YAML: {reason}")
    except yaml.YAMLError as error:
        report.problem(failed, "", f"not valid YAML: {' '.join(str(error).split())}")
    return None


def read_file(path: Path, file: str, layer: int, report: Report) -> Node | None:
    """The mapping in a YAML file; an empty file is an empty mapping, None where it cannot be used."""
    failed = Node(None, file, None, layer)
    try:
        text = path.read_bytes()
    except OSError as error:
        report.problem(failed, "", f"cannot be read: {error.strerror}")
        return None
    if len(text) > MAX_BYTES:
        report.problem(failed, "", f"{len(text)} bytes; a config has at most {MAX_BYTES}")
        return None
    before = len(report.problems)
    root = parse(text, file, layer, report)
    if root is None or root.value is None:
        return Node({}, file, 1, layer) if len(report.problems) == before else None
    if not root.is_mapping:
        report.problem(root, "", f"a config is a mapping of sections, found {type(root.value).__name__}")
        return None
    return root


def from_plain(value: Any, file: str, layer: int) -> Node:
    """A tree from plain Python values.

    Raises:
        ValueError: a value that has no place in YAML.
    """
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"key {odd[0]!r} is not text")
        return Node({key: from_plain(child, file, layer) for key, child in value.items()}, file, None, layer)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(child, file, layer) for child in value], file, None, layer)
    if isinstance(value, Path):
        value = str(value)
    if value is not None and type(value) not in (str, bool, int, float):
        raise ValueError(f"{value!r} of type {type(value).__name__} cannot stand in a config; use plain values")
    return Node(value, file, None, layer)


class PlainDumper(yaml.SafeDumper):
    """Writes YAML that both this module and PyYAML's safe loader read back to the same values."""


# Text that either would read as a number is put in quotes.
PlainDumper.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+0123456789."))
