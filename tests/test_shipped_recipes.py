"""Every shipped config trains for an iteration and is tested, on generated data of its modality.

And no host would wait for a GPU in its forward pass, losses and backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generated_data import GeneratedData, narrow
from host_reads import check_iteration

from opengait import load_config
from opengait.config import shipped
from opengait.engine.evaluator import Evaluator
from opengait.engine.trainer import Trainer

CONFIGS = shipped.find("configs")
RECIPES = sorted(
    path.relative_to(CONFIGS.parent).as_posix() for path in CONFIGS.rglob("*.yaml") if path.name != "default.yaml"
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> GeneratedData:
    return GeneratedData(tmp_path_factory.mktemp("generated"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def adapted(name: str, narrowed: bool) -> dict[str, Any]:
    """Overrides that every recipe gets: a small batch of few frames, and no checkpoint of an earlier phase."""
    published = load_config(name).to_dict()
    sampler = {"batch_size": [2, 2], "frames_num_fixed": 4, "frames_num_min": 3, "frames_num_max": 4}
    changes: dict[str, Any] = {
        "trainer_cfg": {"sampler": sampler, "total_iter": 1, "restore_hint": 0, "with_test": False},
        "evaluator_cfg": {"restore_hint": 0},
    }
    if narrowed:
        changes["model_cfg"] = narrow(published["model_cfg"])
    return changes


def run(name: str, data: GeneratedData, folder: Path, narrowed: bool) -> None:
    changes = adapted(name, narrowed)
    published = load_config(name)
    config = load_config(name, {**changes, "data_cfg": data.training(published)})
    trainer = Trainer(config, folder, device=CPU)
    # Sums, since copies of the largest classifiers take gigabytes.
    before = {key: float(value.detach().sum()) for key, value in trainer.model.named_parameters()}
    batches = trainer.batches()
    batch = next(batches)
    step = trainer.train_step(batch)
    batches.close()
    assert step.counted
    assert torch.isfinite(step.loss)
    assert any(float(value.detach().sum()) != before[key] for key, value in trainer.model.named_parameters())

    config = load_config(name, {**changes, "data_cfg": data.testing(published)})
    evaluator = Evaluator(config, folder, device=CPU)
    figures = evaluator.run(trainer.model, 1)
    assert list((folder / "results").glob("*.json"))
    submits = config["evaluator_cfg"]["eval_func"].endswith("_submission")
    assert submits or figures
    assert all(0 <= value <= 100 for value in figures.values())
    check_iteration(trainer, batch)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_is_tested(name: str, data: GeneratedData, tmp_path: Path) -> None:
    run(name, data, tmp_path, narrowed=True)


@pytest.mark.full
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_is_tested_at_full_width(name: str, data: GeneratedData, tmp_path: Path) -> None:
    run(name, data, tmp_path, narrowed=False)
