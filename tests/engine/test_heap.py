"""Memory that training frees on a CPU is used again, and given back at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_processes import process_environment
from engine_tiny import tiny_config

from opengait.engine import heap, run
from opengait.engine.heap import keeping_freed_memory

CPU = torch.device("cpu")
counts_pages = pytest.mark.skipif(
    sys.platform != "linux" or heap._glibc() is None, reason="pages are counted on Linux, memory is kept with glibc"
)

# 64 MB, which the C library asks the system for in any case. Pages are counted from the second time on.
PAGES = """
import resource, sys, torch
from opengait.engine.heap import keeping_freed_memory

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

touched()
outside = touched()
with keeping_freed_memory(torch.device(sys.argv[1])):
    before, first = resident(), touched()
    inside, kept = touched(), resident() - before
print(outside, inside, kept, resident() - before, touched())
"""


def pages(device: str = "cpu", **environment: str) -> list[int]:
    """Pages touched outside and inside, kB kept inside and after, pages touched after."""
    done = subprocess.run(
        [sys.executable, "-c", PAGES, device],
        env={**process_environment(), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


@counts_pages
def test_freed_memory_is_used_again_inside_and_given_back_at_the_end() -> None:
    outside, inside, kept, left, after = pages()
    assert outside > 30  # that many huge pages, or 16,000 small ones
    assert inside <= outside // 10
    assert kept > 60_000
    assert left < 10_000
    assert after > outside // 2


@counts_pages
@pytest.mark.parametrize(
    "settled", [{"MALLOC_TRIM_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}]
)
def test_what_the_environment_settles_stays(settled: dict[str, str]) -> None:
    outside, inside, kept, _, _ = pages(**settled)
    assert inside > outside // 2
    assert kept < 10_000


def test_nothing_is_kept_for_a_gpu() -> None:
    with keeping_freed_memory(torch.device("cuda")) as keeps:
        assert not keeps


def test_training_keeps_memory_until_it_ends(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Watched:
        def __init__(self, device: torch.device) -> None:
            seen.append(str(device))

        def __enter__(self) -> None:
            seen.append("kept")

        def __exit__(self, *_: Any) -> None:
            seen.append("given back")

    monkeypatch.setattr(run, "keeping_freed_memory", Watched)
    run.train(tiny_config(tree, trainer_cfg={"total_iter": 1}), device="cpu", output=tree / "output")
    assert seen == ["cpu", "kept", "given back"]
