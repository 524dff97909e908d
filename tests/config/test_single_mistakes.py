"""Each mistake gives one problem that names the key and what would be right; several are reported together."""

from __future__ import annotations

import pytest
import yaml

from opengait.config import ConfigError, load_config

# (override, key of the problem, words that its line must have)
MISTAKES = [
    ("data_cfg.dataset_rot=x", "data_cfg.dataset_rot", ["unknown key 'dataset_rot'", "did you mean 'dataset_root'?"]),
    ("data_cfg.num_workers=two", "data_cfg.num_workers", ["expected an integer", "'two'"]),
    ("data_cfg.num_workers=-1", "data_cfg.num_workers", ["greater than or equal to 0", "-1"]),
    ("data_cfg.cache='yes'", "data_cfg.cache", ["expected true or false", "'yes'"]),
    ("data_cfg.cache=1", "data_cfg.cache", ["expected true or false", "found 1"]),
    ("data_cfg.data_in_use=[0.5]", "data_cfg.data_in_use.0", ["true or false", "integer", "0.5"]),
    ("data_cfg.data_in_use=[false, false]", "data_cfg.data_in_use", ["selects no modality"]),
    ("data_cfg.dataset_name=a/b", "data_cfg.dataset_name", ["'a/b'"]),
    ("data_cfg.dataset_root=null", "data_cfg.dataset_root", ["expected text", "null"]),
    ("data_cfg.dataset_partition=61", "data_cfg.dataset_partition", ["expected text or a mapping", "61"]),
    ("data_cfg.dataset_partition.tran=001-074", "data_cfg.dataset_partition.tran", ["did you mean 'train'?"]),
    ("data_cfg.dataset_partition={}", "data_cfg.dataset_partition", ["names no subject"]),
    ("data_cfg.dataset_partition.test=075", "data_cfg.dataset_partition.test", ["the number 61", "in quotes"]),
    ("data_cfg.dataset_partition.test=[a, 1]", "data_cfg.dataset_partition.test", ["the number 1", "in quotes"]),
    ("data_cfg.dataset_partition.test=[[a]]", "data_cfg.dataset_partition.test", ["found ['a']"]),
    ("data_cfg.dataset_partition.test=null", "data_cfg.dataset_partition.test", ["found null"]),
    ("data_cfg.dataset_partition.test=9-007", "data_cfg.dataset_partition.test", ["'9'", "'007'", "padding"]),
    (
        "data_cfg.dataset_partition={train: 001-074, test: '074,070'}",
        "data_cfg.dataset_partition",
        ["'070', '074' under train and under test"],
    ),
    ("data_cfg=[{dataset_name: a, dataset_root: b, dataset_partition: c}]", "data_cfg", ["Tiny does not take"]),
    ("model_cfg.model=Tinny", "model_cfg.model", ["unknown model 'Tinny'", "did you mean 'Tiny'?", "known: Free"]),
    ("model_cfg.bin_nums=[1]", "model_cfg.bin_nums", ["unknown key 'bin_nums'", "did you mean 'bin_num'?"]),
    ("model_cfg.bin_num=[a]", "model_cfg.bin_num.0", ["expected an integer", "'a'"]),
    ("model_cfg.in_channels=32", "model_cfg.in_channels", ["expected a list", "32"]),
    ("model_cfg.SeparateFCs.part_num=3", "model_cfg.SeparateFCs.part_num", ["did you mean 'parts_num'?"]),
    ("model_cfg.SeparateFCs=3", "model_cfg.SeparateFCs", ["3"]),
    ("loss_cfg.type=TripleLoss", "loss_cfg.type", ["unknown loss 'TripleLoss'", "did you mean 'TripletLoss'?"]),
    ("loss_cfg.margn=0.2", "loss_cfg.margn", ["for TripletLoss", "did you mean 'margin'?"]),
    ("loss_cfg.margin=big", "loss_cfg.margin", ["expected a number", "'big'"]),
    ("loss_cfg.margin='0.2'", "loss_cfg.margin", ["expected a number", "a number without quotes"]),
    ("loss_cfg.log_prefix=a.b", "loss_cfg.log_prefix", ["without dots", "'a.b'"]),
    ("loss_cfg=[{type: TripletLoss, log_prefix: a}]", "loss_cfg.0.margin", ["TripletLoss needs 'margin'"]),
    ("loss_cfg=[{type: CrossEntropyLoss}]", "loss_cfg.0.log_prefix", ["missing"]),
    (
        "loss_cfg=[{type: CrossEntropyLoss, log_prefix: a}, {type: CrossEntropyLoss, log_prefix: a}]",
        "loss_cfg.1.log_prefix",
        ["'a' is the log_prefix of loss_cfg.0 too"],
    ),
    ("loss_cfg=TripletLoss", "loss_cfg", ["expected a mapping", "'TripletLoss'"]),
    ("loss_cfg=[TripletLoss]", "loss_cfg.0", ["expected a mapping", "'TripletLoss'"]),
    ("optimizer_cfg.solver=Adan", "optimizer_cfg.solver", ["unknown solver 'Adan'", "did you mean 'Adam"]),
    ("optimizer_cfg.solver=LBFGS", "optimizer_cfg.solver", ["LBFGS cannot be used"]),
    ("optimizer_cfg.learning_rate=0.1", "optimizer_cfg.learning_rate", ["for SGD", "known: "]),
    ("optimizer_cfg.momentom=0.1", "optimizer_cfg.momentom", ["for SGD", "did you mean 'momentum'?"]),
    ("optimizer_cfg.lr=fast", "optimizer_cfg.lr", ["expected a number", "'fast'"]),
    ("optimizer_cfg.lr=-0.1", "optimizer_cfg", ["SGD refuses its arguments", "-0.1"]),
    ("scheduler_cfg.scheduler=MultiStep", "scheduler_cfg.scheduler", ["did you mean 'MultiStepLR'?"]),
    ("scheduler_cfg.scheduler=ReduceLROnPlateau", "scheduler_cfg.scheduler", ["it needs a figure"]),
    ("scheduler_cfg.scheduler=OneCycleLR", "scheduler_cfg.max_lr", ["OneCycleLR needs 'max_lr'"]),
    ("scheduler_cfg.milestones=5", "scheduler_cfg.milestones", ["expected a list", "5"]),
    ("scheduler_cfg.milestone=[5]", "scheduler_cfg.milestone", ["did you mean 'milestones'?"]),
    ("scheduler_cfg={scheduler: OneCycleLR, max_lr: 0.1}", "scheduler_cfg", ["refuses its arguments", "total_steps"]),
    (
        "scheduler_cfg={scheduler: OneCycleLR, max_lr: 0.1, total_steps: 70}",
        "trainer_cfg.total_iter",
        ["total_iter is 80000", "scheduler_cfg ends after 70 steps"],
    ),
    ("trainer_cfg.total_iters=5", "trainer_cfg.total_iters", ["did you mean 'total_iter'?"]),
    ("trainer_cfg.total_iter=1.5", "trainer_cfg.total_iter", ["integer", "1.5"]),
    ("trainer_cfg.total_iter=0", "trainer_cfg.total_iter", ["greater than or equal to 1", "found 0"]),
    ("trainer_cfg.save_name=5", "trainer_cfg.save_name", ["expected text", "found 5", "quotes"]),
    ("trainer_cfg.precision=fp8", "trainer_cfg.precision", ["'fp32', 'bf16' or 'fp16'", "'fp8'"]),
    ("trainer_cfg.clip_grad_norm=.inf", "trainer_cfg.clip_grad_norm", ["finite number"]),
    ("trainer_cfg.restore_hint=[1, 2]", "trainer_cfg.restore_hint", ["a list of checkpoints", "Tiny"]),
    ("trainer_cfg.sampler=TripletSampler", "trainer_cfg.sampler", ["expected a mapping"]),
    ("trainer_cfg.sampler.type=TripleSampler", "trainer_cfg.sampler.type", ["did you mean 'TripletSampler'?"]),
    ("trainer_cfg.sampler.type=InferenceSampler", "trainer_cfg.sampler.type", ["InferenceSampler is for evaluator"]),
    ("trainer_cfg.sampler.batch_size=16", "trainer_cfg.sampler.batch_size", ["[P, K]", "found 16"]),
    ("trainer_cfg.sampler.batch_size=[8]", "trainer_cfg.sampler.batch_size", ["found [8]"]),
    ("trainer_cfg.sampler.batch_size=[8, x]", "trainer_cfg.sampler.batch_size.1", ["expected an integer", "'x'"]),
    ("trainer_cfg.sampler.frame_num_fixed=9", "trainer_cfg.sampler.frame_num_fixed", ["'frames_num_fixed'?"]),
    ("trainer_cfg.sampler.frames_num_fixed=null", "trainer_cfg.sampler.frames_num_fixed", ["fixed_unordered needs"]),
    ("trainer_cfg.sampler.sample_type=fixed_orderd", "trainer_cfg.sampler.sample_type", ["'fixed_ordered'?"]),
    ("trainer_cfg.sampler.sample_type=fixed_ordered", "trainer_cfg.sampler.frames_skip_num", ["'frames_skip_num'"]),
    (
        "trainer_cfg.sampler={sample_type: unfixed_unordered, frames_num_min: 60}",
        "trainer_cfg.sampler.frames_num_min",
        ["frames_num_min is 60 and frames_num_max 50"],
    ),
    ("trainer_cfg.transform=null", "trainer_cfg.transform", ["expected a list", "null"]),
    ("trainer_cfg.transform.0=BaseSilTransform", "trainer_cfg.transform.0", ["expected a mapping with 'type'"]),
    ("trainer_cfg.transform.0.type=BaseSilCutting", "trainer_cfg.transform.0.type", ["'BaseSilCuttingTransform'?"]),
    ("trainer_cfg.transform.0.cuting=10", "trainer_cfg.transform.0.cuting", ["did you mean 'cutting'?"]),
    ("trainer_cfg.transform.0.cutting=1.5", "trainer_cfg.transform.0.cutting", ["integer", "1.5"]),
    (
        "trainer_cfg.transform=[{type: Compose, trf_cfg: [{type: BaseSilTransform, divisor: 1}]}]",
        "trainer_cfg.transform.0.trf_cfg.0.divisor",
        ["for BaseSilTransform", "did you mean 'divsor'?"],
    ),
    ("trainer_cfg.transform=[{cutting: 3}]", "trainer_cfg.transform.0.type", ["missing"]),
    ("evaluator_cfg.metric=cosine", "evaluator_cfg.metric", ["'euc' or 'cos'", "did you mean 'cos'?"]),
    ("evaluator_cfg.eval_func=evaluate_indoor", "evaluator_cfg.eval_func", ["'evaluate_indoor_dataset'?"]),
    ("evaluator_cfg.restore_hint=[1]", "evaluator_cfg.restore_hint", ["expected an integer or text", "[1]"]),
    ("evaluator_cfg.sampler.type=TripletSampler", "evaluator_cfg.sampler.type", ["is for trainer_cfg"]),
    ("evaluator_cfg.sampler.batch_size=[4]", "evaluator_cfg.sampler.batch_size", ["[4]"]),
    ("evaluator_cfg=5", "evaluator_cfg", ["expected a mapping", "found 5"]),
    ("optimiser_cfg.lr=1", "optimiser_cfg", ["unknown section", "did you mean 'optimizer_cfg'?"]),
]


