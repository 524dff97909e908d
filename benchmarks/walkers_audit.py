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
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opengait import engine
from opengait.config import Config, load_config
from opengait.data.dataset import GaitDataset
from opengait.evaluation import evaluate
from opengait.evaluation.baselines import chance, gait_energy_images
from opengait.synthetic import synthesize

CONFIG = "configs/gaitset/gaitset_demo.yaml"
EVAL_FUNC = "evaluate_indoor_dataset"
Figures = dict[str, float]


class Audit:
    """The data sets and figures of one audit.

    Args:
        out: folder of data sets and runs.
        options: of the command line.
    """

    def __init__(self, out: Path, options: argparse.Namespace) -> None:
        self.out = out
        self.options = options
        self.rows: dict[str, Figures] = {}

    def walkers(self, name: str, **changes: Any) -> Path:
        """A data set of the same subjects, with something about it changed."""
        options = self.options
        report = synthesize(
            self.out / "data" / name,
            options.train_subjects + options.test_subjects,
            seed=options.seed,
            train_subjects=options.train_subjects,
            views=options.views,
            frames=tuple(options.frames),
            workers=options.workers,
            **changes,
        )
        return report.out

    def derived(self, name: str, source: Path, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Path:
        """A copy of a data set with every sequence changed."""
        target = self.out / "data" / name
        for path in sorted(source.glob("*/*/*/*.pkl")):
            with path.open("rb") as file:
                frames = change(pickle.load(file))
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(pickle.dumps(frames, protocol=4))
        (target / "partition.json").write_bytes((source / "partition.json").read_bytes())
        return target

    def config(self, name: str, data: Path) -> Config:
        """The demo's recipe, aimed at a data set."""
        steps = self.options.iterations
        return load_config(
            CONFIG,
            {
                "data_cfg": {
                    "dataset_root": str(data),
                    "dataset_partition": str(data / "partition.json"),
                    "num_workers": self.options.loader_workers,
                },
                "scheduler_cfg": {"total_steps": steps},
                "trainer_cfg": {"save_name": name, "total_iter": steps, "save_iter": steps, "seed": self.options.seed},
                "evaluator_cfg": {"save_name": name, "restore_hint": steps},
            },
        )

    def learned(self, row: str, name: str, data: Path) -> None:
        """Trains on a data set and tests on its other subjects."""
        config = self.config(name, data)
        where = {"device": self.options.device, "output": self.out / "runs"}
        engine.train(config, **where)
        self.rows[row] = by_condition(engine.test(config, **where))

    def tested(self, row: str, name: str, data: Path) -> None:
        """Tests the network trained under `name` on a data set."""
        config = self.config(name, data)
        self.rows[row] = by_condition(engine.test(config, device=self.options.device, output=self.out / "runs"))

    def ranked(self, row: str, data: Path, features: Callable[[GaitDataset], NDArray[Any]]) -> None:
        """Ranks without learning."""
        dataset = test_split(data)
        names = (dataset.labels, dataset.types, dataset.views)
        self.rows[row] = by_condition(evaluate(EVAL_FUNC, features(dataset), *names, dataset="Walkers"))


def by_condition(figures: Mapping[str, float]) -> Figures:
    """`scalar/test_accuracy/NM@R1` -> `NM`."""
    return {tag.rsplit("/", 1)[-1].removesuffix("@R1"): value for tag, value in figures.items() if tag.endswith("@R1")}


def test_split(data: Path) -> GaitDataset:
    """The test subjects of a data set."""
    return GaitDataset({"dataset_root": str(data), "dataset_partition": str(data / "partition.json")}, training=False)


def energy_images(dataset: GaitDataset) -> NDArray[Any]:
    return gait_energy_images(dataset.read(index)[0] for index in range(len(dataset)))


def one_frame(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frames[len(frames) // 2][None]


def mean_silhouette(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.round(frames.mean(0, dtype=np.float64)).astype(np.uint8)[None]


def shuffled(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frames[np.random.default_rng(len(frames)).permutation(len(frames))]


def run(options: argparse.Namespace) -> Audit:
    """All rows, cheapest first."""
    audit = Audit(options.out, options)
    both = audit.walkers("both")
    dataset = test_split(both)
    expected = chance(EVAL_FUNC, dataset.labels, dataset.types, dataset.views, dataset="Walkers")
    audit.rows["chance"] = by_condition(expected.figures)
    audit.ranked("gait energy images, nothing learned", both, energy_images)
    audit.learned("full sequence", "both", both)
    audit.tested("frames in another order", "both", audit.derived("shuffled", both, shuffled))
    audit.tested("rendered again (phase, cameras, clothes, noise)", "both", audit.walkers("again", render_seed=1))
    audit.learned("one frame repeated", "one_frame", audit.derived("one_frame", both, one_frame))
    audit.learned("mean silhouette", "mean", audit.derived("mean", both, mean_silhouette))
    audit.learned("own gait, common body", "gait", audit.walkers("gait", own_body=False))
    audit.learned("own body, common gait", "body", audit.walkers("body", own_gait=False))
    audit.learned("common body and gait", "neither", audit.walkers("neither", own_body=False, own_gait=False))
    return audit


def markdown(rows: Mapping[str, Figures]) -> str:
    """The table as it stands in the docs."""
    conditions = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(conditions) + " |", "|---" * (len(conditions) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(f"{f[c]:.1f}" for c in conditions) + " |" for row, f in rows.items()]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("output/audit"))
    options.add_argument("--train-subjects", type=int, default=100)
    options.add_argument("--test-subjects", type=int, default=50)
    options.add_argument("--iterations", type=int, default=1500)
    options.add_argument("--frames", type=int, nargs=2, default=(24, 36))
    options.add_argument("--views", nargs="+", default=("000", "036", "072", "108", "144", "180"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--workers", type=int, default=None, help="processes that render")
    options.add_argument("--loader-workers", type=int, default=1)
    return options


def main() -> None:
    options = parser().parse_args()
    audit = run(options)
    print(markdown(audit.rows))
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    (options.out / "audit.json").write_text(json.dumps({"options": shown, "rank1": audit.rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
