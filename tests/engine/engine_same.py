"""Two runs compared bit for bit: checkpoints, log lines, TensorBoard scalars."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from opengait.engine.checkpoint import load_checkpoint

# Rates depend on the machine's mood.
PAIRS = re.compile(r"(\w+)=([-+.\w]+)")
ITERATION = re.compile(r": Iteration (\d+), (.*)")


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    """Two trees of plain containers and tensors, bit for bit."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, path
        assert torch.equal(found, expected), path
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{path}[{number}]")
    else:
        assert found == expected, path


def assert_same_checkpoints(found: Path | None, expected: Path | None) -> None:
    """Weights, optimiser, schedule, generators, counters: all but the config."""
    assert found is not None
    assert expected is not None
    one, other = load_checkpoint(found), load_checkpoint(expected)
    for key in ("config",):  # holds the path of its own file's data, equal here, but the total may differ
        one.pop(key), other.pop(key)
    assert_same(one, other)


def logged(folder: Path) -> dict[int, set[tuple[tuple[str, str], ...]]]:
    """Iteration -> the different figures that the log files of a run have for it; one, where nothing went wrong."""
    lines: dict[int, set[tuple[tuple[str, str], ...]]] = {}
    for path in sorted((folder / "logs").glob("*.txt")):
        for number, rest in ITERATION.findall(path.read_text()):
            lines.setdefault(int(number), set()).add(tuple(PAIRS.findall(rest)))
    return lines


def scalars(folder: Path, scratch: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) as TensorBoard shows the run's event files, without rates.

    TensorBoard reads files in the order of their names, which begin with the second they were made in; here runs
    follow each other within a second, so links of other names give the order.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = []
    for path in (folder / "summary").glob("events*"):
        first = next(iter(EventFileLoader(str(path)).Load()), None)
        if first is not None:
            files.append((first.wall_time, path))
    scratch.mkdir()
    for number, (_, path) in enumerate(sorted(files)):
        (scratch / f"events.out.tfevents.{number:010d}").symlink_to(path.resolve())
    events = EventAccumulator(str(scratch), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("throughput/")
    }
