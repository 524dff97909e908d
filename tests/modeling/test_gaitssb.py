"""GaitSSB: the reference's numbers, views that are told apart, layers that are frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Case, check_probe, close_to_peak, ellipses, fill_probe
from laws import check_batched_and_packed, check_packed_training, embed, random_statistics, sils
from torch import Tensor

from opengait import Inputs, build_model
from opengait.data.batch import Batch
from opengait.modeling.losses.cross_entropy import CrossEntropyLoss
from opengait.modeling.models.gaitssb import GaitSSB_Finetune, cosine_logits

Shared = Callable[[str], Path]


def cfg(model: str, channels: tuple[int, ...] = (64, 128, 256, 512), **more: Any) -> dict[str, Any]:
    backbone = {"type": "ResNet9", "channels": list(channels), "layers": [1] * 4, "strides": [1, 2, 2, 1]}
    return {"model": model, "backbone_cfg": {**backbone, "maxpool": False}, "parts_num": 31, **more}


RATES = {"backbone_lr": [0, 0.001, 0.002, 0.003], "projector_lr": 0.01}
PRETRAIN = cfg("GaitSSB_Pretrain", (4, 4, 6, 6))
FINETUNE = cfg("GaitSSB_Finetune", (4, 4, 6, 6), **RATES)


@pytest.mark.parametrize("kind", ["eval", "packed"])
def test_golden_embeddings(shared: Shared, kind: str) -> None:
    Case.read(shared, "gaitssb_pretrain").check_inference(kind)


def test_golden_training_step(shared: Shared) -> None:
    Case.read(shared, "gaitssb_pretrain").check_training()


def test_golden_contrast(shared: Shared) -> None:
    case = np.load(shared("golden/losses/gaitssb_contrast.npz"))
    prediction = torch.from_numpy(case["p"]).requires_grad_()
    logits = cosine_logits(prediction, torch.from_numpy(case["z"]))
    close_to_peak(logits, case["logits"], "logits")
    labels = torch.from_numpy(case["labels"])
    loss, _ = CrossEntropyLoss()(logits, labels)
    close_to_peak(loss, case["loss"], "loss")
    close_to_peak((logits.mean(2).argmax(1) == labels).float().mean(), case["accuracy"], "accuracy of the mean part")
    loss.backward()
    assert prediction.grad is not None
    close_to_peak(prediction.grad, case["grad_p"], "grad")


@pytest.mark.parametrize(
    ("model_cfg", "keys", "parameters", "mean", "std", "elements"),
    [
        (cfg("GaitSSB_Pretrain"), 91, 37_498_048, -0.000148796, 0.0441939,
         [0.0154414, 0.0410731, 0.0134468, 0.00154545]),
        (cfg("GaitSSB_Finetune", **RATES), 85, 29_339_840, -0.000319589, 0.0438669,
         [-0.0321327, -0.0660747, -0.0322764, -0.0414652]),
    ],
    ids=["pretrain", "finetune"],
)  # fmt: skip
def test_probe(
    model_cfg: dict[str, Any], keys: int, parameters: int, mean: float, std: float, elements: list[float]
) -> None:
    model = build_model(model_cfg)
    assert len(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == parameters
    fill_probe(model)
    check_probe(embed(model, [ellipses(2, 6)]), mean, std, elements)


@pytest.mark.parametrize("model_cfg", [PRETRAIN, FINETUNE], ids=["pretrain", "finetune"])
def test_batched_and_packed_equal_one_at_a_time(model_cfg: dict[str, Any]) -> None:
    check_batched_and_packed(model_cfg)


def test_a_packed_batch_finetunes_like_a_fixed_one() -> None:
    check_packed_training(FINETUNE)


def two_views(n: int) -> list[Tensor]:
    return [*sils(n, 3, 0), *sils(n, 3, 1)]


def contrast(model: Any, views: list[Tensor]) -> Tensor:
    feat = model(Inputs(views))["training_feat"]
    return sum(CrossEntropyLoss()(**feat[name])[0] for name in ("softmax1", "softmax2"))  # type: ignore[return-value]


def test_targets_of_other_processes_give_the_whole_batch() -> None:
    """Two shares of unequal size, each with the targets of both, have the loss and gradient of the whole batch."""
    torch.manual_seed(0)
    whole = build_model(PRETRAIN).double()
    views = [view.double() for view in two_views(5)]
    for part in (whole, whole.projector, whole.predictor):
        assert not part.training
    whole.training = True  # the forward of training with the statistics of testing, which do not depend on the split
    shared = copy.deepcopy(whole)
    total = contrast(whole, views)
    total.backward()

    with torch.no_grad():
        targets = {
            number: torch.nn.functional.normalize(whole._encode(view, None)[0], dim=1)
            for number, view in enumerate(views)
        }
    losses = []
    for first, last in ((0, 2), (2, 5)):
        given = iter([(targets[1], first), (targets[0], first)])
        shared.gather_targets = lambda _, given=given: next(given)
        loss = contrast(shared, [view[first:last] for view in views]) * (last - first) / 5
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0] + losses[1], total)
    for (name, a), b in zip(whole.named_parameters(), shared.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b[1].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_targets_have_no_gradient() -> None:
    model = build_model(PRETRAIN, training=True)
    feat = model(Inputs(two_views(3)))["training_feat"]
    seen: list[Tensor] = []
    model.gather_targets = lambda targets: (seen.append(targets), (targets, 0))[1]
    model(Inputs(two_views(3)))
    assert len(seen) == 2
    assert not any(targets.requires_grad for targets in seen)
    assert feat["softmax1"]["logits"].shape == (3, 3, 31)
    assert feat["softmax1"]["labels"].tolist() == [0, 1, 2]


def test_a_training_batch_becomes_two_views() -> None:
    model = build_model(PRETRAIN, training=True)

    def batch(indices: list[int]) -> Batch:
        n = len(indices)
        return Batch(
            frames=[torch.arange(n)[:, None, None, None].expand(n, 2, 64, 44)],
            labels=torch.tensor(indices),
            types=["nm-01"] * n,
            views=["000"] * n,
            lengths=None,
            indices=torch.tensor(indices),
            positions=torch.arange(n),
            iteration=0,
            seed=0,
        )

    def frames_of(batch: Batch) -> list[Tensor]:
        return [frames.float() for frames in batch.frames]

    inputs = model.prepare_inputs(batch([7, 4, 7, 4]), frames_of)
    assert [view[:, 0, 0, 0].tolist() for view in inputs.ipts] == [[0, 1], [2, 3]]
    assert inputs.labs is not None
    assert inputs.labs.tolist() == [7, 4]
    assert inputs.seqL is None
    for wrong in ([7, 4, 4, 7], [7, 4, 7]):
        with pytest.raises(ValueError, match="BilateralSampler"):
            model.prepare_inputs(batch(wrong), frames_of)
    assert len(model.eval().prepare_inputs(batch([7, 4, 3]), frames_of).ipts[0]) == 3


def test_frozen_layers_have_no_gradient_and_no_group() -> None:
    model = build_model(FINETUNE, training=True)
    assert isinstance(model, GaitSSB_Finetune)
    model(Inputs(sils(2, 2)))["inference_feat"]["embeddings"].square().sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    frozen = ("conv1", "bn1", "layer1")
    for name, _ in model.named_parameters():
        part = name.removeprefix("Backbone.forward_block.").split(".")[0]
        assert (name in learning) == (part not in frozen), name

    groups = model.parameter_groups({"solver": "SGD", "lr": 0.1})
    optimizer = torch.optim.SGD(groups, lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.001, 0.002, 0.003, 0.01, 0.1]
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert grouped == {id(parameter) for name, parameter in model.named_parameters() if name in learning}


def test_learning_rates_do_not_fall_below_the_floor() -> None:
    model = build_model(FINETUNE, training=True)
    optimizer = torch.optim.SGD(model.parameter_groups({"lr": 0.1}), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1000, 2000], 0.1)
    for group in optimizer.param_groups:
        group["lr"] *= 0.01
    model.iteration = 999
    model.before_iteration(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)
    model.iteration = 1000
    model.before_iteration(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-4, 1e-4, 1e-4, 1e-4, 1e-3])
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_finetuning_goes_on_from_pretraining() -> None:
    pretrained, finetuned = build_model(PRETRAIN), build_model(FINETUNE)
    result = finetuned.load_state_dict(pretrained.state_dict(), strict=False)
    assert result.missing_keys == ["head0.fc_bin"]
    assert all(key.startswith("predictor.") for key in result.unexpected_keys)


def test_embeddings_are_of_unit_length_or_cosines() -> None:
    pretrained, finetuned = (random_statistics(build_model(model_cfg)) for model_cfg in (PRETRAIN, FINETUNE))
    torch.testing.assert_close(embed(pretrained, sils(2, 2)).norm(dim=1), torch.ones(2, 31))
    assert embed(finetuned, sils(2, 2)).abs().max() <= 1


def test_inputs_that_do_not_fit() -> None:
    model = build_model(PRETRAIN, training=True)
    with pytest.raises(ValueError, match="two views of each sequence, found 1"):
        model(Inputs(sils(2, 2)))
    with pytest.raises(ValueError, match="44 or 88 wide"):
        embed(model.eval(), sils(1, 2, 0, 64, 64))
    with pytest.raises(ValueError, match="backbone_lr"):
        build_model({**FINETUNE, "backbone_lr": [0.1]})
