"""The main job from end to end on generated walkers: synthesize, train, test, and what to hold the figures against."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from opengait import engine
from opengait.config import Config, load_config
from opengait.data.dataset import GaitDataset
from opengait.engine.run_folder import run_folder
from opengait.evaluation import Table, evaluate, rich_table
from opengait.evaluation.baselines import chance, gait_energy_images
from opengait.synthetic import SynthesisReport, synthesize

CONFIG = "configs/gaitset/gaitset_demo.yaml"
# Every other view of CASIA-B's eleven keeps the table's shape at half the rendering.
VIEWS = ("000", "036", "072", "108", "144", "180")
FRAMES = (24, 36)


@dataclass(frozen=True)
class DemoReport:
    """Mean Rank-1 in percent by condition of everything the demo compares, and what it was measured on."""

    rank1: dict[str, dict[str, float]]
    train_subjects: int
    test_subjects: int
    seed: int
    iterations: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return dict(vars(self))


def run_demo(
    out: Path = Path("output/demo"),
    *,
    train_subjects: int = 80,
    test_subjects: int = 30,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> DemoReport:
    """Trains a quarter-width GaitSet on generated walkers and tests it on others, never seen in training.

    Args:
        out: folder of the walkers (`walkers/`), the runs and `demo.json`.
        iterations: of training; None as the config says.
        seed: of walkers, network and batches.

    Raises:
        ValueError: arguments that make no demo.
    """
    began = time.monotonic()
    console = Console(stderr=True)
    console.print(f"1/4 rendering {train_subjects + test_subjects} walkers, {test_subjects} of them for testing only")
    walkers = synthesize(
        out / "walkers",
        train_subjects + test_subjects,
        seed=seed,
        views=VIEWS,
        frames=FRAMES,
        train_subjects=train_subjects,
    )
    config = _config(out, walkers, iterations, seed)
    run: dict[str, Any] = {"device": device, "output": out / "runs"}
    console.print(f"2/4 training GaitSet for {config.trainer_cfg.total_iter} iterations")
    engine.train(config, **run)
    console.print("3/4 testing on subjects never trained on")
    trained = engine.test(config, **run)
    console.print("4/4 the same test for what has learnt nothing")
    untrained = engine.test(_named(config, "GaitSet-untrained"), iteration=0, **run)
    dataset = GaitDataset(config["data_cfg"], training=False)
    names = (dataset.labels, dataset.types, dataset.views)
    energy = gait_energy_images(dataset.read(index)[0] for index in range(len(dataset)))
    eval_func = config.evaluator_cfg.eval_func
    report = DemoReport(
        rank1={
            "GaitSet, trained": _by_condition(trained),
            "GaitSet, untrained": _by_condition(untrained),
            "gait energy images": _by_condition(evaluate(eval_func, energy, *names, dataset="Walkers")),
            "chance": _by_condition(chance(eval_func, *names, dataset="Walkers").figures),
        },
        train_subjects=len(walkers.train),
        test_subjects=len(walkers.test),
        seed=seed,
        iterations=config.trainer_cfg.total_iter,
        seconds=round(time.monotonic() - began, 1),
    )
    (out / "demo.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    _show(report, _tables(out, config))
    return report


def _config(out: Path, walkers: SynthesisReport, iterations: int | None, seed: int) -> Config:
    overrides: dict[str, Any] = {
        "data_cfg": {"dataset_root": str(walkers.out), "dataset_partition": str(walkers.partition)},
        "trainer_cfg": {"seed": seed},
    }
    if iterations is not None:
        overrides["trainer_cfg"] |= {"total_iter": iterations, "save_iter": iterations}
        overrides["evaluator_cfg"] = {"restore_hint": iterations}
        overrides["scheduler_cfg"] = {"total_steps": iterations}
    return load_config(CONFIG, overrides)


def _named(config: Config, save_name: str) -> Config:
    """The same config under another run folder, so that figures of an untrained network never lie beside real ones."""
    tree = config.to_dict()
    tree["evaluator_cfg"]["save_name"] = save_name
    return Config.from_dict(tree)


def _tables(out: Path, config: Config) -> list[Table]:
    """The trained network's tables by probe view, as its test wrote them."""
    cfg = config.evaluator_cfg
    folder = run_folder(config, "evaluator_cfg", out / "runs")
    name = f"{config.data_cfg.test_dataset_name}-{cfg.save_name}-{cfg.restore_hint:05d}.json"
    written = json.loads((folder / "results" / name).read_text(encoding="utf-8"))
    return [Table(**table) for table in written["tables"]]


def _by_condition(figures: Mapping[str, float]) -> dict[str, float]:
    """`scalar/test_accuracy/NM@R1` -> `NM`, Rank-1 alone."""
    return {tag.rsplit("/", 1)[-1].removesuffix("@R1"): value for tag, value in figures.items() if tag.endswith("@R1")}


def _show(report: DemoReport, tables: list[Table]) -> None:
    console = Console()
    for by_view in tables:
        console.print(rich_table(by_view))
    conditions = list(next(iter(report.rank1.values())))
    table = RichTable(title="Mean Rank-1 in percent over all pairs of different views, generated walkers")
    table.add_column("")
    for condition in conditions:
        table.add_column(condition, justify="right")
    for name, figures in report.rank1.items():
        table.add_row(name, *(f"{figures[condition]:.1f}" for condition in conditions))
    console.print(table)
    console.print(
        f"{report.test_subjects} test subjects, none of the {report.train_subjects} trained on; seed {report.seed}; "
        f"{report.iterations} iterations; {report.seconds:.0f} s in all"
    )
