"""Laws of classifiers whose classes are spread over processes: they are the whole classifier, in every number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_shards
import pytest
import torch
from engine_tiny import tiny_config, write_config, write_tree

from opengait.engine import class_shards
from opengait.engine.checkpoint import load_checkpoint
from opengait.engine.class_shards import check_shards, class_ranges
from opengait.engine.findings import Findings
from opengait.engine.preflight import preflight
from opengait.engine.sharded_loss import ShardedLoss
from opengait.engine.trainer import Trainer
from opengait.modeling.losses.binary_cross_entropy import BinaryCrossEntropyLoss
from opengait.modeling.modules import SeparateBNNecks

CPU = torch.device("cpu")
Results = list[dict[str, Any]]

# Classes and rows that no number of processes here divides; equal scores; with and without each option.
HEADS: list[dict[str, Any]] = [
    {"classes": 7, "necks": {}, "loss": {"log_accuracy": True}, "rows": 11, "ties": True},
    {"classes": 5, "necks": {"norm": False}, "loss": {"scale": 3.7, "label_smooth": False}, "rows": 8, "ties": False},
    {
        "classes": 4,
        "necks": {"parallel_BN1d": False},
        "loss": {"eps": 0.3, "log_accuracy": True},
        "rows": 7,
        "ties": False,
    },
    {"classes": 11, "necks": None, "loss": {"scale": 1000, "log_accuracy": True}, "rows": 13, "ties": True},
    {"classes": 3, "necks": None, "loss": {"scale": -2, "log_accuracy": True}, "rows": 5, "ties": False},
]
BASELINE: dict[str, Any] = {
    "model_cfg": {
        "model": "DoubleBaseline",
        "backbone_cfg": {
            "type": "ResNet9",
            "block": "BasicBlock",
            "channels": [4, 4, 8, 8],
            "layers": [1, 1, 1, 1],
            "strides": [1, 2, 2, 1],
            "maxpool": False,
        },
        "SeparateFCs": {"in_channels": 8, "out_channels": 8, "parts_num": 3},
        "SeparateBNNecks": {"class_num": 5, "in_channels": 8, "parts_num": 3},
        "bin_num": [2, 1],
    },
    "loss_cfg": [
        {"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2},
        {"type": "CrossEntropyLoss", "log_prefix": "softmax", "scale": 16, "log_accuracy": True},
    ],
    "optimizer_cfg": {"solver": "Adam", "lr": 0.01, "weight_decay": 0.001},
    "trainer_cfg__total_iter": 4,
    "trainer_cfg__save_iter": 2,
    "trainer_cfg__clip_grad_norm": 0.5,
    "trainer_cfg__with_test": True,
    "trainer_cfg__shard_classes": True,
}
WHOLE = {**BASELINE, "trainer_cfg__shard_classes": False}
UNUSED = {**BASELINE, "trainer_cfg__find_unused_parameters": True}


class Runs:
    """Each kind of run once; all that needs several processes in one start of them."""

    def __init__(self, folder: Path, in_processes: Callable[..., Results]) -> None:
        self.folder = folder
        root = write_tree(folder)
        spread, whole, unused = (str(write_config(root, **changes)) for changes in (BASELINE, WHOLE, UNUSED))
        # One process: the switch is on, and has no effect.
        self.one = engine_shards.train_classes(spread, str(folder / "one"))
        heads = {f"head:{number}": case for number, case in enumerate(HEADS)}
        jobs: dict[str, dict[str, Any]] = {
            **heads,
            "overflow": {},
            "guard": {"config": spread, "output": str(folder / "guard")},
            "train_classes": {"config": spread, "output": str(folder / "two")},
            "train_classes:from one": {
                "config": spread,
                "output": str(folder / "two-from-one"),
                "start": str(self.checkpoint("one", 2)),
            },
        }
        self.two = in_processes(jobs)
        self.three = in_processes(
            {
                **heads,
                "train_classes:from two": {
                    "config": unused,
                    "output": str(folder / "three-from-two"),
                    "start": str(self.checkpoint("two", 2)),
                },
            },
            processes=3,
        )
        engine_shards.train_classes(whole, str(folder / "one-from-two"), str(self.checkpoint("two", 2)))

    def checkpoint(self, name: str, iteration: int) -> Path:
        return self.folder / name / "checkpoints" / f"tiny-{iteration:05d}.pt"


@pytest.fixture(scope="module")
def runs(in_processes: Callable[..., Results], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("shards"), in_processes)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).double().norm()) <= tolerance * max(float(expected.double().norm()), 1e-3)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("number", range(len(HEADS)))
def test_loss_and_gradients_are_those_of_the_whole_classifier(runs: Runs, number: int, processes: int) -> None:
    case = HEADS[number]
    expected = engine_shards.head(**case)
    found = [one[f"head:{number}"] for one in (runs.two if processes == 2 else runs.three)]
    assert sum(one["held"] for one in found) == case["classes"]
    assert_close(torch.cat([one["weight"] for one in found], 2), expected["weight"])
    for rank, one in enumerate(found):
        assert one["info"].keys() == expected["info"].keys()
        assert_close(one["loss"], expected["loss"])
        assert_close(one["info"]["loss"], expected["loss"])
        if "accuracy" in expected["info"]:
            assert float(one["info"]["accuracy"]) == float(expected["info"]["accuracy"])
        assert_close(one["features"], expected["features"][rank::processes])


def test_classes_are_dealt_as_evenly_as_they_can_be() -> None:
    for classes, processes in ((5, 2), (20000, 3), (7, 7), (64, 8)):
        ranges = class_ranges(classes, processes)
        assert [one for own in ranges for one in own] == list(range(classes))
        assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_no_process_holds_more_than_its_classes_while_it_trains(runs: Runs) -> None:
    assert runs.one["classes"] == [5]
    assert [one["train_classes"]["classes"] for one in runs.two] == [[3], [2]]
    assert [one["train_classes:from two"]["classes"] for one in runs.three] == [[2], [2], [1]]


def test_two_processes_train_log_and_test_as_one(runs: Runs) -> None:
    for step, expected in enumerate(runs.one["losses"]):
        for one in runs.two:
            found = one["train_classes"]["losses"][step]
            assert found["scalar/softmax/loss"] == pytest.approx(expected["scalar/softmax/loss"], rel=1e-8)
            assert found["scalar/softmax/accuracy"] == expected["scalar/softmax/accuracy"]
    assert runs.one["figures"]
    assert runs.two[0]["train_classes"]["figures"] == runs.one["figures"]


@pytest.mark.parametrize(
    ("name", "iteration"),
    [("two", 2), ("two", 4), ("two-from-one", 4), ("three-from-two", 4), ("one-from-two", 4)],
)
def test_checkpoints_are_those_of_one_process_and_any_number_goes_on_with_them(
    runs: Runs, name: str, iteration: int
) -> None:
    expected = load_checkpoint(runs.checkpoint("one", iteration))
    found = load_checkpoint(runs.checkpoint(name, iteration))
    assert list(found["model"]) == list(expected["model"])
    for key, value in expected["model"].items():
        assert_close(found["model"][key], value, 1e-7)
    moments, whole = found["optimizer"], expected["optimizer"]
    assert moments["param_groups"] == whole["param_groups"]
    assert moments["state"].keys() == whole["state"].keys()
    for number, entries in whole["state"].items():
        assert list(moments["state"][number]) == list(entries)
        for key, value in entries.items():
            assert_close(moments["state"][number][key], value, 1e-7)


def test_a_gradient_that_is_not_finite_on_one_process_is_skipped_by_all(runs: Runs) -> None:
    for one in runs.two:
        assert one["guard"] == {"bad": [True, False], "counted": [False, True], "unchanged": True}


def test_an_overflow_on_one_process_is_skipped_by_all_and_the_norm_is_that_of_all(runs: Runs) -> None:
    expected = engine_shards.overflow()
    assert expected["counted"] == [False, True]
    for one in runs.two:
        assert one["overflow"]["counted"] == expected["counted"]
        assert one["overflow"]["scales"] == expected["scales"]
    assert_close(torch.cat([one["overflow"]["moved"] for one in runs.two], 2), expected["moved"])


def errors(tree: Path, **changes: Any) -> str:
    config = tiny_config(tree, trainer_cfg__shard_classes=True, **changes)
    return "\n".join(str(finding) for finding in preflight(config, phase="train") if finding.level == "error")


def test_networks_losses_and_optimisers_that_cannot_are_errors_before_the_first_iteration(
    tree: Path, tmp_path: Path
) -> None:
    names = "TinyNet has no classifier .* those of SeparateBNNecks and SeparateClassifiers; set it to false"
    with pytest.raises(ValueError, match=f"trainer_cfg.shard_classes: {names}"):
        Trainer(tiny_config(tree, trainer_cfg__shard_classes=True), tmp_path, device=CPU)
    assert "TinyNet has no classifier" in errors(tree)
    model = {"model_cfg": BASELINE["model_cfg"]}
    triplet = {"type": "TripletLoss", "log_prefix": "triplet"}
    assert "it is for CrossEntropyLoss, and loss_cfg has TripletLoss" in errors(tree, **model, loss_cfg=triplet)
    solver = {"optimizer_cfg": {"solver": "Adafactor", "lr": 0.01}}
    assert "Adafactor is not known to update each number" in errors(tree, **model, **solver)
    with pytest.raises(ValueError, match=r"Adafactor is not known .* as ASGD, .* SGD do; choose one"):
        Trainer(tiny_config(tree, trainer_cfg__shard_classes=True, **model, **solver), tmp_path, device=CPU)
    assert errors(tree, **model) == ""


def test_fewer_classes_than_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_shards, "world_size", lambda: 4)
    findings = Findings()
    check_shards(SeparateBNNecks(3, 4, class_num=3), [{"type": "CrossEntropyLoss"}], findings)
    assert len(findings.errors) == 1
    assert "3 classes for 4 processes" in findings.errors[0]


def test_spread_logits_are_no_tensor_and_for_cross_entropy_alone() -> None:
    head = SeparateBNNecks(3, 4, class_num=3)
    head.begin = 1
    _, logits = head(torch.randn(5, 4, 3))
    with pytest.raises(AttributeError, match=r"logits\.softmax: .*set shard_classes: false"):
        logits.softmax(1)
    with pytest.raises(ValueError, match="BinaryCrossEntropyLoss is fed the logits of a classifier whose classes"):
        ShardedLoss(BinaryCrossEntropyLoss())(logits=logits, labels=torch.zeros(5))
