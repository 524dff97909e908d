"""The bench: its parts make up the whole, its counts are the arithmetic's, and its advice follows from its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gait_folder import tiny_experiment, write_gait_folder
from torch import nn

from opengait import load_config
from opengait.config import Config
from opengait.data.dataset import GaitDataset
from opengait.engine.bench import Bench, Ceilings, bench
from opengait.engine.bench.advice import advice
from opengait.engine.bench.counting import Counter
from opengait.engine.bench.data import write_data
from opengait.engine.bench.iteration import PARTS, Cost, first_batch, twice
from opengait.engine.bench.report import lines, parts_table
from opengait.engine.bench.run import RECIPES
from opengait.engine.trainer import Trainer
from opengait.registry import MODELS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config("configs/gaitset/gaitset.yaml", tiny_experiment(write_gait_folder(tmp_path_factory.mktemp("g"))))


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ceilings, "of", classmethod(lambda cls, device: cls(1e11, 1e10)))


@pytest.fixture(scope="module")
def found(config: Config) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ceilings, "of", classmethod(lambda cls, device: cls(1e11, 1e10)))
        return bench(config, device="cpu", iterations=3)


def test_parts_make_up_the_whole(found: Bench) -> None:
    total = sum(cost.seconds for cost in found.parts.values())
    assert tuple(found.parts) == PARTS
    assert all(cost.seconds > 0 for part, cost in found.parts.items())
    assert 0.5 * found.whole < total < 1.5 * found.whole


def test_every_part_that_computes_is_counted(found: Bench) -> None:
    flops = {part: cost.flops for part, cost in found.parts.items()}
    assert flops["backward"] > flops["forward"] > flops["loss"] > 0
    assert all(found.parts[part].bytes > 0 for part in ("transform", "forward", "loss", "backward", "optimiser"))


def test_what_is_shown_names_the_slowest_part(found: Bench) -> None:
    shown = "\n".join(lines(found))
    assert parts_table(found).row_count == len(PARTS)
    assert f"slowest: {found.slowest}" in shown
    for topic in ("workers:", "precision:", "batch:"):
        assert topic in shown


def test_nothing_is_left_behind(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    bench(config, device="cpu", iterations=1)
    assert not list(tmp_path.glob("opengait-bench-*"))
    assert not (tmp_path / "output").exists()


def test_products_and_traffic_are_those_of_the_arithmetic() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    x = torch.randn(2, 3, 10, 6)
    with Counter() as counter, torch.no_grad():
        y = layer(x)
        y.transpose(1, 2)[:, 0].unsqueeze(0).expand(7, -1, -1, -1)  # views cost nothing
        torch.empty(1000)
        y.relu_()
    assert counter.flops == 2 * y.numel() * 3 * 9
    assert counter.bytes == 4 * (x.numel() + layer.weight.numel() + y.numel() + 2 * y.numel())


def test_a_batch_twice_is_the_batch_after_itself(config: Config, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path, device=CPU)
    batch = first_batch(trainer)
    first, second = twice(batch).split(2)
    for part in (first, second):
        torch.testing.assert_close(part.frames, batch.frames, rtol=0, atol=0)
        assert part.types == batch.types
        assert torch.equal(part.labels, batch.labels)


def figures(found: Bench, reading: float, waited: float, workers: int, compute: dict[str, float]) -> Bench:
    parts = {part: Cost(1.0) for part in PARTS} | {"read": Cost(reading / 2), "collate": Cost(reading / 2)}
    changes = {"parts": parts, "trained": 10.0, "waited": waited, "workers": workers, "cores": 8, "compute": compute}
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("reading", "waited", "workers", "words"),
    [
        (12.0, 5.0, 0, "data_cfg.num_workers: 3 (now 0)"),
        (12.0, 0.1, 3, "3 are enough"),
        (60.0, 5.0, 7, "opengait pack"),
    ],
)
def test_workers_are_advised_where_training_waits(
    found: Bench, reading: float, waited: float, workers: int, words: str
) -> None:
    assert words in advice(figures(found, reading, waited, workers, {"as it is": 1.0}))[0]


def test_reading_is_the_slowest_only_where_it_is_waited_for(found: Bench) -> None:
    times = {"as it is": 1.0}
    assert figures(found, 60.0, 9.0, 0, times).slowest in ("read", "collate")
    assert figures(found, 60.0, 0.1, 4, times).slowest not in ("read", "collate")


@pytest.mark.parametrize("could_stay", [True, False])
def test_frames_that_could_stay_on_the_device_are_advised_to_where_bringing_them_is_slowest(
    found: Bench, could_stay: bool
) -> None:
    assert not found.could_stay  # on a CPU
    times, words = {"as it is": 1.0}, "data_cfg.resident: auto"
    reading = replace(figures(found, 60.0, 9.0, 0, times), could_stay=could_stay)
    copying = replace(reading, parts=reading.parts | {"copy": Cost(99.0)})
    computing = replace(figures(found, 60.0, 0.1, 4, times), could_stay=could_stay)
    computing = replace(computing, parts=computing.parts | {"forward": Cost(2.0)})
    for one, slowest in ((reading, could_stay), (copying, could_stay), (computing, False)):
        assert any(words in line for line in advice(one)) == slowest


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        ({"as it is": 1.0, "bf16": 0.5}, "trainer_cfg.precision: bf16 computes 2.00 times"),
        ({"as it is": 1.0, "bf16": 2.0}, "fp32 stays"),
        ({"as it is": 1.0}, "emulates bf16"),
        ({"as it is": 1.0, "half the batch": 0.5, "twice the batch": 1.0}, "twice the batch is worth a trial"),
        ({"as it is": 1.0, "half the batch": 0.5, "twice the batch": 2.0}, "no difference"),
    ],
)
def test_precision_and_batch_are_advised_from_what_was_measured(
    found: Bench, compute: dict[str, float], words: str
) -> None:
    assert any(words in line for line in advice(figures(found, 1.0, 0.0, 1, compute)))


def test_every_network_has_a_recipe() -> None:
    for name in MODELS._modules:
        assert load_config(RECIPES[name]).model_cfg.model == name


@pytest.mark.parametrize("name", ["GaitSSB_Pretrain", "GaitEdge", "SMPLGait", "GLN"])
def test_generated_walkers_fit_recipes_of_all_modalities(name: str, tmp_path: Path) -> None:
    recipe = load_config(RECIPES[name], {"trainer_cfg": {"sampler": {"batch_size": [2, 2]}}})
    for section, training in (("trainer_cfg", True), ("evaluator_cfg", False)):
        entries = write_data(recipe, tmp_path, section, (5, 6))
        dataset = GaitDataset({**recipe["data_cfg"], **entries}, training=training)
        transforms = recipe[section]["transform"]
        assert dataset.modalities == len(transforms)
        assert 5 <= dataset.lengths().min() <= dataset.lengths().max() <= 6
