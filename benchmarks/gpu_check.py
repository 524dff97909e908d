"""What a GPU does with five published networks, in a few minutes and without a network: `make gpu-check`.

The triplet loss against every triplet written out; training as it is done against compute alone; testing in batches
against one sequence a step; each network's share of the roofline, from counted operations and bytes and ceilings
measured here. Every piece gets an equal share of the time that is left, what fails or finds no time is named, and the
results so far are written after every piece. Run from the project's root: `python benchmarks/gpu_check.py`;
`--device cpu --tiny` goes through all of it on a small machine, and says nothing about speed.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_networks import PUBLISHED, RECIPES, TINY, Size, test, train, write
from measure import machine, table
from triplet import measure as triplet

from opengait.engine.bench.ceilings import Ceilings
from opengait.engine.precision import DTYPES

HERE = Path(__file__).resolve().parent
TRIPLET_TARGETS = {128: 1.0, 512: 4.0}
LEAST = 1.0  # seconds; a piece with less is left out

Piece = Callable[[float], dict[str, list[dict[str, Any]]]]


class Results:
    """What has been found so far, in a file.

    Attributes:
        found: 'machine', 'ceilings', and for each kind of measurement a list of table rows.
        missing: piece -> why it is not there.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.found: dict[str, Any] = {"machine": machine(device), "ceilings": {}}
        self.missing: dict[str, str] = {}

    def add(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        for kind, some in rows.items():
            self.found.setdefault(kind, []).extend(some)

    def write(self) -> None:
        """Whole or not at all."""
        content = json.dumps(self.found | {"missing": self.missing}, indent=2) + "\n"
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        beside.write_text(content)
        os.replace(beside, self.path)


def measure_all(pieces: dict[str, Piece], results: Results, seconds: float) -> None:
    """Runs the pieces one after the other; those that fail or find no time are named in the results."""
    end = time.monotonic() + seconds
    for number, (name, piece) in enumerate(pieces.items()):
        share = (end - time.monotonic()) / (len(pieces) - number)
        sys.stderr.write(f"{name}: {max(share, 0):.0f} s ...\n")
        if share < LEAST:
            results.missing[name] = "no time was left"
        else:
            try:
                results.add(piece(share))
            except Exception as error:  # noqa: BLE001 - the others are to be measured all the same
                results.missing[name] = f"{type(error).__name__}: {error}"
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        results.write()


def pieces_of(
    networks: list[str], data_cfg: dict[str, Any], size: Size, device: torch.device, results: Results
) -> dict[str, Piece]:
    """Name -> what measures it in about so many seconds."""
    tiny = size is TINY

    @functools.cache
    def ceilings_of(precision: str) -> Ceilings:
        found = Ceilings.of(device, 256 if tiny else None, DTYPES[precision])
        results.found["ceilings"][precision] = {"TFLOP/s": found.flops / 1e12, "GB/s": found.bytes / 1e9}
        return found

    def losses(n: int) -> Piece:
        return lambda seconds: {"triplet": [triplet(n, device, 3) | {"target": TRIPLET_TARGETS.get(n, "-")}]}

    def training(network: str) -> Piece:
        def piece(seconds: float) -> dict[str, list[dict[str, Any]]]:
            row, parts = train(network, data_cfg, size, device, seconds, ceilings_of)
            return {"training": [row], "parts, ms": [{"network": network, **parts}]}

        return piece

    def testing(network: str) -> Piece:
        return lambda seconds: {"testing": [test(network, data_cfg, size, device, seconds, ceilings_of)]}

    found: dict[str, Piece] = {f"triplet {n}": losses(n) for n in ((32,) if tiny else TRIPLET_TARGETS)}
    for network in networks:
        found[f"training {network}"] = training(network)
        found[f"testing {network}"] = testing(network)
    return found


def shown(results: Results) -> str:
    """The tables, and what is not in them."""
    found = results.found
    lines = [", ".join(f"{key} {value}" for key, value in found["machine"].items())]
    for precision, rates in found["ceilings"].items():
        lines.append(f"measured ceilings, {precision}: " + ", ".join(f"{rate:,.1f} {of}" for of, rate in rates.items()))
    for kind, rows in found.items():
        if isinstance(rows, list):
            numbers = [
                {key: f"{one:.2f}" if isinstance(one, float) else one for key, one in row.items()} for row in rows
            ]
            lines.append(f"\n{kind}\n\n{table(numbers)}")
    lines += [f"\nnot measured: {name}: {why}" for name, why in results.missing.items()]
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--seconds", type=float, default=360, help="for all of it")
    options.add_argument("--only", choices=list(RECIPES), action="append", help="one network; repeatable")
    options.add_argument("--tiny", action="store_true", help="small data and batches, one turn")
    options.add_argument("--out", type=Path, help="default: benchmarks/results-<device>.json")
    given = options.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --device cpu --tiny goes through the steps on a CPU")
    name = re.sub(r"[^a-z0-9]+", "-", str(machine(device)["device"]).lower()).strip("-")
    results = Results(given.out or HERE / f"results-{name}.json", device)
    size = TINY if given.tiny else PUBLISHED
    with tempfile.TemporaryDirectory(prefix="opengait-gpu-check-") as folder:
        began = time.monotonic()
        data_cfg = write(Path(folder), size)
        left = given.seconds - (time.monotonic() - began)
        measure_all(pieces_of(given.only or list(RECIPES), data_cfg, size, device, results), results, left)
    print(shown(results))
    print(f"\nwritten to {results.path}")
    if results.missing:
        sys.exit(1)


if __name__ == "__main__":
    main()
