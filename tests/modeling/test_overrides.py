"""Methods of the reference's base class that networks of the field override: honoured, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from opengait.data.batch import Batch
from opengait.data.transforms import Transforms, build_transforms
from opengait.engine.optimizer import build_optimizer, build_scheduler
from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.overrides import REFUSED, REFUSED_ENTRIES, RefusedError


class Small(BaseModel):
    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        self.fc = nn.Linear(2, 2)


class OnlySuper(Small):
    def inputs_pretreament(self, inputs: Any) -> Inputs:
        return super().inputs_pretreament(inputs)


class Loop(Small):
    """The reference's own loop over the transforms of the phase."""

    def inputs_pretreament(self, inputs: Any) -> Any:
        seqs, labs, typs, vies, seqL = inputs
        trfs = self.trainer_trfs if self.training else self.evaluator_trfs
        ipts = [np.stack([trf(frames) for frames in seq]) for trf, seq in zip(trfs, seqs, strict=True)]
        return ipts, labs, typs, vies, seqL


class Joined(Small):
    """One modality out of two, so that both are transformed alike."""

    def inputs_pretreament(self, inputs: Any) -> Any:
        (maps, sils), *rest = inputs
        both = [np.stack([one, two], axis=1) for one, two in zip(maps, sils, strict=True)]
        return super().inputs_pretreament([[both], *rest])


def built(network: type[BaseModel], training: bool = True, **cfgs: Any) -> Any:
    return network({"model_cfg": {}, "data_cfg": {}, **cfgs}, training)


def batch_of(modalities: int, packed: bool) -> Batch:
    rng = np.random.default_rng(0)
    shape = (1, 7, 8, 6) if packed else (3, 4, 8, 6)
    return Batch(
        frames=[torch.from_numpy(rng.integers(0, 255, shape, dtype=np.uint8)) for _ in range(modalities)],
        labels=torch.tensor([2, 0, 1]),
        types=["nm-01", "bg-01", "cl-01"],
        views=["000", "090", "000"],
        lengths=torch.tensor([[2, 3, 2]]) if packed else None,
        indices=torch.tensor([5, 7, 9]),
        positions=torch.tensor([0, 2, 4]),
        iteration=3,
        seed=1,
    )


class Shift:
    """Adds one keyed number a sequence."""

    on_device = True

    def __call__(self, frames: torch.Tensor, draws: Any) -> torch.Tensor:
        return frames.float() + draws.per_frame(draws.uniform("shift"), frames)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("network", [OnlySuper, Loop])
def test_the_fields_pretreatment_is_that_of_a_network_without_one(network, packed):
    batch, transforms = batch_of(2, packed), Transforms([Shift(), Shift()])
    expected, found = (built(each).prepare_inputs(batch, transforms) for each in (Small, network))
    assert torch.equal(found.labs, expected.labs)
    assert (list(found.typs), list(found.vies)) == (expected.typs, expected.vies)
    assert (found.seqL is None) == (expected.seqL is None)
    assert packed is False or torch.equal(torch.as_tensor(found.seqL), expected.seqL)
    for one, other in zip(found.ipts, expected.ipts, strict=True):
        torch.testing.assert_close(one, other)


def test_a_second_round_over_the_transforms_is_another_view():
    class TwoViews(Small):
        def inputs_pretreament(self, inputs: Any) -> Any:
            (seq,), labs, typs, vies, seqL = inputs
            (trf,) = self.trainer_trfs
            views = [[trf(frames) for frames in seq] for _ in range(2)]
            return [[np.stack(view)] for view in views], labs, typs, vies, seqL

    first, second = built(TwoViews).prepare_inputs(batch_of(1, False), Transforms([Shift()])).ipts
    assert not torch.equal(first[0], second[0])


def test_modalities_can_be_joined_before_one_transform():
    transforms = build_transforms([{"type": "BaseSilTransform"}])
    batch = batch_of(2, False)
    (joined,) = built(Joined).prepare_inputs(batch, transforms).ipts
    torch.testing.assert_close(joined, torch.stack(batch.frames, 2).float() / 255)


