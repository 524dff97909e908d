"""Frames per sequence, remembered between runs: counting them opens every file of a tree once."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$OPENGAIT_CACHE`, or `~/.cache/opengait`."""
    given = os.environ.get("OPENGAIT_CACHE")
    return Path(given) if given else Path("~/.cache/opengait").expanduser()


def cached_lengths(digest: str, count: int, measure: Callable[[int], int]) -> np.ndarray:
    """The lengths stored under `digest`, or measured now and stored; int64 [count].

    A cache that cannot be read or written costs time and nothing else.
    """
    path = cache_folder() / f"lengths-{digest}.npy"
    lengths = _read(path, count)
    if lengths is None:
        log.info("counting the frames of %d sequences (done once, then cached)", count)
        lengths = np.fromiter((measure(index) for index in range(count)), dtype=np.int64, count=count)
        _write(path, lengths)
    return lengths


def _read(path: Path, count: int) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(found, np.ndarray) or found.dtype != np.int64 or found.shape != (count,) or (found < 1).any():
        return None
    return found


def _write(path: Path, lengths: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, so that processes that count at the same time do not write into each other's file.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.save(file, lengths)
        os.replace(file.name, path)
    except OSError as error:
        log.info("the frame counts are not cached: %s", error)
