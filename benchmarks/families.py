"""Does every network family learn? Trains each briefly on generated walkers and tests it on others, before and after.

    python benchmarks/families.py --out output/families

`families.yaml` beside this file says which shipped recipe each family runs by and what is changed to make it brief. The
untrained network is the same network with the same initial weights under the same test.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from opengait import build_model, engine
from opengait.config import Config, load_config
from opengait.data.dataset import GaitDataset
from opengait.evaluation.baselines import chance
from opengait.synthetic import synthesize

RECIPES = Path(__file__).with_suffix(".yaml")
NAME, RANKED, MASKS = "Walkers", "evaluate_indoor_dataset", "evaluate_segmentation"
WIDTHS = {"channels", "in_channels", "out_channels", "lateral_dim", "hidden_dim", "layers_cfg"}
CLEAR_GAIN = 10.0
Figures = dict[str, float]


@dataclass(frozen=True)
class Phase:
    """One training of a family: a shipped recipe and what is changed about it.

    Attributes:
        data: name of the data set trained on; `tested_on` of the one tested on, where that is another.
        narrower: divides the widths of all layers.
        after: phases of the family whose checkpoints are restored, in this order.
        changes: merged over the recipe.
    """

    name: str
    recipe: str
    iterations: int
    data: str = "silhouettes"
    tested_on: str = ""
    narrower: int = 1
    after: Sequence[str] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """Where everything lies, and the options of the command line."""

    out: Path
    recipes: Mapping[str, Any]
    train_subjects: int
    test_subjects: int
    iterations_scale: float
    seed: int
    device: str
    workers: int

    def phases(self, family: str) -> list[Phase]:
        """A family's trainings, in order."""
        return [Phase(**entry) for entry in self.recipes["families"][family]]

    def walkers(self, name: str) -> Path:
        """A data set of `families.yaml`; all show the same walkers, an unlabelled one only those for training."""
        cfg = dict(self.recipes["data"][name])
        square = cfg.pop("square", None)
        cfg["frames"] = tuple(cfg["frames"])
        unlabelled = cfg["modalities"] == ["unlabelled"]
        made = synthesize(
            self.out / "data" / name,
            self.train_subjects + (0 if unlabelled else self.test_subjects),
            train_subjects=None if unlabelled else self.train_subjects,
            seed=self.seed,
            workers=self.workers,
            **cfg,
        )
        return made.out if square is None else smaller(made.out, square)

    def config(self, phase: Phase, root: Path, checkpoints: Sequence[Path]) -> Config:
        """The recipe of a phase, narrowed, shortened and aimed at a folder of walkers."""
        published = load_config(phase.recipe)
        steps = max(1, round(phase.iterations * self.iterations_scale))
        hint = [str(path) for path in checkpoints]
        run = {"save_name": re.sub(r"\W+", "-", phase.name), "precision": "fp32"}
        changes = {
            "data_cfg": {
                "dataset_name": f"{NAME}-{phase.data}" if phase.tested_on else NAME,
                "test_dataset_name": NAME,
                "dataset_root": str(root),
                "dataset_partition": str(root / "partition.json"),
                "num_workers": 0,
                "cache": True,
            },
            "model_cfg": narrowed(published["model_cfg"], phase.narrower, self.train_subjects),
            "trainer_cfg": {
                **run,
                "seed": self.seed,
                "total_iter": steps,
                "save_iter": steps,
                "log_iter": 50,
                "with_test": False,
                "restore_hint": hint[0] if len(hint) == 1 else hint or 0,
            },
            "evaluator_cfg": {
                **run,
                "restore_hint": steps,
                "eval_func": MASKS if published["evaluator_cfg"]["eval_func"] == MASKS else RANKED,
                "metric": "euc",
            },
        }
        changes = merged(changes, phase.changes)
        # With a warm-up: triplets alone make all embeddings alike when they start at full rate.
        rates = learning_rates(load_config(phase.recipe, changes))
        changes["scheduler_cfg"] = {"scheduler": "OneCycleLR", "max_lr": rates, "total_steps": steps}
        return load_config(phase.recipe, changes)

    def tested(self, config: Config, iteration: int | None = None) -> Figures:
        """Figures by condition after an iteration, by default the last; 0 is the untrained network."""
        tree = config.to_dict()
        if iteration == 0:  # beside the other's results, not in place of them
            tree["evaluator_cfg"]["save_name"] += "-untrained"
        figures = engine.test(Config.from_dict(tree), iteration=iteration, device=self.device, output=self.out / "runs")
        return by_condition(figures)

    def row(self, phase: Phase, trained: dict[str, Path]) -> dict[str, Any]:
        """Trains and tests one phase; its checkpoint is added to `trained`."""
        checkpoints = [trained[name] for name in phase.after]
        config = self.config(phase, self.walkers(phase.data), checkpoints)
        for_test = self.config(phase, self.walkers(phase.tested_on or phase.data), checkpoints)
        untrained = self.tested(for_test, 0)
        began = time.process_time()
        result = engine.train(config, device=self.device, output=self.out / "runs")
        seconds = time.process_time() - began
        if result.checkpoint is None:
            raise RuntimeError(f"{phase.name}: the training left no checkpoint")
        trained[phase.name] = result.checkpoint
        return {
            "recipe": phase.recipe,
            "narrower": phase.narrower,
            "parameters": sum(value.numel() for value in build_model(config["model_cfg"]).parameters()),
            "batch": config["trainer_cfg"]["sampler"]["batch_size"],
            "frames": config["trainer_cfg"]["sampler"]["frames_num_fixed"],
            "solver": config["optimizer_cfg"]["solver"],
            "lr": config["optimizer_cfg"]["lr"],
            "iterations": result.iteration,
            "core_seconds": round(seconds, 1),
            "untrained": untrained,
            "trained": self.tested(for_test),
            "chance": expected_by_chance(for_test),
            "subjects": [self.train_subjects, self.test_subjects],
            "seed": self.seed,
        }


