"""`compat: reference`: one key brings back what the reference implementation does wrong and published numbers show.

Each component that knows such a fault takes an argument `compat` of its own; the key beside the sections gives it to
all of them. docs/compatibility.md lists the faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from opengait.config.bind import signature_of
from opengait.config.problems import Report, did_you_mean
from opengait.config.source import Node
from opengait.config.typed import show
from opengait.registry import LOSSES, MODELS, TRANSFORMS, Registry

COMPAT = "compat"
REFERENCE = "reference"


def in_use(config: Mapping[str, Any]) -> list[str]:
    """Dotted paths of every `compat: reference` in a resolved config, such as `trainer_cfg.transform.0.compat`."""
    return list(_found(config, ""))


def _found(tree: Any, path: str) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            here = f"{path}.{key}" if path else str(key)
            if key == COMPAT and value == REFERENCE:
                yield here
            yield from _found(value, here)
    elif isinstance(tree, (list, tuple)):
        for number, value in enumerate(tree):
            yield from _found(value, f"{path}.{number}")


def said(places: Iterable[str]) -> str:
    """What logs and TensorBoard say of such places."""
    return f"compat: reference, faults of the reference implementation are in effect: {', '.join(places)}"


def carry(tree: Node, report: Report) -> Node:
    """The merged tree with the top-level `compat` given to every component that takes one; unchanged without it.

    `data_cfg.remove_no_gallery`, which never acted in the reference implementation, is switched off too.
    """
    chosen = tree.value.get(COMPAT)
    if chosen is None:
        return tree
    found = {name: node for name, node in tree.value.items() if name != COMPAT}
    if chosen.value is None:
        return replace(tree, value=found)
    if chosen.value != REFERENCE:
        near = did_you_mean(chosen.value, [REFERENCE]) if isinstance(chosen.value, str) else ""
        report.problem(chosen, COMPAT, f"expected '{REFERENCE}' or null, found {show(chosen.plain())}{near}")
        return replace(tree, value=found)
    fill = _Filler(chosen, report)
    for name, fill_section in (
        ("data_cfg", fill.data),
        ("model_cfg", fill.model),
        ("loss_cfg", fill.losses),
        ("trainer_cfg", fill.trainer),
        ("evaluator_cfg", fill.engine),
    ):
        if name in found:
            found[name] = fill_section(found[name])
    return replace(tree, value={**found, COMPAT: chosen})


class _Filler:
    """Gives `compat` to components. What is no mapping, or names no class, is left to the checks that come after."""

    def __init__(self, chosen: Node, report: Report) -> None:
        self.chosen, self.report = chosen, report

    def data(self, node: Node) -> Node:
        unwanted = node.value.get("remove_no_gallery") if node.is_mapping else None
        if unwanted is None or unwanted.value is not True:
            return node
        self.report.warn(unwanted, "data_cfg.remove_no_gallery", "has no effect under compat: reference")
        return replace(node, value={**node.value, "remove_no_gallery": replace(unwanted, value=False)})

    def model(self, node: Node) -> Node:
        settings = getattr(_named(MODELS, node, "model"), "Settings", None)
        return self.given(node) if COMPAT in getattr(settings, "model_fields", ()) else node

    def losses(self, node: Node) -> Node:
        if node.is_list:
            return replace(node, value=[self.losses(entry) for entry in node.value])
        return self.component(LOSSES, node)

    def trainer(self, node: Node) -> Node:
        return self.given(self.engine(node))

    def engine(self, node: Node) -> Node:
        if not node.is_mapping:
            return node
        found = dict(node.value)
        if "sampler" in found:
            found["sampler"] = self.given(found["sampler"])
        if "transform" in found:
            found["transform"] = self.transforms(found["transform"])
        return replace(node, value=found)

    def transforms(self, node: Node) -> Node:
        if node.is_list:
            return replace(node, value=[self.transforms(entry) for entry in node.value])
        if node.is_mapping and "trf_cfg" in node.value:
            node = replace(node, value={**node.value, "trf_cfg": self.transforms(node.value["trf_cfg"])})
        return self.component(TRANSFORMS, node)

    def component(self, registry: Registry, node: Node) -> Node:
        build = _named(registry, node, "type")
        return self.given(node) if build is not None and COMPAT in signature_of(build).annotations else node

    def given(self, node: Node) -> Node:
        if not node.is_mapping or (COMPAT in node.value and node.value[COMPAT].value is not None):
            return node
        return replace(node, value={**node.value, COMPAT: self.chosen})


def _named(registry: Registry, node: Node, selector: str) -> Callable[..., Any] | None:
    chosen = node.value.get(selector) if node.is_mapping else None
    if chosen is None or chosen.value not in registry:
        return None
    try:
        return registry.get(chosen.value)
    except ImportError:
        return None
