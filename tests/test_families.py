"""The benchmark of network families: all of them are in it, and a chain of phases makes its rows."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from opengait.registry import MODELS

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "families.py"
TINY_SAMPLER = {"batch_size": [2, 2], "frames_num_fixed": 3, "frames_skip_num": 0}
TINY: dict[str, Any] = {
    "data": {
        "silhouettes": {
            "modalities": ["silhouettes"],
            "types": ["nm-01", "nm-05", "bg-01", "cl-01"],
            "views": ["000", "090"],
            "frames": [5, 6],
        },
        "unlabelled": {"modalities": ["unlabelled"], "types": ["nm-01"], "views": ["000", "090"], "frames": [5, 6]},
        "rgb": {"modalities": ["casiab*"], "types": ["nm-01"], "views": ["000"], "frames": [5, 6], "square": 16},
    },
    "families": {
        "GaitSSB": [
            {
                "name": "pretrained",
                "recipe": "configs/gaitssb/gaitssb_pretrain.yaml",
                "data": "unlabelled",
                "tested_on": "silhouettes",
                "narrower": 8,
                "iterations": 2,
                "changes": {"trainer_cfg": {"sampler": {**TINY_SAMPLER, "batch_size": [1, 3]}}},
            },
            {
                "name": "fine-tuned",
                "recipe": "configs/gaitssb/gaitssb_finetune_casiab.yaml",
                "after": ["pretrained"],
                "narrower": 8,
                "iterations": 2,
                "changes": {"trainer_cfg": {"sampler": {**TINY_SAMPLER, "sample_type": "fixed_ordered"}}},
            },
        ],
        "Segmentation": [
            {
                "name": "masks",
                "recipe": "configs/gaitedge/phase1_seg.yaml",
                "data": "rgb",
                "iterations": 1,
                "changes": {"trainer_cfg": {"sampler": {"batch_size": [1, 1], "frames_num_fixed": 2}}},
            }
        ],
    },
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("families", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def test_every_network_is_in_it_and_starts_from_phases_of_its_family(script: ModuleType, tmp_path: Path) -> None:
    recipes = yaml.safe_load(script.RECIPES.read_text())
    bench = script.Bench(tmp_path, recipes, 60, 20, 1.0, 0, "cpu", 1)
    models = set()
    for family in recipes["families"]:
        before: list[str] = []
        for phase in bench.phases(family):
            assert {phase.data, phase.tested_on or phase.data} <= recipes["data"].keys()
            assert set(phase.after) <= set(before), phase.name
            config = bench.config(phase, tmp_path, [tmp_path / name for name in phase.after])
            hint = config["trainer_cfg"]["restore_hint"]
            paths = [str(tmp_path / name) for name in phase.after]
            assert (hint if isinstance(hint, list) else [hint]) == (paths or [0])
            assert config["scheduler_cfg"]["total_steps"] == config["trainer_cfg"]["total_iter"] == phase.iterations
            models.add(config["model_cfg"]["model"])
            before.append(phase.name)
    # Other tests register networks of their own.
    own = {name for name in MODELS.names() if MODELS.get(name).__module__.startswith("opengait.")}
    assert models == own


def test_unlabelled_walkers_are_those_for_training(script: ModuleType, tmp_path: Path) -> None:
    bench = script.Bench(tmp_path, TINY, 2, 2, 1.0, 0, "cpu", 1)
    labelled, unlabelled = bench.walkers("silhouettes"), bench.walkers("unlabelled")
    frames = [path.read_bytes() for path in unlabelled.rglob("*.pkl")]
    partition = json.loads((labelled / "partition.json").read_text())
    assert len(frames) == len(partition["TRAIN_SET"]) * 2
    shown = {pickle.loads(one).tobytes() for one in frames}
    for label in partition["TRAIN_SET"] + partition["TEST_SET"]:
        for view in ("000", "090"):
            array = pickle.loads((labelled / label / "nm-01" / view / f"{view}.pkl").read_bytes())[:, :, 10:-10]
            assert (array.tobytes() in shown) == (label in partition["TRAIN_SET"])


def test_a_chain_of_phases_and_masks_make_rows(script: ModuleType, tmp_path: Path) -> None:
    bench = script.Bench(tmp_path, TINY, 3, 2, 1.0, 0, "cpu", 1)
    rows = script.run(bench, ["GaitSSB"])
    assert list(rows) == ["pretrained", "fine-tuned"]
    for row in rows.values():
        assert row["iterations"] == 2
        assert row["chance"] == {condition: pytest.approx(50.0) for condition in ("NM", "BG", "CL")}
        for figures in (row["untrained"], row["trained"]):
            assert list(figures) == ["NM", "BG", "CL"]
            assert all(0 <= figure <= 100 for figure in figures.values())

    # Another family later: the rows that are there stay, in the order of the recipes.
    rows = script.run(bench, ["Segmentation"])
    assert list(rows) == ["pretrained", "fine-tuned", "masks"]
    assert 0 <= rows["masks"]["trained"]["mIoU"] <= 100
    assert rows == json.loads((tmp_path / "families.json").read_text())
    table = script.markdown(rows)
    assert table.count("\n") == len(rows) + 1
    gain = rows["masks"]["trained"]["mIoU"] - rows["masks"]["untrained"]["mIoU"]
    assert table.splitlines()[-1].endswith(f"| {gain:.1f} |")
