"""Files that a config names from outside the package: plugins and a protocol of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from opengait.config.merge import merge
from opengait.config.problems import Report
from opengait.config.source import Node
from opengait.config.typed import show
from opengait.plugins import PluginError, load_installed, load_plugin, located, whole_path

PLUGINS = "plugins"


def over(below: Node, above: Node) -> Node:
    """`merge`, except that plugins of both layers stay: what a base file's names stand for is still needed."""
    merged = merge(below, above)
    lower, upper = below.value.get(PLUGINS), above.value.get(PLUGINS)
    if lower is None or upper is None or not (lower.is_list and upper.is_list):
        return merged
    kept = [*lower.value, *(one for one in upper.value if one.value not in [other.value for other in lower.value])]
    return replace(merged, value={**merged.value, PLUGINS: replace(upper, value=kept)})


def with_whole_paths(tree: Node, folder: Path) -> Node:
    """Relative names of plugins and of `evaluator_cfg.protocol` seen from the file they stand in."""
    found = dict(tree.value)
    plugins, evaluator = found.get(PLUGINS), found.get("evaluator_cfg")
    if plugins is not None and plugins.is_list:
        found[PLUGINS] = replace(
            plugins, value=[_changed(one, lambda text: located(text, folder)) for one in plugins.value]
        )
    if evaluator is not None and evaluator.is_mapping and "protocol" in evaluator.value:
        whole = _changed(evaluator.value["protocol"], lambda text: whole_path(text, folder))
        found["evaluator_cfg"] = replace(evaluator, value={**evaluator.value, "protocol": whole})
    return replace(tree, value=found)


def _changed(node: Node, change: Callable[[str], str]) -> Node:
    return replace(node, value=change(node.value)) if isinstance(node.value, str) and node.value else node


def add_plugins(tree: Node, given: Sequence[str], report: Report) -> Node:
    """Runs all plugins of a config and `given`; each one that cannot be used is a problem.

    Returns:
        the tree with all of them under `plugins`, which is absent where there are none.
    """
    for fault in load_installed():
        report.warn(Node(None, "installed packages", None), PLUGINS, fault)
    node = tree.value.get(PLUGINS) or Node([], "--plugin", None)
    if node.value is None:
        node = replace(node, value=[])
    if not node.is_list:
        report.problem(node, PLUGINS, f"expected a list of files or modules, found {show(node.plain())}")
        return _with(tree, [])
    known = [one.value for one in node.value]
    more = [Node(located(one, Path.cwd()), "--plugin", None) for one in given]
    entries = [*node.value, *(one for one in more if one.value not in known)]
    for number, entry in enumerate(entries):
        place = f"{PLUGINS}.{number}"
        if not isinstance(entry.value, str) or not entry.value:
            report.problem(entry, place, f"expected a file or a module name, found {show(entry.plain())}")
            continue
        try:
            load_plugin(entry.value)
        except PluginError as error:
            report.problem(entry, place, str(error))
    return _with(tree, entries)


def _with(tree: Node, entries: list[Node]) -> Node:
    rest = {key: value for key, value in tree.value.items() if key != PLUGINS}
    return replace(tree, value={**rest, PLUGINS: Node(entries, tree.file, None)} if entries else rest)
