"""The log of a run: console, optional file, and tables that go to both."""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType

from opengait.engine.distributed import launched_rank

LOGGER_NAME = "opengait"
LINE_FORMAT = "[%(asctime)s] [%(levelname)s]: %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class _Console(logging.StreamHandler):
    """Writes to what `sys.stderr` is at the moment, so that a redirected stream is honoured."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


@contextlib.contextmanager
def logging_to(run_folder: Path, *, log_to_file: bool = False) -> Iterator[None]:
    """The `opengait` logger writes to the console, and to `logs/<time>.txt`, inside the `with` block.

    Processes other than the first only write warnings, with their rank. What the logger was before is put back at the
    end, so that repeated runs in one program never double their lines.
    """
    log = logging.getLogger(LOGGER_NAME)
    before = (log.handlers[:], log.level, log.propagate)
    number = launched_rank()
    line = LINE_FORMAT if number == 0 else LINE_FORMAT.replace(": %", f" (rank {number}): %")
    handlers: list[logging.Handler] = [_Console()]
    if log_to_file and number == 0:
        folder = run_folder / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        name = datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S")
        handlers.append(logging.FileHandler(folder / f"{name}.txt", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(line, TIME_FORMAT))
    log.handlers[:] = handlers
    log.setLevel(logging.INFO if number == 0 else logging.WARNING)
    log.propagate = False
    try:
        yield
    finally:
        for handler in handlers:
            handler.close()
        log.handlers[:], log.propagate = before[0], before[2]
        log.setLevel(before[1])


def show_table(table: RenderableType) -> None:
    """A table on the console, in colour where that is a terminal, and as plain text in the log file."""
    Console().print(table)
    files = [handler for handler in logging.getLogger(LOGGER_NAME).handlers if isinstance(handler, logging.FileHandler)]
    if files:
        plain = Console(file=io.StringIO(), width=160, no_color=True)
        plain.print(table)
        text = plain.file.getvalue()  # type: ignore[attr-defined]
        record = logging.LogRecord(LOGGER_NAME, logging.INFO, __file__, 0, "%s", (f"\n{text.rstrip()}",), None)
        for handler in files:
            handler.handle(record)