@pytest.mark.parametrize(("override", "key", "words"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_one_mistake_is_one_problem(write, override, key, words):
    with pytest.raises(ConfigError) as caught:
        load_config(write(), [override])
    assert [problem.key for problem in caught.value.problems] == [key], str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_line_is_that_of_the_mistake(write):
    path = write({"trainer_cfg": {"log_iter": 5, "sampler": {"frame_num_fixed": 30}}})
    line = path.read_text().splitlines().index("    frame_num_fixed: 30") + 1
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    expected = "trainer_cfg.sampler: unknown key 'frame_num_fixed' (did you mean 'frames_num_fixed'?)"
    assert str(caught.value) == f"{path.as_posix()}:{line}: {expected}"


def test_all_mistakes_are_reported_together(write):
    compatible = [
        "data_cfg.dataset_rot=x",
        "data_cfg.num_workers=two",
        "model_cfg.bin_nums=[1]",
        "loss_cfg.margn=0.2",
        "optimizer_cfg.momentom=0.1",
        "scheduler_cfg.scheduler=MultiStep",
        "trainer_cfg.total_iters=5",
        "trainer_cfg.sampler.type=TripleSampler",
        "trainer_cfg.sampler.frames_num_fixed=null",
        "trainer_cfg.transform.0.cuting=10",
        "evaluator_cfg.metric=cosine",
        "evaluator_cfg.eval_func=evaluate_indoor",
        "optimiser_cfg.lr=1",
    ]
    keys = {override: key for override, key, _ in MISTAKES}
    with pytest.raises(ConfigError) as caught:
        load_config(write(), compatible)
    assert sorted(problem.key for problem in caught.value.problems) == sorted(keys[one] for one in compatible)


def test_structure_and_range_mistakes_of_one_sampler_come_together(write):
    sampler = {"sample_type": "unfixed_unordered", "frames_num_min": 60, "batch_siz": 3}
    with pytest.raises(ConfigError) as caught:
        load_config(write({"trainer_cfg": {"sampler": sampler}}))
    assert len(caught.value.problems) == 2


def test_missing_model_keys_are_named(write):
    with pytest.raises(ConfigError) as caught:
        load_config(write("model_cfg: {model: Tiny, SeparateFCs: {in_channels: 8}}"))
    assert {problem.key for problem in caught.value.problems} == {
        "model_cfg.in_channels",
        "model_cfg.SeparateFCs.out_channels",
        "model_cfg.SeparateFCs.parts_num",
    }


def test_a_model_without_settings_takes_any_keys(write):
    config = load_config(write(yaml.safe_dump({"model_cfg": {"model": "Free", "anything": {"at": ["all"]}}})))
    assert config.model_cfg.anything.at == ["all"]


def test_text_integers_and_numbers_are_told_apart(write):
    config = load_config(write({"optimizer_cfg": {"lr": 1}, "trainer_cfg": {"clip_grad_norm": 5}}))
    assert config.optimizer_cfg.lr == 1
    assert config.trainer_cfg.clip_grad_norm == 5.0
