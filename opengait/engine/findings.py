"""What a check before the first iteration has to say."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from opengait.engine.distributed import is_main
from opengait.engine.logs import LOGGER_NAME

Level = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One result of a check: what was found, what was expected, and what to do.

    Attributes:
        level: an error keeps a run from starting; a warning does not; info says what a run will use.
    """

    level: Level
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


@dataclass
class Findings:
    """Collects findings, each once."""

    found: list[Finding] = field(default_factory=list)

    def add(self, level: Level, message: str) -> None:
        finding = Finding(level, message)
        if finding not in self.found:
            self.found.append(finding)

    def error(self, message: str) -> None:
        self.add("error", message)

    def warning(self, message: str) -> None:
        self.add("warning", message)

    def info(self, message: str) -> None:
        self.add("info", message)

    @property
    def errors(self) -> list[str]:
        return [finding.message for finding in self.found if finding.level == "error"]

    @contextlib.contextmanager
    def catching(self, context: str = "", *more: type[Exception]) -> Iterator[None]:
        """What goes wrong inside becomes an error finding: ValueError and OSError, which are people's mistakes, and
        the types in `more`."""
        kinds: tuple[type[Exception], ...] = (ValueError, OSError, *more)
        try:
            yield
        except kinds as error:
            detail = str(error) or type(error).__name__
            self.error(f"{context}: {detail}" if context else detail)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Warnings that the rooms log inside become warning findings instead."""
        log = logging.getLogger(LOGGER_NAME)
        before = (log.handlers[:], log.level, log.propagate)
        log.handlers[:], log.propagate = [_Listener(self)], False
        log.setLevel(logging.WARNING)
        try:
            yield
        finally:
            log.handlers[:], log.propagate = before[0], before[2]
            log.setLevel(before[1])

    def settle(self, logger: logging.Logger) -> None:
        """Logs the warnings, once for all processes.

        Raises:
            ValueError: there are errors; all of them are in the message.
        """
        if self.errors:
            raise ValueError("\n".join(self.errors))
        for finding in self.found:
            if finding.level == "warning" and is_main():
                logger.warning("%s", finding.message)


class _Listener(logging.Handler):
    def __init__(self, findings: Findings) -> None:
        super().__init__(logging.WARNING)
        self.findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        self.findings.warning(record.getMessage())
