"""What can be wrong with a config, said so that the person knows what to do next."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opengait.registry import nearest

if TYPE_CHECKING:
    from opengait.config.source import Node

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConfigProblem:
    """One mistake (or, in `Config.warnings`, one key without effect).

    Attributes:
        file: the file as it was named, or the override that holds the value.
        line: line in that file, from 1; None for an override and for a key that is nowhere.
        key: dotted path of the key, list positions as numbers (`evaluator_cfg.transform.0.cutting`).
        message: what was found, what was expected, and the nearest valid name.
        place: the dotted path that the printed line starts with; the section instead of the key for an unknown key.
    """

    file: str
    line: int | None
    key: str
    message: str
    place: str | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        place = self.key if self.place is None else self.place
        return f"{where}: {place}: {self.message}" if place else f"{where}: {self.message}"


class ConfigError(ValueError):
    """A config that cannot be used; `problems` holds every mistake that was found, not only the first."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[ConfigProblem]]]:
        return type(self), (self.problems,)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing where no choice is near."""
    near = nearest(name, choices)
    return f" (did you mean '{near}'?)" if near else ""


@dataclass
class Report:
    """Collects the problems and warnings of one config."""

    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[ConfigProblem] = field(default_factory=list)

    def problem(self, node: Node, key: str, message: str, place: str | None = None) -> None:
        self.problems.append(ConfigProblem(node.file, node.line, key, message, place))

    def unknown(self, node: Node, section: str, name: str, choices: Iterable[str], context: str = "") -> None:
        """An unknown key `name` of `section`, which stands at `node`."""
        key = f"{section}.{name}" if section else name
        known = sorted(choices)
        hint = did_you_mean(name, known) or (f"; known: {', '.join(known)}" if known else "")
        self.problem(node, key, f"unknown key '{name}'{context}{hint}", place=section)

    def warn(self, node: Node, key: str, message: str) -> None:
        self.warnings.append(ConfigProblem(node.file, node.line, key, message))

    def log_warnings(self) -> None:
        """One log record a warning; not `warnings.warn`, since a key without effect never is a reason to stop."""
        for warning in self.warnings:
            logger.warning("%s", warning)
