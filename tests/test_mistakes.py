"""Mistakes in a config or in the data end a run before its first iteration, with a message and without a traceback."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from gait_folder import tiny_experiment, write_experiment, write_gait_folder, write_partition, write_sequence

from opengait import cli
from opengait import main as program

# (overrides, words that the message must have)
CONFIG_MISTAKES = [
    (["trainer_cfg.total_iters=2"], ["trainer_cfg", "total_iters", "did you mean 'total_iter'?"]),
    (["trainer_cfg.sampler.frame_num_fixed=4"], ["frame_num_fixed", "did you mean 'frames_num_fixed'?"]),
    (["trainer_cfg.sampler.batch_size=4"], ["trainer_cfg.sampler.batch_size", "[P, K]", "4"]),
    (["trainer_cfg.sampler.sample_type=fixed_order"], ["fixed_order", "did you mean 'fixed_ordered'?"]),
    (["trainer_cfg.sampler.sample_type=fixed_ordered"], ["needs 'frames_skip_num'"]),
    (["trainer_cfg.sampler.type=TripletSamples"], ["did you mean 'TripletSampler'?"]),
    (["trainer_cfg.total_iter=many"], ["trainer_cfg.total_iter", "integer", "'many'"]),
    (["trainer_cfg.with_test='yes'"], ["trainer_cfg.with_test", "true or false"]),
    (["trainer_cfg.precision=fp8"], ["trainer_cfg.precision", "fp8", "bf16"]),
    (["model_cfg.model=GaitSett"], ["unknown model 'GaitSett'", "did you mean 'GaitSet'?"]),
    (["model_cfg.binnum=[1]"], ["model_cfg", "binnum", "did you mean 'bin_num'?"]),
    (["model_cfg.SeparateFCs.parts_num=31"], ["parts_num is 31", "62"]),
    (["model_cfg.in_channels=[1, 2, 4]"], ["model_cfg.in_channels", "4 items"]),
    (["loss_cfg.type=TripleLoss"], ["unknown loss 'TripleLoss'", "did you mean 'TripletLoss'?"]),
    (["loss_cfg.margine=0.2"], ["loss_cfg", "margine", "did you mean 'margin'?"]),
    (["loss_cfg.log_prefix=tri.plet"], ["log_prefix", "without dots"]),
    (["loss_cfg=[{type: CrossEntropyLoss, log_prefix: a}, {type: CrossEntropyLoss, log_prefix: a}]"], ["its own"]),
    (["optimizer_cfg.solver=Adamm"], ["unknown solver 'Adamm'", "did you mean 'Adam'?"]),
    (["optimizer_cfg.lr=-1"], ["optimizer_cfg", "SGD refuses its arguments"]),
    (["optimizer_cfg.betas=[0.9, 0.99]"], ["optimizer_cfg", "betas", "for SGD"]),
    (["scheduler_cfg.scheduler=ReduceLROnPlateau"], ["scheduler_cfg.scheduler", "cannot be used"]),
    (["scheduler_cfg={scheduler: OneCycleLR, max_lr: 0.1, total_steps: 1}"], ["total_iter is 2", "1 steps"]),
    (["evaluator_cfg.metric=cosine"], ["evaluator_cfg.metric", "did you mean 'cos'?"]),
    (["evaluator_cfg.eval_func=evaluate_indoor"], ["did you mean 'evaluate_indoor_dataset'?"]),
    (["trainer_cfg.transform.0.type=BaseSilCut"], ["unknown transform", "BaseSilCuttingTransform"]),
    (["trainer_cfg.transform.0.cuttting=10"], ["did you mean 'cutting'?"]),
    (["optimiser_cfg.lr=0.1"], ["optimiser_cfg", "did you mean 'optimizer_cfg'?"]),
    (["trainer_cfg.save_name"], ["section.key=value"]),
    (["data_cfg.dataset_root=/nowhere/at/all"], ["/nowhere/at/all", "no such folder", "dataset_root"]),
    (["data_cfg.dataset_partition=nowhere.json"], ["nowhere.json", "no such partition file"]),
    (["data_cfg.data_in_use=[0, 1]"], ["data_in_use", "asks for file number 1", "holds 1"]),
    (["trainer_cfg.transform=[{type: BaseSilTransform}, null]"], ["1 modalities", "2 entries"]),
    (["trainer_cfg.transform.0.cutting=32"], ["BaseSilCuttingTransform", "leaves nothing", "64"]),
    (["model_cfg.bin_num=[5]", "model_cfg.SeparateFCs.parts_num=10"], ["bin_num [5]", "evenly"]),
    (["trainer_cfg.restore_hint=40"], ["tiny-00040.pt", "no such checkpoint"]),
    (["trainer_cfg.restore_hint=away.pt"], ["away.pt", "no such checkpoint"]),
    (["trainer_cfg.sampler.batch_size=[1, 4]"], ["compares subjects"]),
    (["evaluator_cfg.transform.0.cutting=20"], ["64x44", "64x24", "make them equal"]),
    (["data_cfg.test_dataset_name=CASIA-C"], ["CASIA-C", "did you mean 'CASIA-", "known: CASIA-B"]),
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    folder = write_gait_folder(tmp_path_factory.mktemp("gait"))
    write_experiment(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path) -> Path:
    shutil.copytree(pristine, tmp_path / "gait")
    write_experiment(tmp_path / "gait")
    return tmp_path / "gait"


@pytest.fixture(params=["train", "check"])
def message_of(request, capsys, tmp_path, monkeypatch) -> Callable[..., str]:
    """Runs the program, as a training in the field's own form and as a check; returns what it says as it refuses."""
    output = tmp_path / "output"

    def run(config: Path, *overrides: str) -> str:
        options = [part for override in overrides for part in ("--set", override)]
        options += ["--device", "cpu", "--output", str(output)]
        if request.param == "train":
            status = program.main(["--cfgs", str(config), *options])
        else:
            monkeypatch.setattr(sys, "argv", ["opengait", "check", str(config), "--no-batch", *options])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            status = ended.value.code
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert status == 2, said
        assert "Traceback" not in said
        assert "Iteration 0" not in said
        assert not list(output.rglob("*.pt"))
        return said

    return run