def test_transforms_are_there_for_a_batch_only():
    with pytest.raises(RefusedError, match="only inside inputs_pretreament"):
        _ = built(Small).trainer_trfs


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_ENTRIES])
def test_a_method_that_is_never_called_is_refused_when_the_class_is_defined(name):
    with pytest.raises(RefusedError, match=rf"Wrong overrides .*\n  {name}: "):
        type("Wrong", (Small,), {name: lambda *arguments: None})
    mixin = type("Mixin", (), {name: lambda *arguments: None})
    with pytest.raises(RefusedError, match=name):
        type("Wrong", (mixin, Small), {})


def test_two_forms_of_one_hook_are_refused():
    with pytest.raises(RefusedError, match="keep one"):
        type("Wrong", (Small,), {name: lambda *_: None for name in ("prepare_inputs", "inputs_pretreament")})


@pytest.mark.parametrize("name", ["Scaler", "save_ckpt", "train_loader", "engine_cfg", "optimizer"])
def test_an_attribute_that_is_not_there_says_so(name):
    network = built(Small)
    with pytest.raises(RefusedError, match=rf"Small\.{name}: "):
        getattr(network, name)


def test_engine_cfg_is_the_section_of_the_phase():
    sections = {"trainer_cfg": {"total_iter": 3}, "evaluator_cfg": {"metric": "euc"}}
    assert built(Small, True, **sections).engine_cfg == sections["trainer_cfg"]
    assert built(Small, False, **sections).engine_cfg == sections["evaluator_cfg"]


def test_own_optimizer_and_schedule():
    class Own(Small):
        def get_optimizer(self, optimizer_cfg: Mapping[str, Any]) -> Any:
            return torch.optim.SGD(self.parameters(), lr=optimizer_cfg["anything"])

        def get_scheduler(self, scheduler_cfg: Mapping[str, Any]) -> Any:
            return torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: scheduler_cfg["half"] ** step)

    network = built(Own)
    optimizer = build_optimizer({"anything": 0.2}, network)
    scheduler = build_scheduler({"half": 0.5}, optimizer, network)
    assert (network.optimizer, network.scheduler) == (optimizer, scheduler)
    assert not network.state_dict().keys() - {"fc.weight", "fc.bias"}
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.1]


def test_what_is_no_optimizer_is_refused():
    network = built(type("Wrong", (Small,), {"get_optimizer": lambda self, cfg: None}))
    with pytest.raises(ValueError, match=r"Wrong\.get_optimizer must return a torch optimiser, found NoneType"):
        build_optimizer({}, network)
    network = built(type("Wrong", (Small,), {"get_scheduler": lambda self, cfg: 3}))
    optimizer = build_optimizer({"solver": "SGD", "lr": 0.1}, network)
    with pytest.raises(ValueError, match="int has no step"):
        build_scheduler({}, optimizer, network)


def test_defaults_can_be_called_from_overrides():
    class Own(Small):
        def get_optimizer(self, optimizer_cfg: Mapping[str, Any]) -> Any:
            return super().get_optimizer(optimizer_cfg)

        def get_scheduler(self, scheduler_cfg: Mapping[str, Any]) -> Any:
            return super().get_scheduler(scheduler_cfg)

    network = built(Own)
    optimizer = build_optimizer({"solver": "Adam", "lr": 0.1}, network)
    assert build_scheduler({"scheduler": "StepLR", "step_size": 1}, optimizer, network).get_last_lr() == [0.1]


def test_messages_and_writer(caplog):
    network = built(Small)
    with caplog.at_level("DEBUG", logger="opengait"):
        network.msg_mgr.log_info({"rate": 0.1})
        network.msg_mgr.log_warning("100% of it")
        network.msg_mgr.log_debug("seen %d", 3)
    assert [record.getMessage() for record in caplog.records] == ["{'rate': 0.1}", "100% of it", "seen 3"]
    network.msg_mgr.writer.add_scalar("a", 1.0, 2)
    with pytest.raises(AttributeError, match="msg_mgr has no 'write_to_tensorboard'"):
        network.msg_mgr.write_to_tensorboard({})
