"""Fixtures that several rooms share."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script of `benchmarks/` as it is when run there; what it brought along is forgotten afterwards."""
    folder, before = str(PROJECT_ROOT / "benchmarks"), set(sys.modules)
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]