def learning_rates(config: Config) -> float | list[float]:
    """The rate of the config, or those of a network's parameter groups."""
    cfg = config["optimizer_cfg"]
    groups = build_model(config["model_cfg"], training=True).parameter_groups(cfg)
    rates = [float(group.get("lr", cfg["lr"])) for group in groups]
    return rates if len(rates) > 1 else rates[0]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, mappings key by key."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def narrowed(tree: Any, divisor: int, classes: int, key: str = "") -> Any:
    """model_cfg with every width divided; images keep their one or three channels."""
    if isinstance(tree, Mapping):
        return {name: narrowed(value, divisor, classes, name) for name, value in tree.items()}
    if isinstance(tree, list):
        return [narrowed(value, divisor, classes, key) for value in tree]
    if key == "class_num" and tree is not None:
        return classes
    if key not in WIDTHS:
        return tree
    if isinstance(tree, str):  # a layer of the Plain backbone, such as FC-64-2
        return re.sub(r"(?<=C-)\d+", lambda found: str(int(found[0]) // divisor), tree)
    return tree // divisor if tree > divisor else tree


def smaller(source: Path, size: int) -> Path:
    """A copy of a CASIA-B* data set with RGB frames and masks of another size."""
    target = source.with_name(f"{source.name}-{size}")
    partition, made = source / "partition.json", target / "partition.json"
    if made.is_file() and made.read_bytes() == partition.read_bytes():
        return target
    for path in sorted(source.glob("*/*/*/*.pkl")):
        array = pickle.loads(path.read_bytes())
        if path.stem.endswith("-rgbs"):
            images = [cv2.resize(one.transpose(1, 2, 0), (size, size), interpolation=cv2.INTER_AREA) for one in array]
            array = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
        elif not path.stem.endswith(("-aligned-sils", "-ratios")):
            array = np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_NEAREST) for one in array])
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(pickle.dumps(array, protocol=4))
    made.write_bytes(partition.read_bytes())
    return target


def by_condition(figures: Mapping[str, float]) -> Figures:
    """`scalar/test_accuracy/NM@R1` -> `NM`; `mIOU` in percent like the others."""
    found = {tag.rsplit("/", 1)[-1]: value for tag, value in figures.items()}
    if "mIOU" in found:
        return {"mIoU": 100 * found["mIOU"]}
    return {tag.removesuffix("@R1"): value for tag, value in found.items() if tag.endswith("@R1")}


def expected_by_chance(config: Config) -> Figures:
    """What a random ranking gives; nothing for masks."""
    if config["evaluator_cfg"]["eval_func"] == MASKS:
        return {}
    dataset = GaitDataset(config["data_cfg"], training=False)
    return by_condition(chance(RANKED, dataset.labels, dataset.types, dataset.views, dataset=NAME).figures)


def least_gain(row: Mapping[str, Any]) -> float:
    """Points by which the trained network is better, under the condition where that is least."""
    return min(row["trained"][name] - row["untrained"][name] for name in row["trained"])


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as it stands in the docs."""
    heads = ("phase", "width", "parameters", "iterations", "core seconds", "untrained", "trained", "least gain")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        width = "full" if row["narrower"] == 1 else f"1/{row['narrower']}"
        cells = [name, width, f"{row['parameters']:,}", str(row["iterations"]), f"{row['core_seconds']:.0f}"]
        cells += [shown(row["untrained"]), f"**{shown(row['trained'])}**", f"{least_gain(row):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(figures: Figures) -> str:
    """`NM / BG / CL`, or the one figure with its name."""
    if list(figures) == ["mIoU"]:
        return f"mIoU {figures['mIoU']:.1f}"
    return " / ".join(f"{value:.1f}" for value in figures.values())


def run(bench: Bench, families: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of some families, in the order of `families.yaml`; those of others that are there already stay."""
    path = bench.out / "families.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    for family in families:
        trained: dict[str, Path] = {}
        for phase in bench.phases(family):
            rows[phase.name] = bench.row(phase, trained)
            path.write_text(json.dumps(rows, indent=2) + "\n")
            print(markdown({phase.name: rows[phase.name]}), flush=True)
    names = [phase.name for family in bench.recipes["families"] for phase in bench.phases(family)]
    return {name: rows[name] for name in names if name in rows}


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("output/families"))
    options.add_argument("--recipes", type=Path, default=RECIPES)
    options.add_argument("--only", nargs="+", metavar="FAMILY", help="families to train, all by default")
    options.add_argument("--train-subjects", type=int, default=60)
    options.add_argument("--test-subjects", type=int, default=20)
    options.add_argument("--iterations-scale", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=1, help="of the training process")
    options.add_argument("--workers", type=int, default=1, help="processes that render a data set")
    return options


def main() -> None:
    given = vars(parser().parse_args())
    torch.set_num_threads(given.pop("threads"))
    cv2.setNumThreads(1)
    only, recipes = given.pop("only"), yaml.safe_load(given.pop("recipes").read_text(encoding="utf-8"))
    families = list(recipes["families"]) if only is None else only
    if unknown := sorted(set(families) - set(recipes["families"])):
        raise SystemExit(f"no family {', '.join(unknown)}; there are: {', '.join(recipes['families'])}")
    rows = run(Bench(recipes=recipes, **given), families)
    print(markdown(rows))
    behind = [name for name, row in rows.items() if least_gain(row) < CLEAR_GAIN]
    print(f"gain below {CLEAR_GAIN:.0f} points: {', '.join(behind) or 'none'}")


if __name__ == "__main__":
    main()