@pytest.mark.parametrize(("overrides", "words"), CONFIG_MISTAKES, ids=[mistake[0][0] for mistake in CONFIG_MISTAKES])
def test_config_mistake(pristine, message_of, overrides, words):
    said = message_of(pristine / "experiment.yaml", *overrides)
    for word in words:
        assert word in said


def test_the_experiment_without_a_mistake_trains_and_tests(pristine, tmp_path, capsys):
    arguments = ["--cfgs", str(pristine / "experiment.yaml"), "--device", "cpu", "--output", str(tmp_path)]
    assert program.main([*arguments, "--phase", "train"]) == 0
    assert program.main([*arguments, "--phase", "test"]) == 0
    assert "Traceback" not in capsys.readouterr().err
    logging.getLogger("opengait").handlers.clear()


def test_testing_before_training(pristine, tmp_path, capsys):
    arguments = ["--cfgs", str(pristine / "experiment.yaml"), "--phase", "test", "--output", str(tmp_path)]
    assert program.main(arguments) == 2
    assert "tiny-00002.pt: no such checkpoint" in capsys.readouterr().err


def no_config(folder: Path) -> list[str]:
    (folder / "experiment.yaml").rename(folder / "experiments.yaml")
    return ["no such file", "experiments.yaml"]


def no_yaml(folder: Path) -> list[str]:
    (folder / "experiment.yaml").write_text("trainer_cfg:\n\tsave_name: x\n")
    return ["experiment.yaml:2", "not valid YAML"]


def twice_the_same_key(folder: Path) -> list[str]:
    path = folder / "experiment.yaml"
    path.write_text(path.read_text() + "data_cfg: {}\n")
    return ["key 'data_cfg' is given twice"]


def code_in_a_config(folder: Path) -> list[str]:
    (folder / "experiment.yaml").write_text("trainer_cfg: !!python/object/apply:os.abort []\n")
    return ["experiment.yaml:1", "is not allowed"]


def missing_model_keys(folder: Path) -> list[str]:
    experiment = tiny_experiment(folder)
    experiment["model_cfg"] = {"model": "GaitSet"}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    return ["model_cfg.in_channels", "model_cfg.SeparateFCs", "missing"]


def root_not_set(folder: Path) -> list[str]:
    experiment = tiny_experiment(folder)
    del experiment["data_cfg"]["dataset_root"]
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    return ["your_path", "dataset_root"]


def partition_of_other_subjects(folder: Path) -> list[str]:
    write_partition(folder, ["subject-a", "subject-b"], ["subject-c"])
    return ["none of the 2 subjects in TRAIN_SET", "subject-a"]


