"""Steps settled one batch later leave behind, log and raise what steps do that are waited for."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_deferred import ADAM, CHANGES, CPU, SGD, Quiet, run, without_nan
from engine_same import assert_same, assert_same_checkpoints
from engine_tiny import tiny_config
from torch import nn

from opengait.engine.checkpoint import list_checkpoints, load_checkpoint
from opengait.engine.deferred import Deferred, KeptBuffers, Sent, deferrable, has_moments
from opengait.engine.hooks import Hook, NonFiniteError
from opengait.engine.optimizer import build_optimizer
from opengait.engine.precision import Precision
from opengait.engine.trainer import Step, Trainer


class Counted:
    """How many steps were queued before their outcome was known."""

    queued = 0


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found, queue = Counted(), Deferred.queue

    def one_more(trainer: Trainer, step: Step) -> Deferred:
        found.queued += 1
        return queue(trainer, step)

    monkeypatch.setattr(Deferred, "queue", one_more)
    return found


# Draws whose batch makes everything NaN, and those of which one gradient alone is infinite. Logged are iterations 5 and
# 10, saved 4, 8 and 12: some lie before these, at them, after them, at the first and at the last.
FAULTS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((0, 1), (3,)),
    ((3, 4), (5, 12)),
    ((1, 11, 12), (0, 7, 8)),
]
MORE: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((), ()),
    ((2, 4, 6, 8), (10, 13)),
    ((), (2, 3, 4, 5, 11, 12)),
]
KINDS = [("fp32", SGD), ("fp16", ADAM), ("fp16", SGD), ("fp32", ADAM)]
CASES = [(*kind, *faults) for kind in KINDS[:2] for faults in FAULTS]
LONG = [(*kind, *faults) for kind in KINDS for faults in FAULTS + MORE]


@pytest.mark.parametrize(
    ("precision", "solver", "batches", "gradients"),
    [*CASES, *(pytest.param(*one, marks=pytest.mark.full) for one in LONG if one not in CASES)],
)
def test_deferred_equals_waited_for_bit_for_bit(
    tree: Path,
    tmp_path: Path,
    counted: Counted,
    precision: str,
    solver: dict[str, Any],
    batches: tuple[int, ...],
    gradients: tuple[int, ...],
) -> None:
    changes = {
        "trainer_cfg__precision": precision,
        "optimizer_cfg": solver,
        "model_cfg__poison_at": list(batches),
        "trainer_cfg__clip_grad_norm": 1.0 if solver is ADAM else None,
    }
    hooks = [Quiet(gradients), Quiet(gradients)]
    folders = [run(tree, tmp_path / str(defers), defers, hooks[defers], **changes).folder for defers in (False, True)]
    assert counted.queued >= 5
    assert_same(without_nan(hooks[1].seen), without_nan(hooks[0].seen))
    assert_same(hooks[1].logged, hooks[0].logged)
    assert hooks[1].iterations == hooks[0].iterations
    expected, found = (list_checkpoints(folder / "checkpoints", "tiny") for folder in folders)
    assert [iteration for iteration, _ in found] == [4, 8, 12]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        assert_same_checkpoints(one, other)


def test_the_scale_of_fp16_grows_as_if_it_were_waited_for(
    tree: Path, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where batches that are not finite stand between those after which it grows."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler(device, init_scale=8.0, growth_interval=3))
    changes = {"trainer_cfg__precision": "fp16", "model_cfg__poison_at": [2, 5, 8]}
    expected, found = (run(tree, tmp_path / str(defers), defers, Quiet((6,)), **changes) for defers in (False, True))
    assert counted.queued
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)
    assert load_checkpoint(found.checkpoint or "")["scaler"]["scale"] > 8


def test_a_run_that_is_cut_off_and_resumed_equals_a_whole_one(tree: Path, tmp_path: Path, counted: Counted) -> None:
    def pull() -> None:
        raise RuntimeError("pulled the plug")

    poison = {"model_cfg__poison_at": [3, 6]}
    expected = run(tree, tmp_path / "whole", False, **poison)
    with pytest.raises(RuntimeError, match="pulled"):
        run(tree, tmp_path / "cut", True, Quiet(at=6, action=pull), **poison)
    found = run(tree, tmp_path / "cut", True, resume="auto", **poison)
    assert counted.queued
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)


def test_too_many_bad_steps_are_said_in_the_same_words(
    tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, counted: Counted
) -> None:
    said: list[list[str]] = []
    changes = {"model_cfg__poison_at": [1, *range(6, 20)], "trainer_cfg__max_bad_steps": 2}
    for defers in (False, True):
        caplog.clear()
        with pytest.raises(NonFiniteError) as error:
            run(tree, tmp_path / str(defers), defers, Quiet((2,)), **changes)
        lines = [one.getMessage() for one in caplog.records if one.getMessage().startswith("step after iteration")]
        assert len(lines) == 5
        said.append([re.sub(r"\S*/(True|False)/", "", line) for line in (str(error.value), *lines)])
    assert counted.queued
    assert said[0] == said[1]


@pytest.mark.parametrize("at", [3, 6])
def test_a_signal_ends_the_run_after_the_iteration_that_has_begun(
    tree: Path, tmp_path: Path, counted: Counted, at: int
) -> None:
    def ask() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    results = [run(tree, tmp_path / str(defers), defers, Quiet(at=at, action=ask)) for defers in (False, True)]
    assert counted.queued
    assert [(one.iteration, one.stop_signal) for one in results] == [(at + 1, signal.SIGTERM)] * 2
    assert_same_checkpoints(results[1].checkpoint, results[0].checkpoint)
    found = run(tree, tmp_path / "True", True, resume="auto")
    expected = run(tree, tmp_path / "whole", False)
    assert_same_checkpoints(found.checkpoint, expected.checkpoint)


def test_the_last_step_is_settled_whoever_asks_for_it(tree: Path, tmp_path: Path, counted: Counted) -> None:
    """Without any hook too, so that the network is left as that step left it."""
    left = []
    for defers in (False, True):
        trainer = Trainer(tiny_config(tree, **CHANGES), tmp_path / str(defers), device=CPU)
        trainer.defers, trainer.hooks = defers, []
        assert trainer.fit().iteration == 12
        left.append(dict(trainer.model.state_dict()))
    assert counted.queued == 10
    assert_same(left[1], left[0])


def test_the_outcome_is_read_when_the_next_batch_is_queued_and_at_once_where_a_hook_is_due(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Watching(Quiet):
        def start(self, trainer: Trainer) -> None:
            network = trainer.network
            trainer.network = lambda inputs: done.append("forward") or network(inputs)  # type: ignore[assignment]
            trainer.optimizer.register_step_pre_hook(lambda *_: done.append("step"))

        def after_step(self, trainer: Trainer, step: Step) -> None:
            done.append(f"after {trainer.iteration}")

    read = Sent.read
    monkeypatch.setattr(Sent, "read", lambda self: done.append("read") or read(self))
    changes = {"trainer_cfg__total_iter": 6, "trainer_cfg__log_iter": 4, "trainer_cfg__save_iter": 100}
    run(tree, tmp_path, True, Watching(), **changes)
    assert done == [
        *("forward", "step", "after 1"),  # the first one makes the moments
        *("forward", "step"),
        *("forward", "read", "after 2", "step"),
        *("forward", "read", "after 3", "step", "after 4"),  # logged
        *("forward", "step"),
        *("forward", "read", "after 5", "step", "after 6"),  # the last
    ]


@pytest.mark.parametrize("solver", [SGD, ADAM, {**ADAM, "solver": "AdamW", "amsgrad": True}])
def test_a_step_that_is_left_out_changes_nothing_and_others_are_the_same(solver: dict[str, Any]) -> None:
    trainers = []
    for _ in range(2):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        trainers.append((network, build_optimizer(solver, network)))
    (network, optimizer), (other, plain) = trainers
    inputs, precision = torch.randn(5, 3), Precision("fp32", CPU, training=True)
    for number in range(4):
        for one, own in trainers:
            own.zero_grad()
            one(inputs).square().sum().backward()
        if number == 0:
            assert not has_moments(optimizer)
            optimizer.step()
        else:
            assert has_moments(optimizer)
            good = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
            network[0].weight.grad.fill_(float("nan"))
            assert float(precision.step_unless(torch.ones(()), optimizer)) == 1
            for parameter, gradient in zip(network.parameters(), good, strict=True):
                parameter.grad = gradient
            assert float(precision.step_unless(torch.zeros(()), optimizer)) == 0
        plain.step()
        assert_same(dict(network.state_dict()), dict(other.state_dict()))
        assert_same(optimizer.state_dict(), plain.state_dict())


def test_moments_are_asked_of_parameters_with_a_gradient_alone() -> None:
    used, unused = nn.Linear(2, 2), nn.Linear(2, 2)
    network = nn.ModuleList([used, unused])
    plain = build_optimizer({"solver": "SGD", "lr": 0.1}, network)
    optimizer = build_optimizer(SGD, network)
    used(torch.ones(1, 2)).sum().backward()
    assert has_moments(plain)
    assert not has_moments(optimizer)
    optimizer.step()
    assert has_moments(optimizer)
    unused(torch.ones(1, 2)).sum().backward()
    assert not has_moments(optimizer)


def test_buffers_come_back() -> None:
    network, kept = nn.BatchNorm1d(3), KeptBuffers()
    before = {name: value.clone() for name, value in network.named_buffers()}
    for _ in range(2):
        kept.remember(network)
        network(torch.full((4, 3), float("nan")))
        kept.put_back(network)
        assert_same(dict(network.named_buffers()), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer_cfg": {"solver": "RMSprop", "lr": 0.01}},
        {"optimizer_cfg": {**SGD, "fused": False}},
        {"trainer_cfg__compat": "reference", "trainer_cfg__precision": "fp16"},
    ],
)
def test_what_cannot_be_masked_is_waited_for(tree: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_config(tree, **{**CHANGES, **changes})
    assert not deferrable(Trainer(config, tmp_path, device=CPU))


def test_a_network_that_acts_beside_steps_is_waited_for(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_config(tree), tmp_path, device=CPU)
    assert deferrable(trainer)
    handle = trainer.optimizer.register_step_post_hook(lambda *_: None)
    assert not deferrable(trainer)
    handle.remove()
    assert deferrable(trainer)
    monkeypatch.setattr(type(trainer.model), "before_iteration", lambda self, optimizer: None)
    assert not deferrable(trainer)


def test_hooks_are_due_unless_they_say_otherwise() -> None:
    class Told(Hook):
        def after_log(self, trainer: Trainer, means: dict[str, float], rates: dict[str, float]) -> None:
            """Of no step."""

    class Looks(Hook):
        def after_step(self, trainer: Trainer, step: Step) -> None:
            """At everything."""

    nobody: Any = None
    assert not Told().due(nobody, 1)
    assert Looks().due(nobody, 1)


def test_processes_agree_on_what_one_of_them_found(
    tree: Path, tmp_path: Path, in_processes: Callable[..., list[dict[str, Any]]]
) -> None:
    def jobs(**changes: Any) -> dict[str, dict[str, Any]]:
        name = "stopped" if changes else "whole"
        return {
            f"deferred:{name} {defers}": {"root": str(tree), "output": str(tmp_path / f"{name} {defers}")}
            | {"defers": defers, **changes}
            for defers in (False, True)
        }

    first, second = in_processes(jobs() | jobs(stop_at=8), worker="engine_deferred.py")
    for process in (first, second):
        found, expected = process["deferred:whole True"], process["deferred:whole False"]
        assert_same(found, expected)
        assert [flags[0] for _, flags in found["seen"]].count(True) == 4
    whole = first["deferred:whole False"]
    for name in ("False", "True"):
        one, other = (process[f"deferred:stopped {name}"] for process in (first, second))
        assert one["stop"] == other["stop"] == signal.SIGTERM
        assert_same(one["state"], other["state"])
        # Asked after twelve batches, of sixteen: the next is the last, or the second after it.
        assert one["state"]["draws"] in ((13,) if name == "False" else (13, 14, 15))
        assert [counters[:3] for counters, _ in one["seen"]] == [
            counters[:3] for counters, _ in whole["seen"][: len(one["seen"])]
        ]
