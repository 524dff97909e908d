"""A batch in parts gives the gradient of the batch, or is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_tiny import TinyNet, tiny_config
from torch import nn

from opengait.engine.trainer import Trainer
from opengait.modeling.inputs import Inputs
from opengait.registry import MODELS

CPU = torch.device("cpu")
CHANGES: dict[str, Any] = {
    "model_cfg__double": True,
    "trainer_cfg__fix_BN": True,
    "trainer_cfg__total_iter": 3,
    "optimizer_cfg": {"solver": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0},
}
PACKED = {
    "type": "TripletSampler",
    "batch_size": [3, 3],
    "sample_type": "unfixed_unordered",
    "frames_num_min": 2,
    "frames_num_max": 5,
}


class Frozen(TinyNet):
    """Takes packed batches, and can do what parts of a batch cannot stand for."""

    def build_network(self, model_cfg: Any) -> None:
        super().build_network(model_cfg)
        self.fault = model_cfg.get("fault", "")
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        if inputs.seqL is None:
            output = super().forward(inputs)
        else:
            runs = inputs.ipts[0].split(inputs.seqL[0].tolist(), 1)
            outputs = [super(Frozen, self).forward(inputs._replace(ipts=[run], seqL=None)) for run in runs]
            feats = [one["training_feat"] for one in outputs]
            joined = {
                prefix: {
                    name: torch.cat([feat[prefix][name] for feat in feats])
                    for name in feats[0][prefix]
                    if name != "labels"
                }
                for prefix in feats[0]
            }
            training_feat = {prefix: {**values, "labels": inputs.labs} for prefix, values in joined.items()}
            output = {**outputs[0], "training_feat": training_feat}
        feat = output["training_feat"]
        if self.fault == "own loss":
            feat["own"] = feat["triplet"]["embeddings"].square()
        elif self.fault == "no rows":
            feat["triplet"]["embeddings"] = feat["triplet"]["embeddings"].mean(0)
        elif self.fault == "buffer":
            self.calls += 1
        elif self.fault == "contrast":
            self.gather_targets(feat["triplet"]["embeddings"])
        return output


if "Frozen" not in MODELS:
    MODELS.register(Frozen)


def train(tree: Path, output: Path, parts: int, **changes: Any) -> dict[str, Any]:
    """Gradients, losses and summaries of every iteration, and the final weights."""
    config = tiny_config(tree, **{**CHANGES, "model_cfg__model": "Frozen", "trainer_cfg__accumulate": parts, **changes})
    trainer = Trainer(config, output, device=CPU)
    batches = trainer.batches()
    found: dict[str, Any] = {}
    for number in range(trainer.total_iter):
        step = trainer.train_step(next(batches))
        found |= {
            f"{number} {name}": p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
        }
        found |= {f"{number} {name}": value.mean() for name, value in step.info.items() if "/" in name[7:]}
        assert step.counted
    return {**found, **trainer.model.state_dict()}


@pytest.mark.parametrize("sampler", [None, PACKED])
@pytest.mark.parametrize("parts", [2, 4, 20])
def test_parts_give_the_gradient_of_the_whole(tree: Path, tmp_path: Path, parts: int, sampler: Any) -> None:
    changes = {} if sampler is None else {"trainer_cfg__sampler": sampler}
    whole = train(tree, tmp_path / "whole", 1, **changes)
    apart = train(tree, tmp_path / "parts", parts, **changes)
    assert whole.keys() == apart.keys()
    assert any(float(value.abs().max()) > 1e-3 for key, value in whole.items() if "conv.weight" in key)
    for key, value in whole.items():
        torch.testing.assert_close(apart[key], value, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}")


def test_a_part_is_dropped_out_the_same_way_in_both_passes(tree: Path, tmp_path: Path) -> None:
    """Otherwise the gradients would belong to other features than those that the losses have seen."""
    config = tiny_config(
        tree, **{**CHANGES, "model_cfg__model": "Frozen", "model_cfg__dropout": 0.5, "trainer_cfg__accumulate": 3}
    )
    trainer = Trainer(config, tmp_path, device=CPU)
    assert trainer.accumulation is not None
    seen: list[torch.Tensor] = []
    forward = trainer.accumulation.forward

    def noting(batch: Any) -> Any:
        output = forward(batch)
        seen.append(output["training_feat"]["triplet"]["embeddings"].detach())
        return output

    trainer.accumulation.forward = noting
    trainer.train_step(next(trainer.batches()))
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], seen[1])


def test_only_a_part_has_a_graph_at_a_time(tree: Path, tmp_path: Path) -> None:
    config = tiny_config(tree, **{**CHANGES, "model_cfg__model": "Frozen", "trainer_cfg__accumulate": 3})
    trainer = Trainer(config, tmp_path, device=CPU)
    with_graph: list[int] = []
    trainer.model.conv.register_forward_hook(lambda layer, inputs, y: with_graph.append(len(y) * y.requires_grad))
    trainer.train_step(next(trainer.batches()))
    assert with_graph == [0, 0, 0, 12, 12, 12]  # frames


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer_cfg__fix_BN": False}, r"3 batch norms \(norm, ...\) compute their .*fix_BN"),
        ({"model_cfg__fault": "own loss"}, "computes 'own' of a part by itself"),
        ({"model_cfg__fault": "no rows"}, r"\['triplet'\]\['embeddings'\].*has no row for each"),
        ({"model_cfg__fault": "buffer"}, "changes the buffer calls"),
        ({"model_cfg__fault": "contrast"}, "contrasts its sequences with those of the whole batch"),
    ],
)  # fmt: skip
def test_what_parts_cannot_stand_for_is_refused(tree: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"accumulate.*{said}"):
        train(tree, tmp_path, 3, **changes)


@pytest.mark.faults
def test_two_processes_take_the_step_of_one(
    tree: Path, tmp_path: Path, in_processes: Callable[..., list[dict[str, Any]]]
) -> None:
    from engine_worker import train as train_in_process

    changes = {**CHANGES, "trainer_cfg__accumulate": 2}
    job = {"root": str(tree), "output": str(tmp_path / "two"), "changes": changes}
    together = in_processes({"train": job})
    alone = train_in_process(str(tree), str(tmp_path / "one"), {**CHANGES})
    for rank in range(2):
        for name, value in alone["weights"].items():
            torch.testing.assert_close(together[rank]["train"]["weights"][name], value, rtol=1e-9, atol=1e-11)


def test_a_network_without_batch_norm_needs_no_setting() -> None:
    from opengait.engine.accumulation import check_accumulation

    check_accumulation(nn.Sequential(nn.Linear(2, 2)), {"accumulate": 2, "sampler": {}})
    with pytest.raises(ValueError, match="shard_classes"):
        check_accumulation(nn.Linear(2, 2), {"accumulate": 2, "sampler": {}, "shard_classes": True})
    with pytest.raises(ValueError, match=r"sampler\.compat"):
        check_accumulation(nn.Linear(2, 2), {"accumulate": 2, "sampler": {"compat": "reference"}})