def subject_in_both_sets(folder: Path) -> list[str]:
    write_partition(folder, ["001", "002"], ["002"])
    return ["'002'", "TRAIN_SET and TEST_SET"]


def partition_of_numbers(folder: Path) -> list[str]:
    (folder / "partition.json").write_text(json.dumps({"TRAIN_SET": [1, 2], "TEST_SET": [5]}))
    return ["ids are strings"]


def partition_no_json(folder: Path) -> list[str]:
    (folder / "partition.json").write_text("TRAIN_SET: [001]")
    return ["partition.json", "not a JSON file"]


def no_test_subject_on_disk(folder: Path) -> list[str]:
    write_partition(folder, ["001", "002", "003", "004"], ["901"])
    return ["TEST_SET", "901"]


def empty_data_folder(folder: Path) -> list[str]:
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    return ["none of the 4 subjects"]


def no_pickle_in_a_sequence(folder: Path) -> list[str]:
    (folder / "data" / "001" / "nm-01" / "000" / "notes.txt").write_text("x")
    return ["notes.txt", "not a .pkl file"]


def another_modality_once(folder: Path) -> list[str]:
    place = folder / "data" / "002" / "nm-05" / "000"
    shutil.copy(place / "000.pkl", place / "111.pkl")
    return ["002/nm-05/000", "holds 2 modalities"]


def hostile_pickle(folder: Path) -> list[str]:
    path = folder / "data" / "001" / "bg-01" / "000" / "000.pkl"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    return ["000.pkl", "os.system"]


def broken_pickle(folder: Path) -> list[str]:
    path = folder / "data" / "001" / "bg-01" / "000" / "000.pkl"
    path.write_bytes(path.read_bytes()[:100])
    return ["001/bg-01/000/000.pkl"]


def sequence_without_frames(folder: Path) -> list[str]:
    write_sequence(folder / "data", "001", "nm-01", "000", np.zeros((0, 64, 64), np.uint8))
    return ["001/nm-01/000", "no frames"]


def frames_of_unequal_size(folder: Path) -> list[str]:
    write_sequence(folder / "data", "001", "nm-01", "000", np.full((8, 32, 22), 255, np.uint8))
    return ["001/nm-01/000", "32x22", "64x64"]


def frames_of_an_odd_size(folder: Path) -> list[str]:
    write_gait_folder(folder, height=66, width=66)
    return ["66x66", "not divisible by 4"]


def blank_frames(folder: Path) -> list[str]:
    write_gait_folder(folder, value=0)
    return ["blank", "0..255"]


def zero_and_one(folder: Path) -> list[str]:
    write_gait_folder(folder, value=1)
    return ["values run to 1", "divsor: 1"]


def a_table_instead_of_frames(folder: Path) -> list[str]:
    path = folder / "data" / "001" / "nm-01" / "000" / "000.pkl"
    path.write_bytes(pickle.dumps({"frames": [1, 2]}))
    return ["001/nm-01/000", "dict"]


def no_gallery(folder: Path) -> list[str]:
    for subject in ("005", "006"):
        (folder / "data" / subject / "nm-01").rename(folder / "data" / subject / "walk1")
    return ["nothing to test", "no gallery"]


def one_view(folder: Path) -> list[str]:
    for subject in ("005", "006"):
        for path in (folder / "data" / subject).glob("*/090"):
            shutil.rmtree(path)
    return ["identical views", "two views"]


DATA_MISTAKES = [
    no_config, no_yaml, twice_the_same_key, code_in_a_config, missing_model_keys, root_not_set,
    partition_of_other_subjects, subject_in_both_sets, partition_of_numbers, partition_no_json, no_test_subject_on_disk,
    empty_data_folder, no_pickle_in_a_sequence, another_modality_once, hostile_pickle, broken_pickle,
    sequence_without_frames, frames_of_unequal_size, frames_of_an_odd_size, blank_frames, zero_and_one,
    a_table_instead_of_frames, no_gallery, one_view,
]  # fmt: skip


@pytest.mark.parametrize("mistake", DATA_MISTAKES, ids=lambda mistake: mistake.__name__)
def test_data_mistake(folder, message_of, mistake):
    words = mistake(folder)
    said = message_of(folder / "experiment.yaml")
    for word in words:
        assert word in said
