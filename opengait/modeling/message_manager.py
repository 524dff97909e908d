"""`self.msg_mgr`: how networks of the field write to the log and to TensorBoard."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("opengait.model")


class NoWriter:
    """Takes every call of a SummaryWriter and does nothing: on processes other than the first, and outside training."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._nothing

    def _nothing(self, *arguments: Any, **named: Any) -> None:
        pass


class MessageManager:
    """Log lines and the TensorBoard writer.

    Attributes:
        writer: the run's SummaryWriter, in training on the first process; elsewhere it takes calls and does nothing.
    """

    def __init__(self) -> None:
        self.writer: Any = NoWriter()

    def log_info(self, message: Any, *arguments: Any) -> None:
        """On the first process."""
        logger.info(*_lazily(message, arguments))

    def log_warning(self, message: Any, *arguments: Any) -> None:
        """On every process, with its number."""
        logger.warning(*_lazily(message, arguments))

    def log_debug(self, message: Any, *arguments: Any) -> None:
        """Shown where the level of the logger `opengait` is DEBUG, which a run sets to INFO."""
        logger.debug(*_lazily(message, arguments))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"msg_mgr has no '{name}' here; it has log_info, log_warning, log_debug and writer. Scalars and images of "
            "a step go into forward's visual_summary"
        )


def _lazily(message: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    # A message without arguments may hold percent signs, or be a mapping.
    return (message, *arguments) if arguments else ("%s", message)
