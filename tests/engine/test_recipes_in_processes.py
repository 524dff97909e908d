"""Every network family in two processes is what it is in one: a step of each shipped recipe, narrowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_recipes
import pytest
from generated_data import GeneratedData, narrow

from opengait import load_config

# Families that test_several_processes.py has are not repeated.
RECIPES = [
    "configs/gaitpart/gaitpart.yaml",
    "configs/gaitgl/gaitgl.yaml",
    "configs/gln/gln_phase2.yaml",
    "configs/baseline/baseline_casiab.yaml",
    "configs/deepgaitv2/DeepGaitV2_casiab.yaml",
    "configs/smplgait/smplgait.yaml",
    "configs/gaitssb/gaitssb_finetune_casiab.yaml",
    "configs/gaitedge/phase1_seg.yaml",
    "configs/gaitedge/phase2_gaitedge.yaml",
]
# Slow ones that differ little from one above.
LONG = ["configs/gaitgl/gaitgl_grew_bnneck.yaml", "configs/gaitedge/phase2_e2e.yaml"]
# The largest term of each process's own frames; the log shows the mean of these.
OF_A_PROCESS = {"bce/hard_loss"}
CLASSES = 3
Results = list[dict[str, Any]]


def tree_of(recipe: str, data: GeneratedData) -> dict[str, Any]:
    """The resolved recipe on three walkers: 3 x 3 sequences, of which two processes get five and four."""
    published = load_config(recipe)
    data_cfg = data.training(load_config("configs/gaitpart/gaitpart.yaml") if "gln" in recipe else published)
    root = Path(data_cfg["dataset_root"])
    labels = sorted(path.name for path in root.iterdir() if path.is_dir())
    partition = root / "three.json"
    partition.write_text(json.dumps({"TRAIN_SET": labels[:CLASSES], "TEST_SET": labels[CLASSES:]}))
    sampler = {"batch_size": [3, 3], "sample_type": "fixed_ordered", "frames_num_fixed": 3, "frames_skip_num": 1}
    changes = {
        "data_cfg": {**data_cfg, "dataset_partition": str(partition)},
        "model_cfg": narrow(published["model_cfg"].to_dict()),
        "trainer_cfg": {"sampler": sampler, "sync_BN": True, "restore_hint": 0, "with_test": False},
    }
    return load_config(recipe, changes).to_dict()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> GeneratedData:
    return GeneratedData(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def two(
    in_processes: Callable[..., Results], data: GeneratedData, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Results]:
    """What each of two processes has; all short recipes in one start of both."""
    output = str(tmp_path_factory.mktemp("output"))
    done: dict[str, Results] = {}

    def results_of(recipe: str) -> Results:
        if recipe not in done:
            jobs = {
                f"recipe:{name}": {"tree": tree_of(name, data), "output": output}
                for name in ([recipe] if recipe in LONG else RECIPES)
            }
            found = in_processes(jobs, worker="engine_recipes.py")
            done.update({job.removeprefix("recipe:"): [one[job] for one in found] for job in jobs})
        return done[recipe]

    return results_of


@pytest.mark.parametrize("recipe", [*RECIPES, *(pytest.param(name, marks=pytest.mark.full) for name in LONG)])
def test_a_step_of_two_processes_is_that_of_one(
    two: Callable[[str], Results], data: GeneratedData, tmp_path: Path, recipe: str
) -> None:
    expected = engine_recipes.step(tree_of(recipe, data), str(tmp_path))
    assert expected["counted"]
    assert expected["shares"] == [9]
    # What a later batch norm takes away has a gradient of rounding alone.
    largest = max(float(value.norm()) for value in expected["gradients"].values())
    for found in two(recipe):
        assert found["shares"] == [5, 4]
        assert found["gradients"].keys() == expected["gradients"].keys()
        for key, value in expected["gradients"].items():
            difference = float((found["gradients"][key] - value).norm())
            assert difference < 1e-7 * max(float(value.norm()), 1e-6 * largest), key
        for key, value in expected["weights"].items():
            difference = float((found["weights"][key] - value).double().norm())
            assert difference <= 1e-6 * float(value.double().norm()) + 1e-9, key
        assert found["info"].keys() == expected["info"].keys()
        for key in expected["info"].keys() - OF_A_PROCESS:
            value = expected["info"][key]
            assert found["info"][key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
