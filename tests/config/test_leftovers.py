"""Defaults that the chosen class does not take are dropped; what the experiment itself writes must be taken."""

from __future__ import annotations

import logging

import pytest

from opengait.config import ConfigError, load_config


def problem_keys(path, overrides=()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return [problem.key for problem in caught.value.problems]


def test_default_weight_decay_reaches_adam_and_momentum_does_not(write):
    config = load_config(write({"optimizer_cfg": {"solver": "Adam", "lr": 1e-4}}))
    assert config.optimizer_cfg == {"solver": "Adam", "lr": 1e-4, "weight_decay": 0.0005}
    assert not config.warnings


def test_default_schedule_does_not_reach_another_schedule(write):
    schedule = {"scheduler": "OneCycleLR", "max_lr": 0.1, "total_steps": 80000}
    assert load_config(write({"scheduler_cfg": schedule})).scheduler_cfg == schedule
    cosine = {"scheduler": "CosineAnnealingLR", "T_max": 10}
    assert load_config(write({"scheduler_cfg": cosine})).scheduler_cfg == cosine


def test_default_margin_does_not_reach_cross_entropy(write):
    loss = {"type": "CrossEntropyLoss", "log_prefix": "softmax", "loss_term_weight": 0.1}
    assert load_config(write({"loss_cfg": loss})).loss_cfg == loss


def test_an_argument_beside_its_selector_must_be_taken(write):
    assert problem_keys(write({"optimizer_cfg": {"solver": "Adam", "momentum": 0.9}})) == ["optimizer_cfg.momentum"]
    assert problem_keys(write({"loss_cfg": {"type": "CrossEntropyLoss", "margin": 0.2}})) == ["loss_cfg.margin"]


def test_an_argument_above_its_selector_must_be_taken(write):
    path = write({"optimizer_cfg": {"solver": "Adam"}})
    assert problem_keys(path, ["optimizer_cfg.momentum=0.9"]) == ["optimizer_cfg.momentum"]


def test_an_argument_below_its_selector_is_a_leftover(write):
    path = write({"optimizer_cfg": {"solver": "SGD", "nesterov": True}})
    config = load_config(path, ["optimizer_cfg.solver=Adam"])
    assert "nesterov" not in config.optimizer_cfg
    assert load_config(path).optimizer_cfg.nesterov is True


def test_base_files_leave_leftovers_too(write):
    write("optimizer_cfg: {solver: SGD, nesterov: true}", "base.yaml")
    config = load_config(write({"_base_": "base.yaml", "optimizer_cfg": {"solver": "AdamW"}}))
    assert set(config.optimizer_cfg) == {"solver", "lr", "weight_decay"}


def test_a_model_keeps_nothing_of_the_base_model(write):
    write("model_cfg: {model: Free, depth: 3, in_channels: [1, 4, 8, 8], SeparateFCs: {in_channels: 1}}", "base.yaml")
    heads = {"in_channels": 8, "out_channels": 16, "parts_num": 62}
    path = write({"_base_": "base.yaml", "model_cfg": {"model": "Tiny", "SeparateFCs": heads}})
    assert load_config(path).model_cfg == {"model": "Tiny", "in_channels": [1, 4, 8, 8], "SeparateFCs": heads}


def test_nested_leftovers_of_a_base_model_are_dropped(write):
    write("model_cfg: {model: Free, SeparateFCs: {depth: 1}}", "base.yaml")
    config = load_config(write({"_base_": "base.yaml"}))
    assert "depth" not in config.model_cfg.SeparateFCs


def test_frame_numbers_of_other_modes_are_dropped(write):
    sampler = load_config(write()).trainer_cfg.sampler
    assert sampler.frames_num_fixed == 30
    assert "frames_num_min" not in sampler
    unfixed = load_config(write(), ["trainer_cfg.sampler.sample_type=unfixed_unordered"]).trainer_cfg.sampler
    assert (unfixed.frames_num_min, unfixed.frames_num_max) == (25, 50)
    assert "frames_num_fixed" not in unfixed


def test_frame_numbers_that_the_experiment_writes_in_vain_are_warned_of(write):
    path = write({"trainer_cfg": {"sampler": {"sample_type": "fixed_unordered", "frames_num_min": 25}}})
    (warning,) = load_config(path).warnings
    assert warning.key == "trainer_cfg.sampler.frames_num_min"
    assert "sample_type fixed_unordered does not use it" in warning.message


DEAD = [
    "data_cfg.frame_threshold=16",
    "data_cfg.train_data_preload=a/b",
    "model_cfg.diffusion_ckpt=a",
    "model_cfg.test_da=true",
    "model_cfg.eroded_kernel=3",
    "loss_cfg.loss_term_weights=1.0",
    "loss_cfg.lazy=true",
    "loss_cfg.gather_and_scale=true",
    "trainer_cfg.fix_layers=false",
    "trainer_cfg.enable_distributed=true",
    "evaluator_cfg.enable_distributed=true",
    "evaluator_cfg.sampler.batch_shuffle=false",
    "evaluator_cfg.transform.0.img_w=64",
]


@pytest.mark.parametrize("override", DEAD)
def test_a_dead_key_is_one_warning_and_is_dropped(write, caplog, override):
    with caplog.at_level(logging.WARNING, logger="opengait"):
        config = load_config(write(), [override])
    key = override.partition("=")[0]
    assert [warning.key for warning in config.warnings] == [key]
    assert [key in record.getMessage() for record in caplog.records] == [True]
    assert config == load_config(write())


def test_all_dead_keys_together(write):
    warned = sorted(warning.key for warning in load_config(write(), DEAD).warnings)
    assert warned == sorted(override.partition("=")[0] for override in DEAD)


def test_a_dead_key_in_another_section_is_unknown(write):
    assert problem_keys(write(), ["trainer_cfg.frame_threshold=16"]) == ["trainer_cfg.frame_threshold"]
    assert problem_keys(write(), ["data_cfg.lazy=true"]) == ["data_cfg.lazy"]
    path = write({"trainer_cfg": {"transform": [{"type": "BaseSilTransform", "img_w": 64}]}})
    assert problem_keys(path) == ["trainer_cfg.transform.0.img_w"]


def test_remove_no_gallery_is_alive(write):
    config = load_config(write(), ["data_cfg.remove_no_gallery=true"])
    assert config.data_cfg.remove_no_gallery is True
    assert not config.warnings
