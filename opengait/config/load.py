"""From a path to a checked config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opengait.config import shipped
from opengait.config.compat import COMPAT
from opengait.config.merge import assign, check_sections, merge, parse_override
from opengait.config.outside import PLUGINS, add_plugins, over, with_whole_paths
from opengait.config.problems import ConfigError, ConfigProblem, Report
from opengait.config.resolve import resolve
from opengait.config.schema import SECTIONS
from opengait.config.source import Node, from_plain, read_file
from opengait.config.tree import Config
from opengait.registry import nearest

MAX_FILES = 64
BASE = "_base_"
DEFAULTS = "configs/default.yaml"

Overrides = Iterable[str] | Mapping[str, Any]


def load_config(path: str | os.PathLike[str], overrides: Overrides = (), plugins: Sequence[str] = ()) -> Config:
    """Reads an experiment file, merges it over its base files and the shipped defaults, and checks everything.

    The plugins of the files, of `plugins` and of installed packages are run, so that the names they define are known.

    Args:
        path: the YAML file; where it does not exist, the shipped file of that name (`configs/gaitset/gaitset.yaml`).
        overrides: `"section.key=value"` strings (the value is YAML, list positions are numbers), or a mapping that is
            merged over the file, nested or with such paths as keys.
        plugins: Python files, modules or protocol files beside those that the files name under `plugins`; see
            `opengait.plugins`.

    Raises:
        ConfigError: with every problem that was found. Only the config is checked, not the disk it speaks of, but for
            plugins and protocol files.
    """
    report = Report()
    tree = _Layers(report).load(path, overrides)
    if tree is not None:
        before = len(report.problems)
        tree = add_plugins(tree, plugins, report)
        if len(report.problems) > before:  # every name that they would define would be another, misleading problem
            tree = None
    resolved = resolve(tree, report) if tree is not None else None
    if report.problems or resolved is None:
        raise ConfigError(sorted({_of_file(problem, path) for problem in report.problems}, key=_position))
    report.log_warnings()
    return Config(resolved.tree, Path(path), tuple(report.warnings), resolved.origins)


def _of_file(problem: ConfigProblem, path: str | os.PathLike[str]) -> ConfigProblem:
    """What is wrong in the shipped defaults is what the experiment's file leaves out."""
    defaults = shipped.find(DEFAULTS)
    if defaults is None or problem.file != _shown(defaults):
        return problem
    return replace(problem, file=Path(path).as_posix(), line=None)


def _position(problem: ConfigProblem) -> tuple[str, int, str]:
    return problem.file, problem.line or 0, problem.key


class _Layers:
    """Reads files in the order in which they are laid over one another; each gets the next layer number."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.layer = 0
        self.files = 0

    def load(self, path: str | os.PathLike[str], overrides: Overrides) -> Node | None:
        """All layers merged; None where a file is missing or cannot be read."""
        defaults = shipped.find(DEFAULTS)
        if defaults is None:
            raise FileNotFoundError(f"{DEFAULTS} is missing from the installation in {shipped.root()}")
        tree = read_file(defaults, _shown(defaults), 0, self.report)
        experiment = self.file(Path(path), Path(path).as_posix(), ())
        if tree is None or experiment is None:
            return None
        tree = with_whole_paths(self.override(merge(tree, experiment), overrides), Path.cwd())
        check_sections(tree, (*SECTIONS, PLUGINS, COMPAT), self.report)
        return tree

    def file(self, path: Path, shown: str, inside: tuple[Path, ...], asked: Node | None = None) -> Node | None:
        """A file, else the shipped one of that name, merged over its base files.

        `asked` is the `_base_` entry that named it.
        """
        found: Path | None = path
        if not path.is_file():
            # Named as shipped files are on the command line, so that a config in any folder can build on one of them.
            named = Path(asked.value) if asked else path
            found, shown = _shipped(named), named.as_posix()
        where = asked or Node(None, shown, None)
        if found is None:
            self.report.problem(where, BASE if asked else "", missing_file(path))
            return None
        real = found.resolve()
        self.files += 1
        if real in inside:
            chain = " -> ".join(_shown(one) for one in (*inside, real))
            self.report.problem(where, BASE, f"a config cannot be its own base: {chain}")
            return None
        if self.files > MAX_FILES:
            self.report.problem(where, BASE, f"more than {MAX_FILES} base files")
            return None
        return self.over_bases(found, shown, (*inside, real))

    def over_bases(self, path: Path, shown: str, inside: tuple[Path, ...]) -> Node | None:
        # The bases lie below the file, so they are read first; which they are is known only from the file.
        peek = read_file(path, shown, 0, Report())
        below = Node({}, shown, None)
        complete = True
        for entry in self.bases(peek.value.get(BASE)) if peek is not None else ():
            target = path.parent / entry.value
            base = self.file(target, _shown(target), inside, entry)
            complete = complete and base is not None
            below = over(below, base) if base is not None else below
        self.layer += 1
        own = read_file(path, shown, self.layer, self.report)
        if own is None or not complete:
            return None
        own = with_whole_paths(own, path.parent)
        return over(below, Node({k: v for k, v in own.value.items() if k != BASE}, own.file, own.line, own.layer))

    def bases(self, node: Node | None) -> list[Node]:
        if node is None:
            return []
        entries = node.value if node.is_list else [node]
        for entry in entries:
            if not isinstance(entry.value, str) or not entry.value:
                self.report.problem(entry, BASE, f"expected a path or a list of paths, found {entry.plain()!r}")
        return [entry for entry in entries if isinstance(entry.value, str) and entry.value]

    def override(self, tree: Node, overrides: Overrides) -> Node:
        self.layer += 1
        if isinstance(overrides, Mapping):
            try:
                given = from_plain(overrides, "override", self.layer)
            except ValueError as error:
                self.report.problem(Node(None, "override", None), "", str(error))
                return tree
            for path, value in given.value.items():
                tree = assign(tree, path.split("."), value, self.report)
            return tree
        if isinstance(overrides, str):
            overrides = [overrides]
        for text in overrides:
            parsed = parse_override(text, self.layer, self.report)
            if parsed is not None:
                tree = assign(tree, *parsed, self.report)
        return tree


def _shipped(path: Path) -> Path | None:
    found = shipped.find(path) or shipped.find(Path("configs") / path)
    return found if found is not None and found.is_file() else None


def _shown(path: Path) -> str:
    """A path as messages show it: relative to the working directory where it lies below it."""
    absolute = Path(os.path.normpath(path.absolute()))
    here = Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def missing_file(path: Path) -> str:
    """What to say of a config file that is not there: the nearest file beside it, or among the shipped ones."""
    if path.is_dir():
        return "is a folder; expected a YAML file"
    beside = sorted(path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    configs = shipped.find("configs")
    known = sorted(one.relative_to(configs.parent) for one in configs.rglob("*.yaml")) if configs else []
    for candidates in (beside, known):
        by_name = {one.name: one.as_posix() for one in candidates}
        if near := nearest(path.name, by_name):
            return f"no such file (did you mean '{by_name[near]}'?)"
    return f"no such file; shipped: {', '.join(one.as_posix() for one in known)}"
