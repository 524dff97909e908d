"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The same cases at every run, so that a change is judged by itself; `--hypothesis-profile=searching` draws new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("searching", derandomize=False)
settings.load_profile("same")

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Finds a file of the shared folder (golden numbers, spec, recorded walks); skips visibly where it is absent."""
    root = Path(os.environ.get("OPENGAIT_SHARED", PROJECT_ROOT.parent / "shared"))

    def find(relative: str) -> Path:
        path = root / relative
        if not path.exists():
            pytest.skip(f"{relative} is not in the shared folder; set OPENGAIT_SHARED to it")
        return path

    return find
