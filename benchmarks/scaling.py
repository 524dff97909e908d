"""What training and testing cost on 1, 8 and 64 GPUs, computed from `scaling.yaml`: the tables of docs/scaling.md.

Each function says its formula. `python benchmarks/scaling.py` prints the tables, `--write` puts them into the document,
`--count` counts the networks anew (they are not run, so any machine will do). Run from the project's root.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from measure import table
from scaling_counts import Counts, count

HERE = Path(__file__).resolve().parent
INPUTS, DOCUMENT = HERE / "scaling.yaml", HERE.parent / "docs" / "scaling.md"
GPUS = (1, 8, 64)
FRAME = 64 * 64  # bytes, as stored
PARTS = 62  # of GaitSet, GaitPart and GaitGL

Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One recipe, with the inputs that its cost is computed from; times are in seconds."""

    dataset: str
    network: str
    counts: Counts
    data: Mapping[str, int]
    published: Mapping[str, float]
    measured: Mapping[str, float]
    share: float

    def _sequence_bound(self) -> float:
        """Of one sequence: the larger of FLOP / peak and bytes / bandwidth. Half precision: half the float32 bytes."""
        counts, peak = self.counts, self.published
        return max(counts.train_flops / peak["half_flops"], counts.train_bytes / 2 / peak["memory"])

    def _fixed_bound(self) -> float:
        """Of every iteration: weights and their gradients, and what the optimiser reads and writes, in float32."""
        step = 4 * self.counts.parameters * (3 + 2 * self.counts.state)
        return (self.counts.fixed_bytes + step) / self.published["memory"]

    def bound(self, gpus: int) -> float:
        """The least an iteration can take: sequences a GPU x bound of a sequence + fixed bound."""
        return math.ceil(self.counts.batch / gpus) * self._sequence_bound() + self._fixed_bound()

    def computing(self, gpus: int) -> float:
        """The larger of bound / share and the measured iteration of a network so small that launching kernels rules."""
        return max(self.bound(gpus) / self.share, self.measured["iteration_s"])

    def exchange(self, gpus: int) -> float:
        """Gradients around a ring, 2 (g - 1) / g of 4 bytes a parameter: over NVLink, one direction, within a node;
        then over the network between nodes. As if nothing of it ran beside the backward pass."""
        size, peak = 4 * self.counts.parameters, self.published
        inside = min(gpus, int(peak["gpus_a_node"]))
        nodes = gpus // inside
        return (
            2 * (inside - 1) / inside * size / (peak["nvlink"] / 2) + 2 * (nodes - 1) / nodes * size / peak["network"]
        )

    def iteration(self, gpus: int) -> float:
        return self.computing(gpus) + self.exchange(gpus)

    def rate(self, gpus: int) -> float:
        """Sequences a second."""
        return self.counts.batch / self.iteration(gpus)

    def useful(self) -> float:
        """GPUs at which bound / share has come down to the measured floor: more add nothing at this batch."""
        left = self.share * self.measured["iteration_s"] - self._fixed_bound()
        return max(1.0, self.counts.batch * self._sequence_bound() / left) if left > 0 else 1.0

    def embedding(self, gpus: int) -> float:
        """All test frames, spread evenly: the larger of FLOP / peak and half the float32 bytes / bandwidth, / share."""
        counts, peak = self.counts, self.published
        frame = max(counts.test_flops / peak["half_flops"], counts.test_bytes / 2 / peak["memory"])
        return self.data["test"] * self.data["frames"] * frame / self.share / gpus

    def pairs(self) -> int:
        return self.data["probes"] * self.data["gallery"]

    def ranking(self, gpus: int) -> float:
        """2 operations a pair and number of an embedding, in float32, at the published peak; the gallery spread."""
        return 2 * self.pairs() * self.counts.embedding / self.published["float_flops"] / gpus

    def ranking_on_a_core(self) -> float:
        """The measured ranking, times pairs and numbers of an embedding over those that were measured."""
        numbers = self.counts.embedding / (256 * 62)
        return self.measured["ranking_s"] * self.pairs() / self.measured["ranking_pairs"] * numbers


def runs(inputs: Mapping[str, Any]) -> list[Run]:
    """Of all recipes in the inputs."""
    shared = inputs["published"], inputs["measured"], inputs["assumed"]["share"]
    return [
        Run(
            one["dataset"],
            one["network"],
            Counts(**inputs["counted"][one["recipe"]]),
            inputs["datasets"][one["dataset"]],
            *shared,
        )
        for one in inputs["runs"]
    ]


def number(value: float, digits: int = 3) -> str:
    """1,234,000; 12.3; 0.0123: so many digits that count."""
    if value == 0:
        return "0"
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{places}f}"


