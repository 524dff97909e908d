"""The check before a run: what it finds, what it lets pass, and that it changes nothing."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import torch
from gait_folder import write_experiment, write_gait_folder, write_partition, write_sequence

from opengait.config import load_config
from opengait.data.tree_packing import pack_tree
from opengait.engine.preflight import preflight
from opengait.engine.store_check import check_store
from opengait.modeling.base_model import BaseModel
from opengait.registry import MODELS, TRANSFORMS


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = write_gait_folder(tmp_path_factory.mktemp("gait"))
    write_experiment(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "gait")
    write_experiment(tmp_path / "gait")
    return tmp_path / "gait"


def check(folder, *overrides, **options):
    options = {"run_batch": False, "output": folder / "output", **options}
    return preflight(load_config(folder / "experiment.yaml", overrides), **options)


def said(findings, level):
    return [finding.message for finding in findings if finding.level == level]


def test_a_sound_experiment_has_no_errors_and_is_summed_up(pristine):
    findings = check(pristine, run_batch=True)
    assert said(findings, "error") == []
    assert said(findings, "warning") == []
    info = "\n".join(said(findings, "info"))
    for words in ("training data: 4 subjects, 32 sequences of 8 to 8 frames", "test data: 2 subjects", "protocol: "):
        assert words in info
    assert "one training batch of 4 sequences: loss " in info
    assert "an embedding of [4, 62]" in info


def test_the_check_leaves_no_trace(pristine):
    before = sorted(path for path in pristine.rglob("*"))
    state = torch.get_rng_state()
    handlers = logging.getLogger("opengait").handlers[:]
    check(pristine, run_batch=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(path for path in pristine.rglob("*")) == before
    assert logging.getLogger("opengait").handlers == handlers


def test_missing_subjects_are_counted(folder):
    shutil.rmtree(folder / "data" / "002")
    (warning,) = said(check(folder), "warning")
    assert "1 of 4 subjects in TRAIN_SET" in warning
    assert "002" in warning


def test_a_rule_stands_for_a_partition_and_folders_that_it_leaves_out_are_counted(folder):
    findings = check(folder, "data_cfg.dataset_partition={train: 001-003, test: '005'}")
    info = "\n".join(said(findings, "info"))
    assert "training data: 3 subjects" in info
    assert "test data: 1 subjects" in info
    assert "2 folders in " in info
    assert "in neither set of data_cfg.dataset_partition and take no part, such as 004" in info
    (warning,) = said(check(folder, "data_cfg.dataset_partition={train: 001-004, test: 005-008}"), "warning")
    assert "2 of 4 subjects in TEST_SET are not in" in warning
    assert "007, 008" in warning


def test_damaged_sequences_of_a_packed_store_are_errors_unless_left_unchecked(folder):
    pack_tree(folder / "data", progress=False)
    override = f"data_cfg.dataset_root={folder}/data-packed"
    assert said(check(folder, override), "error") == []
    frames = folder / "data-packed" / "frames-silhouettes.bin"
    content = bytearray(frames.read_bytes())
    content[8 * 4096 + 100] ^= 1
    frames.write_bytes(content)
    [error] = said(check(folder, override), "error")
    assert "data-packed: sequence 001/bg-01/090 is damaged" in error
    assert said(check(folder, override, checksums=False), "error") == []
    assert "is damaged" not in str(said(check(folder, override, phase="test"), "error"))  # it is in the other split
    [error] = check_store(folder / "data-packed")
    assert "sequence 001/bg-01/090 is damaged" in error.message
    frames.write_bytes(bytes(len(content)))
    errors = said(check(folder, override, phase="train"), "error")
    assert "22 more sequences are damaged" in errors[10]
    assert "38 more sequences are damaged" in check_store(folder / "data-packed")[10].message


def test_a_store_is_compared_whole_also_where_no_split_names_its_subjects(folder):
    pack_tree(folder / "data", progress=False)
    [found] = check_store(folder / "data-packed")
    assert found.level == "info"
    assert "6 subjects, 48 sequences" in found.message
    frames = folder / "data-packed" / "frames-silhouettes.bin"
    content = bytearray(frames.read_bytes())
    content[-100] ^= 1
    frames.write_bytes(content)
    rule = "data_cfg.dataset_partition={train: 001-002, test: 003-004}"
    assert said(check(folder, f"data_cfg.dataset_root={folder}/data-packed", rule), "error") == []
    [found] = check_store(folder / "data-packed")
    assert found.level == "error"
    assert "sequence 006/" in found.message
    (folder / "data-packed" / "sequences.npz").write_bytes(b"")
    [found] = check_store(folder / "data-packed")
    assert found.level == "error"
    assert "sequences.npz" in found.message


def test_too_few_subjects_and_sequences_for_a_batch_are_warned_of(folder):
    warnings = said(check(folder, "trainer_cfg.sampler.batch_size=[9, 9]"), "warning")
    assert len(warnings) == 2
    assert "9 subjects and there are 4" in warnings[0]
    assert "fewer than K = 9 sequences" in warnings[1]


def test_a_loss_on_pairs_needs_two_subjects(folder):
    (error,) = said(check(folder, "trainer_cfg.sampler.batch_size=[1, 4]"), "error")
    assert "TripletLoss compares subjects" in error
    (warning,) = said(check(folder, "trainer_cfg.sampler.batch_size=[4, 1]"), "warning")
    assert "no two sequences of a subject" in warning


def test_cutting_frames_that_are_narrow_already(tmp_path):
    folder = write_gait_folder(tmp_path, width=44)
    write_experiment(folder)
    cut = "{type: BaseSilCuttingTransform, cutting: 10}"
    findings = check(folder, f"evaluator_cfg.transform=[{cut}]")
    (error,) = said(findings, "error")
    assert "trainer_cfg.transform.0 BaseSilCuttingTransform leaves 64x44" in error
    assert "evaluator_cfg.transform.0 BaseSilCuttingTransform 64x24; make them equal" in error
    (warning,) = said(findings, "warning")
    assert "frames are 64x44" in warning
    assert "leaves 64x24" in warning
    assert "use BaseSilTransform" in warning


def test_silhouettes_of_zero_and_one_are_an_error_unless_the_divisor_fits(tmp_path):
    folder = write_gait_folder(tmp_path, value=1)
    write_experiment(folder)
    errors = said(check(folder), "error")
    assert len(errors) == 2
    assert all("divsor: 1" in error for error in errors)
    fitting = "transform.0={type: BaseSilCuttingTransform, divsor: 1}"
    assert said(check(folder, f"trainer_cfg.{fitting}", f"evaluator_cfg.{fitting}"), "error") == []


def test_a_test_section_that_will_never_find_its_checkpoint(folder):
    (warning,) = said(check(folder, "evaluator_cfg.restore_hint=3"), "warning")
    assert "restore_hint 3 is never written" in warning
    (warning,) = said(check(folder, "evaluator_cfg.save_name=other"), "warning")
    assert "'other'" in warning
    (error,) = said(check(folder, phase="test"), "error")
    assert "no such checkpoint" in error


def test_the_phase_decides_what_is_needed(folder):
    shutil.rmtree(folder / "data" / "005")
    shutil.rmtree(folder / "data" / "006")
    assert said(check(folder, "trainer_cfg.with_test=false", phase="train"), "error") == []
    assert len(said(check(folder, phase="train"), "error")) == 1
    assert len(said(check(folder), "error")) == 1


def test_several_mistakes_are_found_in_one_go(folder):
    write_partition(folder, ["001", "002", "003", "004"], ["777"])
    findings = check(
        folder, "trainer_cfg.restore_hint=40", "model_cfg.bin_num=[3]", "model_cfg.SeparateFCs.parts_num=6"
    )
    errors = said(findings, "error")
    assert len(errors) == 3
    for words in ("777", "trainer_cfg.restore_hint", "bin_num"):
        assert any(words in error for error in errors)


def test_class_numbers():
    from opengait.engine.findings import Findings
    from opengait.engine.fit import check_class_numbers

    model_cfg = {"SeparateBNNecks": {"class_num": 3}, "heads": [{"class_num": 5}], "class_num": 4}
    findings = Findings()
    check_class_numbers(model_cfg, 4, findings)
    assert [finding.level for finding in findings.found] == ["error", "warning"]
    assert "model_cfg.SeparateBNNecks.class_num: 3 classes for 4 training subjects; set it to 4" in findings.errors
    assert "model_cfg.heads.0.class_num: 5 classes" in findings.found[1].message


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"tripplet": {}}, "log"),
        ({"triplet": {"embedding": 1}}, "embedding"),
        ({"extra": torch.zeros(1)}, "triplet"),
        (None, "missing: training_feat"),
    ],
)
def test_what_a_network_feeds_its_losses_is_checked(pristine, monkeypatch, features, words):
    class Odd(BaseModel):
        def build_network(self, model_cfg):
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, inputs):
            output = {"visual_summary": {}, "inference_feat": {"embeddings": inputs.ipts[0].mean((1, 2, 3))}}
            return output if features is None else {**output, "training_feat": features}

    monkeypatch.setitem(MODELS._entries, "Odd", Odd)
    errors = said(check(pristine, "model_cfg={model: Odd}", run_batch=True), "error")
    assert any(error.startswith("one training batch: ") and words in error for error in errors)
    assert any("embeddings have shape" in error for error in errors)


def test_the_size_after_a_function_on_arrays_is_tried_out(pristine, monkeypatch):
    def sides_cut(frames):
        return frames[..., 10:-10]

    monkeypatch.setitem(TRANSFORMS._entries, "sides_cut", sides_cut)
    chain = "[{type: Compose, trf_cfg: [{type: sides_cut}, {type: BaseSilTransform}]}]"
    assert said(check(pristine, f"trainer_cfg.transform={chain}", run_batch=True), "error") == []
    (error,) = said(check(pristine, "trainer_cfg.transform=[{type: BaseSilTransform}]"), "error")
    assert "leaves 64x64" in error


def test_frames_of_unequal_shape_are_named(folder):
    path = write_sequence(folder / "data", "004", "nm-05", "090", np.full((8, 32, 32), 255, np.uint8))
    assert path.is_file()
    (error,) = said(check(folder), "error")
    assert "004/nm-05/090" in error
    assert "32x32" in error
    assert "64x64" in error
