"""How layers come together: defaults, base files, the experiment, overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opengait.config.problems import Report, did_you_mean
from opengait.config.source import Node, parse


def merge(below: Node, above: Node) -> Node:
    """`above` over `below`: mappings are merged key by key; everything else, lists and null included, is replaced."""
    if not (below.is_mapping and above.is_mapping):
        return above
    merged = dict(below.value)
    for key, value in above.value.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return replace(above, value=merged)


def parse_override(text: str, layer: int, report: Report) -> tuple[list[str], Node] | None:
    """`a.b.c=value` -> (path, value); the value is YAML. None (and a problem) where the form is wrong."""
    file = f"override '{text}'"
    failed = Node(None, file, None, layer)
    path, sign, value_text = text.partition("=")
    parts = path.strip().split(".")
    if not sign or not all(parts):
        report.problem(failed, "", "expected the form section.key=value")
        return None
    found = parse(value_text, file, layer, inner := Report())
    if inner.problems:
        report.problem(failed, ".".join(parts), inner.problems[0].message)
        return None
    return parts, _without_lines(found) if found is not None else failed


def _without_lines(node: Node) -> Node:
    if node.is_mapping:
        value: object = {key: _without_lines(child) for key, child in node.value.items()}
    elif node.is_list:
        value = [_without_lines(child) for child in node.value]
    else:
        value = node.value
    return replace(node, value=value, line=None)


def assign(tree: Node, path: Sequence[str], value: Node, report: Report, done: tuple[str, ...] = ()) -> Node:
    """`value` merged into `tree` at a path of keys and list positions; lists are changed in place of one entry."""
    if not path:
        return merge(tree, value)
    part, rest = path[0], path[1:]
    if tree.is_list:
        if not part.isdecimal() or int(part) >= len(tree.value):
            where = ".".join(done)
            wanted = f"a position from 0 to {len(tree.value) - 1}" if tree.value else "nothing: the list is empty"
            report.problem(value, ".".join([*done, *path]), f"{where} is a list; expected {wanted}, found '{part}'")
            return tree
        entries = list(tree.value)
        entries[int(part)] = assign(entries[int(part)], rest, value, report, (*done, part))
        return replace(tree, value=entries, layer=value.layer)
    entries_by_key = dict(tree.value) if tree.is_mapping else {}
    below = entries_by_key.get(part, replace(value, value=None))
    entries_by_key[part] = assign(below, rest, value, report, (*done, part))
    return replace(tree if tree.is_mapping else value, value=entries_by_key, layer=value.layer)


def check_sections(tree: Node, sections: Sequence[str], report: Report) -> None:
    """Top-level keys other than the seven sections are errors."""
    for name, node in tree.value.items():
        if name not in sections:
            hint = did_you_mean(name, sections) or f"; known: {', '.join(sections)}"
            report.problem(node, name, f"unknown section '{name}'{hint}", place="")