def of_all(values: Iterator[float] | list[float], digits: int = 3) -> str:
    return " / ".join(number(value, digits) for value in values)


def counted(run: Run) -> Row:
    counts = run.counts
    return _named(run) | {
        "batch": f"{counts.batch} x {counts.frames}",
        "million parameters": number(counts.parameters / 1e6),
        "training, GFLOP a sequence": number(counts.train_flops / 1e9),
        "GB a sequence": number(counts.train_bytes / 1e9),
        "GB an iteration beside": number(counts.fixed_bytes / 1e9),
        "testing, GFLOP a frame": number(counts.test_flops / 1e9),
        "MB a frame": number(counts.test_bytes / 1e6),
    }


def training(run: Run) -> Row:
    hours = [run.counts.iterations * run.iteration(gpus) / 3600 for gpus in GPUS]
    return _named(run) | {
        "bound, ms": of_all([1e3 * run.bound(gpus) for gpus in GPUS]),
        "iteration, ms": of_all([1e3 * run.iteration(gpus) for gpus in GPUS]),
        "of it gradients": of_all([1e3 * run.exchange(gpus) for gpus in GPUS], 2),
        "iterations": f"{run.counts.iterations:,}",
        "hours": of_all(hours, 2),
        "efficiency, %": of_all([100 * hours[0] / hour / gpus for hour, gpus in zip(hours, GPUS, strict=True)], 2),
        "GPUs that help": number(run.useful(), 2),
    }


def reading(run: Run) -> Row:
    frames = run.counts.frames * run.counts.views
    split = run.data["train"] * run.data["frames"] * FRAME
    fits = "yes" if split < run.published["memory_size"] / 2 else "no"
    return _named(run) | {
        "sequences a second": of_all([run.rate(gpus) for gpus in GPUS]),
        "cores that read": of_all([run.rate(gpus) * run.measured["read_s"] * frames / 30 for gpus in GPUS], 2),
        "to each GPU, GB/s": of_all([run.rate(gpus) * frames * FRAME / gpus / 1e9 for gpus in GPUS], 2),
        "training split, GB": number(split / 1e9, 2),
        "resident": fits,
    }


def testing(run: Run) -> Row:
    return _named(run) | {
        "frames": f"{run.data['test'] * run.data['frames']:,}",
        "embedding, s": of_all([run.embedding(gpus) for gpus in GPUS], 2),
        "embeddings, GB": number(run.data["test"] * run.counts.embedding * 4 / 1e9, 2),
        "pairs": f"{run.pairs():,}",
        "ranking, s": of_all([run.ranking(gpus) for gpus in GPUS], 2),
        "on one core, s": number(run.ranking_on_a_core(), 2),
    }


def growing(batch: int) -> Row:
    """The batch-all triplet loss at a batch that grows with the GPUs, on every process: distances of float32."""
    return {
        "sequences": f"{batch:,}",
        "distances, GB": number(PARTS * batch**2 * 4 / 1e9, 2),
        "features gathered, GB": number(batch * PARTS * 256 * 4 / 1e9, 2),
    }


def tables(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Name -> Markdown."""
    found = runs(inputs)
    tested = [run for run in found if run.data["test"]]
    return {
        "counted": table([counted(run) for run in found]),
        "training": table([training(run) for run in found]),
        "reading": table([reading(run) for run in found]),
        "testing": table([testing(run) for run in tested]),
        "growing": table([growing(128 * gpus) for gpus in GPUS]),
    }


def filled(document: str, found: Mapping[str, str]) -> str:
    """A document with the tables between `<!-- NAME -->` and `<!-- end -->`."""
    for name, text in found.items():
        document, times = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{text}\n\2", document, flags=re.S)
        if times != 1:
            raise ValueError(f"{DOCUMENT}: <!-- {name} --> was expected once, found {times} times")
    return document


def read_inputs() -> dict[str, Any]:
    return yaml.safe_load(INPUTS.read_text())


def count_anew() -> None:
    """Counts all recipes and writes them behind the other inputs."""
    before = INPUTS.read_text().partition("\ncounted:")[0].rstrip("\n")
    recipes = [one["recipe"] for one in yaml.safe_load(before)["runs"]]
    text = yaml.safe_dump({"counted": {recipe: count(recipe) for recipe in recipes}}, sort_keys=False)
    INPUTS.write_text(f"{before}\n\n{text}")


def _named(run: Run) -> Row:
    return {"data": run.dataset, "network": run.network}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", action="store_true", help="count the networks anew")
    options.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    given = options.parse_args()
    if given.count:
        count_anew()
    found = tables(read_inputs())
    if given.write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), found))
    print("\n\n".join(f"{name}\n\n{text}" for name, text in found.items()))


if __name__ == "__main__":
    main()
