"""The audit of the walkers makes its rows, and what it derived for some subjects is not taken for others."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "walkers_audit.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("walkers_audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its annotations
    spec.loader.exec_module(module)
    return module


def test_rows_without_training_and_a_second_audit_of_more_subjects(script: ModuleType, tmp_path: Path) -> None:
    audit = script.Audit(tmp_path, 1, 2, 1, (5, 6), ("000", "090"), 0, "cpu", 1)
    steps = [title for title in script.STEPS if "trained" not in title and "common" not in title]
    steps.remove("full sequence")
    rows = script.run(audit, steps, jobs=1)
    assert list(rows) == steps
    assert rows["chance"] == {condition: pytest.approx(50.0) for condition in ("NM", "BG", "CL")}
    assert all(0 <= figure <= 100 for figures in rows.values() for figure in figures.values())
    assert script.markdown(rows).count("\n") == len(steps) + 1

    script.run(replace(audit, test_subjects=3), ["chance"], jobs=1)
    partition = json.loads((tmp_path / "data" / "mean" / "partition.json").read_text())
    assert partition == {"TRAIN_SET": ["001"], "TEST_SET": ["002", "003", "004"]}
    assert len(list((tmp_path / "data" / "mean" / "004").rglob("*.pkl"))) == 20
