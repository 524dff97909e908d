"""Runs the benchmarks one after the other and prints one table: what, how many times faster, the target.

`python benchmarks/all.py`, or `make bench`; `--full` is the long form. Each runs in a process of its own; what it
printed stands in full below the table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import machine, table

HERE = Path(__file__).resolve().parent
# Where the scripts say how many times faster, or how many times as long as the bound.
RATIOS = ("ratio", "times faster", "against walking")


@dataclass(frozen=True)
class Script:
    """A benchmark, and what is added to its command line.

    Attributes:
        target: of its rows, where they say none themselves.
    """

    name: str
    short: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    target: str = "-"


SCRIPTS = (
    Script("triplet"),
    Script("reading", target="3.5 (packed store)"),
    Script("pipeline"),
    Script("training", short=("--short",)),
    Script("testing", full=("--sequences", "500")),
    Script("ranking", short=("--part", "products", "--short"), target="at most 2 times the products"),
    Script("opening", short=("--turns", "1"), target="under 1 s and 300 MB"),
)


def rows_of(printed: str) -> Iterator[dict[str, str]]:
    """The rows of all Markdown tables in a text."""
    names: list[str] = []
    for line in printed.splitlines():
        if not line.startswith("|"):
            names = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not names:
            names = cells
        elif not set(line) <= set("|-: "):
            yield dict(zip(names, cells, strict=False))


def summary(script: Script, row: dict[str, str]) -> dict[str, str]:
    """A line of the common table."""
    ratio = next((row[name] for name in RATIOS if name in row), list(row.values())[-1])
    what = " = ".join(next(iter(row.items())))
    return {"benchmark": script.name, "what": what, "ratio": ratio, "target": row.get("target", script.target)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--full", action="store_true", help="the long forms")
    options.add_argument("--only", choices=[script.name for script in SCRIPTS], action="append", help="repeatable")
    given = options.parse_args()
    lines, texts, failed = [], [], []
    for script in SCRIPTS:
        if given.only and script.name not in given.only:
            continue
        arguments = script.full if given.full else script.short
        sys.stderr.write(f"{script.name} ...\n")
        began = time.monotonic()
        command = [sys.executable, str(HERE / f"{script.name}.py"), *arguments]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        taken = f"{time.monotonic() - began:.0f} s"
        lines += [summary(script, row) for row in rows_of(ended.stdout)]
        texts.append(f"\n{script.name} {' '.join(arguments)}, {taken}\n\n{ended.stdout}")
        if ended.returncode:
            failed.append(script.name)
    print(", ".join(f"{key} {value}" for key, value in machine(torch.device("cpu")).items()) + "\n")
    print(table(lines))
    print("\n".join(texts))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
