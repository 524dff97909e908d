"""Do the generated walkers measure gait? Trains the same small GaitSet on variants of them and prints a table.

    python benchmarks/walkers_audit.py --out output/audit

Each row changes one thing and gives mean Rank-1 (identical views excluded) of subjects never trained on:

- what identifies: the full sequence, its frames in another order, one frame, the mean silhouette, metadata alone;
- where identity sits: own body and own gait, either, neither;
- what must not matter: the same walkers rendered again with new phase, cameras and noise; permuted labels.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opengait import engine
from opengait.config import Config, load_config
from opengait.data.dataset import GaitDataset
from opengait.evaluation import evaluate
from opengait.evaluation.baselines import chance, gait_energy_images
from opengait.synthetic import Settings, sequence_facts, synthesize

CONFIG = "configs/gaitset/gaitset_demo.yaml"
EVAL_FUNC = "evaluate_indoor_dataset"
TYPES = ("nm-01", "nm-02", "nm-03", "nm-04", "nm-05", "nm-06", "bg-01", "bg-02", "cl-01", "cl-02")
Figures = dict[str, float]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Audit:
    """One audit: its folder, and the options of the command line."""

    out: Path
    train_subjects: int
    test_subjects: int
    iterations: int
    frames: tuple[int, int]
    views: tuple[str, ...]
    seed: int
    device: str
    workers: int

    def walkers(self, name: str, **changes: Any) -> Path:
        """A data set of the same subjects, with something about it changed."""
        report = synthesize(
            self.out / "data" / name,
            self.train_subjects + self.test_subjects,
            seed=self.seed,
            train_subjects=self.train_subjects,
            types=TYPES,
            views=self.views,
            frames=self.frames,
            workers=self.workers,
            **changes,
        )
        return report.out

    def derived(self, name: str, change: Callable[[Frames], Frames]) -> Path:
        """A copy of the plain data set with every sequence changed."""
        source, target = self.out / "data" / "both", self.out / "data" / name
        partition, made = source / "partition.json", target / "partition.json"
        if made.is_file() and made.read_bytes() == partition.read_bytes():
            return target
        for path in sorted(source.glob("*/*/*/*.pkl")):
            with path.open("rb") as file:
                frames = change(pickle.load(file))
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(pickle.dumps(frames, protocol=4))
        made.write_bytes(partition.read_bytes())
        return target

    def config(self, name: str, data: Path) -> Config:
        """The demo's recipe, aimed at a data set."""
        steps = self.iterations
        return load_config(
            CONFIG,
            {
                "data_cfg": {"dataset_root": str(data), "dataset_partition": str(data / "partition.json")},
                "scheduler_cfg": {"total_steps": steps},
                "trainer_cfg": {"save_name": name, "total_iter": steps, "save_iter": steps, "seed": self.seed},
                "evaluator_cfg": {"save_name": name, "restore_hint": steps},
            },
        )

    def learned(self, name: str, data: Path) -> Figures:
        """Trains on a data set and tests on its other subjects."""
        engine.train(self.config(name, data), device=self.device, output=self.out / "runs")
        return self.tested(name, data)

    def tested(self, name: str, data: Path) -> Figures:
        """Tests the network trained under `name` on a data set."""
        return by_condition(engine.test(self.config(name, data), device=self.device, output=self.out / "runs"))

    def ranked(self, features: Callable[[GaitDataset], NDArray[Any]]) -> Figures:
        """Nearest neighbours on the plain data set, nothing learned."""
        dataset = self.test_split()
        names = (dataset.labels, dataset.types, dataset.views)
        return by_condition(evaluate(EVAL_FUNC, features(dataset), *names, dataset="Walkers"))

    def test_split(self) -> GaitDataset:
        """The test subjects of the plain data set."""
        data = self.out / "data" / "both"
        paths = {"dataset_root": str(data), "dataset_partition": str(data / "partition.json")}
        return GaitDataset(paths, training=False)

    def facts(self, dataset: GaitDataset) -> NDArray[Any]:
        """Metadata of every test sequence, each number on a common scale, `[n, facts, 1]`."""
        settings = Settings(self.seed, 0, TYPES, self.views, self.frames, 1.0, True, True)
        rows: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
        for label, kind in sorted(set(zip(dataset.labels, dataset.types, strict=True))):
            rows[label, kind] = sequence_facts(settings, int(label) - 1, kind)
        names = zip(dataset.labels, dataset.types, dataset.views, strict=True)
        found = np.stack([rows[label, kind][view] for label, kind, view in names])
        return ((found - found.mean(0)) / np.maximum(found.std(0), 1e-9))[..., None]


def by_condition(figures: Mapping[str, float]) -> Figures:
    """`scalar/test_accuracy/NM@R1` -> `NM`."""
    return {tag.rsplit("/", 1)[-1].removesuffix("@R1"): value for tag, value in figures.items() if tag.endswith("@R1")}


