"""Which checkpoints stay, and which were tested in training with what figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from opengait.engine.checkpoint import checkpoint_name, list_checkpoints
from opengait.engine.checkpoint_files import DamagedFile, stored_digest, whole_file
from opengait.registry import nearest

logger = logging.getLogger(__name__)


class CheckpointTests:
    """`checkpoints/<save_name>-tests.json`: iteration -> figures of the test in training, and the digest of the file.

    The digest tells a checkpoint that was tested from one that a later run wrote under the same name.
    """

    def __init__(self, folder: Path, save_name: str) -> None:
        self._folder, self._save_name = folder, save_name
        self.path = folder / f"{save_name}-tests.json"

    def record(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Remembers a test, and forgets those of checkpoints that are gone or replaced.

        Raises:
            OSError: the file cannot be written.
        """
        entry = {"digest": next(iter(self._digests(iteration)), None), "figures": dict(figures)}
        entries = {**{str(number): kept for number, kept in self._read().items()}, str(iteration): entry}
        with whole_file(self.path) as file:
            file.write((json.dumps(entries, indent=2) + "\n").encode())

    def holds(self, iteration: int) -> bool:
        """Whether the checkpoint of an iteration, as it now is, was tested."""
        return iteration in self._read()

    def best(self, figure: str) -> int | None:
        """Iteration of the checkpoint with the largest figure, the earliest of equals; None where none was tested."""
        values = {number: _value(entry["figures"], figure) for number, entry in sorted(self._read().items())}
        known = {number: value for number, value in values.items() if value is not None}
        return max(known, key=lambda number: known[number]) if known else None

    def _read(self) -> dict[int, dict[str, Any]]:
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            return {
                int(number): entry
                for number, entry in entries.items()
                if isinstance(entry["figures"], dict) and entry["digest"] in self._digests(int(number))
            }
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, KeyError, TypeError, OSError) as error:
            logger.warning("%s: cannot be read (%s); the tests in it are forgotten", self.path, error)
            return {}

    def _digests(self, iteration: int) -> list[str]:
        """That of the checkpoint of an iteration, where there is one."""
        try:
            digest = stored_digest(self._folder / checkpoint_name(self._save_name, iteration))
        except (OSError, DamagedFile):
            return []
        return [] if digest is None else [digest]


def prune_checkpoints(
    folder: Path, save_name: str, keep_last: int | None, keep_every: int | None = None, best: int | None = None
) -> None:
    """Deletes files of a run.

    Args:
        keep_last: the newest so many stay; None keeps all.
        keep_every: those of multiples of so many iterations stay too.
        best: the one of this iteration stays too.
    """
    if keep_last is None:
        return
    for iteration, path in list_checkpoints(folder, save_name)[: -max(keep_last, 1)]:
        if iteration != best and not (keep_every and iteration % keep_every == 0):
            path.unlink(missing_ok=True)


def check_figure(figure: str, tags: Collection[str]) -> None:
    """Whether `trainer_cfg.keep_best` is one of a protocol's figures.

    Raises:
        ValueError: it is not; the message names those there are.
    """
    if not any(_is(tag, figure) for tag in tags):
        names = [tag.removeprefix("scalar/test_accuracy/") for tag in tags]
        near = nearest(figure, names)
        hint = f" (did you mean '{near}'?)" if near else ""
        raise ValueError(
            f"trainer_cfg.keep_best: the test gives no figure '{figure}'{hint}; it gives: {', '.join(names) or 'none'}"
        )


def _is(tag: str, figure: str) -> bool:
    return figure in (tag, tag.removeprefix("scalar/"), tag.removeprefix("scalar/test_accuracy/"))


def _value(figures: Mapping[str, Any], figure: str) -> float | None:
    return next((value for tag, value in figures.items() if _is(tag, figure) and isinstance(value, int | float)), None)
