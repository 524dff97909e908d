"""Phases of the shipped recipes, one after the other: what the first has learnt is what the next begins with."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from generated_data import GeneratedData, narrow
from torch import Tensor

from opengait import engine, load_config
from opengait.config import Config, shipped
from opengait.engine.checkpoint import CheckpointError, checkpoint_name, load_checkpoint
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Trainer

CPU = torch.device("cpu")
CONFIGS = shipped.find("configs")
GLN_1, GLN_2 = "configs/gln/gln_phase1.yaml", "configs/gln/gln_phase2.yaml"
PRETRAIN, FINETUNE = "configs/gaitssb/gaitssb_pretrain.yaml", "configs/gaitssb/gaitssb_finetune_casiab.yaml"
SEGMENTATION, RECOGNITION = "configs/gaitedge/phase1_seg.yaml", "configs/gaitedge/phase1_rec.yaml"
END_TO_END, EDGE = "configs/gaitedge/phase2_e2e.yaml", "configs/gaitedge/phase2_gaitedge.yaml"
Weights = Mapping[str, Tensor]


@dataclass
class Chains:
    """Runs of narrowed recipes in one folder; a first phase is trained once, for one iteration."""

    data: GeneratedData
    output: Path
    checkpoints: dict[str, Path] = field(default_factory=dict)

    def config(self, recipe: str, restore_hint: Any = 0, testing: bool = False) -> Config:
        published = load_config(recipe)
        sampler = {"batch_size": [2, 2], "frames_num_fixed": 3, "frames_skip_num": 1}
        run = {"total_iter": 1, "save_iter": 1, "with_test": False, "sampler": sampler}
        data_cfg = self.data.testing(published) if testing else self.data.training(published)
        if published["model_cfg"]["model"] == "GLN":  # on frames of 64x64, for time's sake
            data_cfg = self.data.training(load_config(FINETUNE))
        if published["data_cfg"]["dataset_name"] == "CASIA-B*":
            data_cfg["dataset_root"] = str(self.small_images(Path(data_cfg["dataset_root"])))
        changes = {
            "data_cfg": data_cfg,
            "model_cfg": narrow(published["model_cfg"].to_dict()),
            "trainer_cfg": {**run, "restore_hint": restore_hint},
            "evaluator_cfg": {"restore_hint": 1},
        }
        return load_config(recipe, changes)

    def small_images(self, source: Path) -> Path:
        """RGB frames and masks of 32x32 in place of 128x128, which take a sixteenth of the time."""
        target = source.with_name(f"{source.name}-small")
        if not target.exists():
            shutil.copytree(source, target)
            for path in [*target.rglob("*-rgbs.pkl"), *target.rglob("[0-9][0-9][0-9]-sils.pkl")]:
                path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes())[..., ::4, ::4].copy()))
        return target

    def trainer(self, recipe: str, restore_hint: Any) -> Trainer:
        config = self.config(recipe, restore_hint)
        return Trainer(config, run_folder(config, "trainer_cfg", self.output), device=CPU)

    def trained(self, recipe: str) -> Path:
        """The checkpoint that a first phase leaves."""
        if recipe not in self.checkpoints:
            path = engine.train(self.config(recipe), device="cpu", output=self.output).checkpoint
            assert path is not None
            self.checkpoints[recipe] = path
        return self.checkpoints[recipe]


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    folder = tmp_path_factory.mktemp("chains")
    return Chains(GeneratedData(folder / "data"), folder / "output")


def weights_in(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path)["model"]


def same(found: Weights, expected: Weights, keys: Sequence[str] | set[str]) -> bool:
    return all(torch.equal(found[key], expected[key]) for key in keys)


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


def one_iteration(trainer: Trainer) -> set[str]:
    """Trains for one iteration, writes the checkpoint; keys of the weights that have changed."""
    before = snapshot(trainer)
    assert trainer.iteration == 0
    assert trainer.fit().iteration == 1
    return {key for key, value in trainer.model.state_dict().items() if not torch.equal(value, before[key])}


def test_gln_phase_2_begins_with_the_weights_of_phase_1(chains: Chains) -> None:
    path = chains.trained(GLN_1)
    learnt, fresh = weights_in(path), chains.trainer(GLN_2, 0).model.state_dict()
    trainer = chains.trainer(GLN_2, str(path))
    own = snapshot(trainer)
    assert {key.split(".")[0] for key in own.keys() - learnt.keys()} == {
        "encoder_bn", "reduce_fc", "reduce_bn", "reduce_cls",
    }  # fmt: skip
    assert not learnt.keys() - own.keys()
    assert same(own, learnt, learnt.keys())
    assert not same(fresh, learnt, learnt.keys())
    assert same(own, fresh, own.keys() - learnt.keys())
    assert not trainer.optimizer.state_dict()["state"]

    changed = one_iteration(trainer)
    assert {"Head.fc_bin", "reduce_fc.weight", "reduce_cls.weight"} <= changed
    assert not {"encoder_bn.bias", "reduce_bn.bias"} & changed
    figures = engine.test(chains.config(GLN_2), device="cpu", output=chains.output)
    assert sorted(tag.rsplit("/")[-1] for tag in figures) == ["BG@R1", "CL@R1", "NM@R1"]


@pytest.mark.parametrize("recipe", [END_TO_END, EDGE])
def test_gaitedge_begins_with_both_networks_of_phase_1(chains: Chains, recipe: str) -> None:
    paths = [chains.trained(SEGMENTATION), chains.trained(RECOGNITION)]
    segmentation, recognition = map(weights_in, paths)
    trainer = chains.trainer(recipe, [str(path) for path in paths])
    own = snapshot(trainer)
    assert (len(segmentation), len(recognition)) == (121, 16)
    assert own.keys() == segmentation.keys() | recognition.keys()
    assert same(own, segmentation, segmentation.keys())
    assert same(own, recognition, recognition.keys())
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [1e-5, 1e-4]
    assert not trainer.optimizer.state_dict()["state"]

    changed = one_iteration(trainer)
    parameters = dict(trainer.model.named_parameters())
    encoder = {key for key in parameters if re.match(r"Backbone\.Conv[1-4]\.", key)}
    assert changed & parameters.keys() == parameters.keys() - encoder
    figures = engine.test(chains.config(recipe), device="cpu", output=chains.output)
    assert all(0 <= value <= 100 for value in figures.values())
    assert figures


def test_gaitssb_is_fine_tuned_from_what_it_learnt_without_labels(chains: Chains) -> None:
    path = chains.trained(PRETRAIN)
    learnt, fresh = weights_in(path), chains.trainer(FINETUNE, 0).model.state_dict()
    trainer = chains.trainer(FINETUNE, str(path))
    own = snapshot(trainer)
    assert own.keys() - learnt.keys() == {"head0.fc_bin"}
    assert {key.split(".")[0] for key in learnt.keys() - own.keys()} == {"predictor"}
    assert same(own, learnt, own.keys() & learnt.keys())
    assert not same(fresh, learnt, own.keys() & learnt.keys())

    changed = one_iteration(trainer)
    learning = ("Backbone.forward_block.layer2", "Backbone.forward_block.layer3", "Backbone.forward_block.layer4",
                "projector", "head0")  # fmt: skip
    assert changed == {key for key, _ in trainer.model.named_parameters() if key.startswith(learning)}
    pretrained = engine.test(chains.config(PRETRAIN, testing=True), device="cpu", output=chains.output)
    assert pretrained.keys() == engine.test(chains.config(FINETUNE), device="cpu", output=chains.output).keys()


def test_of_checkpoints_that_have_the_same_keys_the_last_one_stays(chains: Chains, tmp_path: Path) -> None:
    first = chains.trained(RECOGNITION)
    second = tmp_path / "second.pt"
    torch.save({"model": {key: value + 1 for key, value in weights_in(first).items()}}, second)
    for hint in ([first, second], [second, first]):
        found = chains.trainer(EDGE, [str(path) for path in hint]).model.state_dict()
        expected = weights_in(hint[-1])
        assert same(found, expected, expected.keys())


@pytest.mark.parametrize("recipe", [GLN_2, FINETUNE, EDGE])
def test_a_checkpoint_that_is_not_there_is_named(chains: Chains, tmp_path: Path, recipe: str) -> None:
    absent = str(tmp_path / "GLN_P1-40000.pt")
    hint: Any = [str(chains.trained(SEGMENTATION)), absent] if recipe == EDGE else absent
    with pytest.raises(CheckpointError, match=f"{re.escape(absent)}: no such checkpoint"):
        chains.trainer(recipe, hint)


def test_a_checkpoint_of_another_network_is_named_though_restored_loosely(chains: Chains) -> None:
    other, wanted = chains.trained(RECOGNITION), chains.trained(SEGMENTATION)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(other))}: .*does not fit(?s:.*)'GLN'"):
        chains.trainer(GLN_2, str(other))
    gln = chains.trained(GLN_1)
    with pytest.raises(CheckpointError, match=re.escape(str(gln))):
        chains.trainer(EDGE, [str(wanted), str(gln)])


def test_a_first_phase_of_other_widths_names_file_and_setting(chains: Chains) -> None:
    path = chains.trained(RECOGNITION)
    config = chains.config(EDGE, [str(chains.trained(SEGMENTATION)), str(path)]).to_dict()
    config["model_cfg"]["GaitGL"]["channels"] = [4, 8, 24]
    with pytest.raises(CheckpointError) as found:
        Trainer(Config.from_dict(config), chains.output, device=CPU)
    message = str(found.value)
    assert str(path) in message
    assert "Head0.fc_bin is [64, 16, 16] in the file and [64, 24, 24] in the network" in message
    assert "channels" in message.splitlines()[-1]


def test_a_strict_phase_2_says_which_keys_phase_1_lacks(chains: Chains) -> None:
    config = chains.config(GLN_2, str(chains.trained(GLN_1))).to_dict()
    config["trainer_cfg"]["restore_ckpt_strict"] = True
    with pytest.raises(CheckpointError, match=r"missing \(12\): encoder_bn.bias(?s:.*)Lateral_pretraining"):
        Trainer(Config.from_dict(config), chains.output, device=CPU)


def test_what_arrives_and_what_does_not_is_in_the_log(chains: Chains, caplog: pytest.LogCaptureFixture) -> None:
    path = chains.trained(PRETRAIN)
    with caplog.at_level(logging.INFO, logger="opengait"):
        chains.trainer(FINETUNE, str(path))
    messages = "\n".join(record.getMessage() for record in caplog.records if str(path) in record.getMessage())
    assert "projector.0.fc_bin" in messages
    assert "not in the file: ['head0.fc_bin']" in messages
    assert "predictor.0.fc_bin" in messages


def test_a_recipe_starts_from_files_that_other_recipes_leave() -> None:
    wanted: dict[str, list[str]] = {}
    written: set[str] = set()
    for path in sorted(CONFIGS.rglob("*.yaml")):
        if path.name == "default.yaml":
            continue
        config = load_config(path)
        cfg = config["trainer_cfg"]
        name = checkpoint_name(cfg["save_name"], cfg["total_iter"])
        written.add((run_folder(config, "trainer_cfg", "output") / "checkpoints" / name).as_posix())
        hint = cfg["restore_hint"]
        for one in hint if isinstance(hint, list) else [hint]:
            if isinstance(one, str):
                wanted.setdefault(Path(one).as_posix(), []).append(path.name)
    assert len(wanted) == 5
    assert not wanted.keys() - written, {hint: wanted[hint] for hint in wanted.keys() - written}
