"""The check of a GPU goes through all its steps on a CPU, keeps what it has, and ends in time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def script(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("gpu_check")


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
    script.main()


def test_a_tiny_run_on_a_cpu_gives_every_table(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    arguments = ["--device", "cpu", "--tiny", "--only", "GaitSet", "--seconds", "600", "--out", str(out)]
    run(script, monkeypatch, *arguments)
    found = json.loads(out.read_text())
    assert found["missing"] == {}
    assert found["ceilings"]["fp32"].keys() == {"TFLOP/s", "GB/s"}
    for kind in ("triplet", "training", "testing"):
        [row] = found[kind]
        assert "target" in row
    assert float(found["testing"][0]["largest difference"]) < 1e-4
    assert found["training"][0]["sequences x frames"] == "4 x 4"
    shown = capsys.readouterr().out
    for heading in ("triplet", "training", "testing", "parts, ms"):
        assert f"\n{heading}\n\n| " in shown
    assert not list(tmp_path.glob(".*"))


def test_what_fails_or_finds_no_time_is_named_and_the_rest_is_kept(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    shares = []

    def takes(seconds: float) -> Any:
        def piece(share: float) -> dict[str, list[dict[str, Any]]]:
            shares.append(share)
            clock[0] += seconds
            return {"kind": [{"took": seconds}]}

        return piece

    def fails(share: float) -> Any:
        raise RuntimeError("CUDA error")

    results = script.Results(tmp_path / "results.json", torch.device("cpu"))
    pieces = {"quick": takes(1.0), "broken": fails, "slow": takes(96.0), "last": takes(2.5), "never": takes(0.0)}
    script.measure_all(pieces, results, 100.0)
    found = json.loads((tmp_path / "results.json").read_text())
    # What one does not use is there for the others.
    assert shares == [100 / 5, 99 / 3, 3 / 2]
    assert found["kind"] == [{"took": 1.0}, {"took": 96.0}, {"took": 2.5}]
    assert found["missing"] == {"broken": "RuntimeError: CUDA error", "never": "no time was left"}


def test_without_a_gpu_it_says_what_can_be_done(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu --tiny"):
        run(script, monkeypatch)
