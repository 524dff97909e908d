"""Writes data files for tests."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


def write_pickle(path: Path, value: Any, protocol: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