def energy_images(dataset: GaitDataset) -> NDArray[Any]:
    return gait_energy_images(dataset.read(index)[0] for index in range(len(dataset)))


def one_frame(frames: Frames) -> Frames:
    return frames[len(frames) // 2][None]


def mean_silhouette(frames: Frames) -> Frames:
    return np.round(frames.mean(0, dtype=np.float64)).astype(np.uint8)[None]


def shuffled(frames: Frames) -> Frames:
    return frames[np.random.default_rng(len(frames)).permutation(len(frames))]


def permuted_labels(audit: Audit) -> Figures:
    """Energy images of the right sequences under the wrong names, views and conditions kept."""
    dataset = audit.test_split()
    order = np.random.default_rng(0).permutation(len(dataset))
    labels = [dataset.labels[index] for index in order]
    found = evaluate(EVAL_FUNC, energy_images(dataset), labels, dataset.types, dataset.views, dataset="Walkers")
    return by_condition(found)


def expected_by_chance(audit: Audit) -> Figures:
    dataset = audit.test_split()
    names = (dataset.labels, dataset.types, dataset.views)
    return by_condition(chance(EVAL_FUNC, *names, dataset="Walkers").figures)


def full_sequence(audit: Audit) -> dict[str, Figures]:
    """The network on everything, and what must leave its figures alone."""
    return {
        "full sequence": audit.learned("both", audit.out / "data" / "both"),
        "the same, frames in another order": audit.tested("both", audit.derived("shuffled", shuffled)),
        "the same, one frame of each sequence": audit.tested("both", audit.derived("one_frame", one_frame)),
        "the same, mean silhouette of each sequence": audit.tested("both", audit.derived("mean", mean_silhouette)),
        "the same, rendered again (phase, cameras, clothes, noise)": audit.tested(
            "both", audit.walkers("again", render_seed=1)
        ),
    }


# Title -> the row, made in a process of its own; each holds whatever it needs beside the plain data set.
STEPS: dict[str, Callable[[Audit], Figures | dict[str, Figures]]] = {
    "chance": expected_by_chance,
    "metadata (length, start phase, box size, cameras, noise)": lambda audit: audit.ranked(audit.facts),
    "permuted labels": permuted_labels,
    "gait energy images, nothing learned": lambda audit: audit.ranked(energy_images),
    "full sequence": full_sequence,
    "trained and tested on one frame": lambda audit: audit.learned("frame", audit.derived("one_frame", one_frame)),
    "trained and tested on the mean silhouette": lambda audit: audit.learned(
        "mean", audit.derived("mean", mean_silhouette)
    ),
    "own gait, common body": lambda audit: audit.learned("gait", audit.walkers("gait", own_body=False)),
    "own body, common gait": lambda audit: audit.learned("body", audit.walkers("body", own_gait=False)),
    "common body and gait": lambda audit: audit.learned(
        "neither", audit.walkers("neither", own_body=False, own_gait=False)
    ),
}


def make(title: str, audit: Audit) -> dict[str, Figures]:
    """The rows of one step."""
    found = STEPS[title](audit)
    return {title: found} if "NM" in found else found  # type: ignore[return-value,dict-item]


def run(audit: Audit, steps: Sequence[str], jobs: int) -> dict[str, Figures]:
    """The rows of some steps, `jobs` at a time."""
    audit.walkers("both")
    audit.derived("one_frame", one_frame)
    audit.derived("mean", mean_silhouette)
    if jobs == 1:
        made = [make(title, audit) for title in steps]
    else:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            made = list(pool.map(make, steps, [audit] * len(steps)))
    return {row: figures for rows in made for row, figures in rows.items()}


def markdown(rows: Mapping[str, Figures]) -> str:
    """The table as it stands in the docs."""
    conditions = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(conditions) + " |", "|---" * (len(conditions) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(f"{f[c]:.1f}" for c in conditions) + " |" for row, f in rows.items()]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("output/audit"))
    options.add_argument("--train-subjects", type=int, default=80)
    options.add_argument("--test-subjects", type=int, default=30)
    options.add_argument("--iterations", type=int, default=1200)
    options.add_argument("--frames", type=int, nargs=2, default=(24, 36))
    options.add_argument("--views", nargs="+", default=("000", "036", "072", "108", "144", "180"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render a data set")
    options.add_argument("--jobs", type=int, default=1, help="rows made at a time")
    options.add_argument(
        "--steps", nargs="+", choices=tuple(STEPS), default=tuple(STEPS), metavar="ROW", help="only these"
    )
    return options


def main() -> None:
    given = vars(parser().parse_args())
    jobs, steps = given.pop("jobs"), given.pop("steps")
    audit = Audit(**{**given, "frames": tuple(given["frames"]), "views": tuple(given["views"])})
    rows = run(audit, steps, jobs)
    print(markdown(rows))
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    (audit.out / "audit.json").write_text(json.dumps({"options": settings, "rank1": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
