"""Layers: defaults, base files, the experiment, overrides; and where each value came from."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from opengait.config import ConfigError, load_config, shipped
from opengait.config.merge import merge
from opengait.config.source import from_plain

KEYS = st.sampled_from(["a", "b", "c", "d"])
VALUES = st.none() | st.booleans() | st.integers(0, 9) | st.lists(st.integers(0, 3), max_size=3)
MAPPINGS = st.dictionaries(KEYS, st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner)), max_size=4)


def reference_merge(experiment: dict, defaults: dict) -> dict:
    """The rule of the reference implementation, written once more."""
    merged = copy.deepcopy(defaults)
    for key in experiment:
        both_mappings = isinstance(experiment[key], dict) and isinstance(defaults.get(key), dict)
        merged[key] = reference_merge(experiment[key], defaults[key]) if both_mappings else experiment[key]
    return merged


@given(MAPPINGS, MAPPINGS)
def test_merge_follows_the_rule(below, above):
    merged = merge(from_plain(below, "below", 0), from_plain(above, "above", 1))
    assert merged.plain() == reference_merge(above, below)


@given(MAPPINGS, MAPPINGS, MAPPINGS)
def test_merge_keeps_the_layer_of_every_leaf(first, second, third):
    trees = [first, second, third]
    merged = from_plain(first, "0", 0)
    for layer in (1, 2):
        merged = merge(merged, from_plain(trees[layer], str(layer), layer))

    def at(tree, path):
        for part in path.split("."):
            tree = tree[int(part)] if isinstance(tree, list) else tree[part]
        return tree

    for path, node in merged.walk():
        if path and not isinstance(node.value, (dict, list)):
            assert at(trees[node.layer], path) == node.value


def test_experiment_over_defaults(write):
    config = load_config(write({"trainer_cfg": {"total_iter": 60}, "loss_cfg": {"margin": 0.3}}))
    assert config.trainer_cfg.total_iter == 60
    assert config.trainer_cfg.save_iter == 2000
    assert config.loss_cfg == {"type": "TripletLoss", "log_prefix": "triplet", "loss_term_weight": 1.0, "margin": 0.3}


def test_lists_are_replaced_whole(write):
    losses = [{"type": "CrossEntropyLoss", "log_prefix": "softmax", "scale": 1}]
    config = load_config(write({"loss_cfg": losses, "scheduler_cfg": {"milestones": [5]}}))
    assert config.loss_cfg == losses
    assert config.scheduler_cfg.milestones == [5]


def test_base_files_lie_between_defaults_and_experiment(write):
    write("trainer_cfg: {total_iter: 1, save_iter: 2, log_iter: 3}", "bases/first.yaml")
    write("_base_: first.yaml\ntrainer_cfg: {save_iter: 20, log_iter: 30}", "bases/second.yaml")
    config = load_config(write({"_base_": "bases/second.yaml", "trainer_cfg": {"log_iter": 300}}))
    trainer = config.trainer_cfg
    assert (trainer.total_iter, trainer.save_iter, trainer.log_iter) == (1, 20, 300)
    assert "_base_" not in config


def test_later_bases_win(write):
    write("trainer_cfg: {total_iter: 1, save_iter: 1}", "one.yaml")
    write("trainer_cfg: {total_iter: 2}", "two.yaml")
    config = load_config(write({"_base_": ["one.yaml", "two.yaml"]}))
    assert (config.trainer_cfg.total_iter, config.trainer_cfg.save_iter) == (2, 1)


def test_a_base_may_be_a_shipped_file_but_one_beside_the_config_comes_first(write):
    experiment = {"_base_": "configs/default.yaml", "trainer_cfg": {"log_iter": 3}}
    assert load_config(write(experiment)).trainer_cfg.total_iter == 80000
    write("trainer_cfg: {total_iter: 7}", "configs/default.yaml")
    assert load_config(write(experiment)).trainer_cfg.total_iter == 7


def test_a_cycle_of_bases_is_an_error(write):
    write("_base_: experiment.yaml", "other.yaml")
    with pytest.raises(ConfigError, match="cannot be its own base"):
        load_config(write({"_base_": "other.yaml"}))


def test_too_many_bases_are_an_error(write):
    write("{}", "level0.yaml")
    for level in range(1, 12):
        write(f"_base_: [level{level - 1}.yaml, level{level - 1}.yaml]", f"level{level}.yaml")
    with pytest.raises(ConfigError, match="more than 64 base files"):
        load_config(write({"_base_": "level11.yaml"}))


@pytest.mark.parametrize("base", [3, [None], "nowhere.yaml", ["experimen.yaml"]])
def test_wrong_bases_are_named(write, base):
    with pytest.raises(ConfigError) as caught:
        load_config(write({"_base_": base}))
    (problem,) = caught.value.problems
    assert problem.key == "_base_"
    assert problem.line is not None


def test_overrides_are_taken_in_order_and_over_everything(write):
    path = write({"trainer_cfg": {"total_iter": 60}})
    config = load_config(path, ["trainer_cfg.total_iter=70", "trainer_cfg.total_iter=80", "optimizer_cfg.lr=1e-3"])
    assert config.trainer_cfg.total_iter == 80
    assert config.optimizer_cfg.lr == 1e-3


def test_overrides_reach_into_lists(write):
    config = load_config(
        write(),
        [
            "evaluator_cfg.transform.0.type=BaseSilTransform",
            "trainer_cfg.transform.0.cutting=5",
            "trainer_cfg.sampler.batch_size.1=4",
        ],
    )
    assert config.evaluator_cfg.transform == [{"type": "BaseSilTransform"}]
    assert config.trainer_cfg.transform == [{"type": "BaseSilCuttingTransform", "cutting": 5}]
    assert config.trainer_cfg.sampler.batch_size == [8, 4]


def test_a_mapping_of_overrides_is_merged(write):
    given_as_text = load_config(write(), ["trainer_cfg.sampler.batch_size=[2, 3]", "loss_cfg.margin=0.4"])
    overrides = {"trainer_cfg": {"sampler": {"batch_size": (2, 3)}}, "loss_cfg": {"margin": 0.4}}
    assert load_config(write(), overrides) == given_as_text
    dotted = {"trainer_cfg.sampler.batch_size": [2, 3], "loss_cfg": {"margin": 0.4}}
    assert load_config(write(), dotted) == given_as_text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("total_iter", "expected the form section.key=value"),
        ("=3", "expected the form section.key=value"),
        ("trainer_cfg..seed=3", "expected the form section.key=value"),
        ("trainer_cfg.transform.7.type=X", "trainer_cfg.transform is a list; expected a position from 0 to 0"),
        ("trainer_cfg.transform.type=X", "is a list"),
        ("trainer_cfg.seed=[1", "not valid YAML"),
        ("trainer_cfg.seed=!!python/name:os.system", "is not allowed"),
        ("trainer_cfg.sed=1", "unknown key 'sed' (did you mean 'seed'?)"),
        ("trainer.seed=1", "unknown section 'trainer' (did you mean 'trainer_cfg'?)"),
    ],
)
def test_wrong_overrides_are_named(write, override, words):
    with pytest.raises(ConfigError) as caught:
        load_config(write(), [override])
    (problem,) = caught.value.problems
    assert words in str(problem)
    assert override in str(problem)


def test_values_without_a_place_in_yaml_are_refused(write):
    with pytest.raises(ConfigError, match="cannot stand in a config"):
        load_config(write(), {"trainer_cfg": {"seed": object()}})


def test_origins_point_at_the_line_that_gave_the_value(write):
    path = write()
    config = load_config(path, ["trainer_cfg.seed=5"])
    lines = {"experiment.yaml": path.read_text(), "default.yaml": shipped.find("configs/default.yaml").read_text()}
    checked = 0
    for key in ("model_cfg.model", "model_cfg.SeparateFCs.parts_num", "optimizer_cfg.lr", "trainer_cfg.sampler"):
        file, _, line = config.origin(key).rpartition(":")
        text = lines[Path(file).name].splitlines()[int(line) - 1]
        assert text.strip().startswith(key.split(".")[-1] + ":")
        checked += 1
    assert checked == 4
    assert config.origin("trainer_cfg.seed") == "override 'trainer_cfg.seed=5'"
    assert config.origin("trainer_cfg.compile") is None


def test_a_missing_file_is_an_error_with_the_nearest_name(write):
    path = write()
    with pytest.raises(ConfigError, match=r"no such file \(did you mean '.*/experiment.yaml'\?\)"):
        load_config(path.with_name("experimnt.yaml"))
    with pytest.raises(ConfigError, match=r"did you mean 'configs/gaitset/gaitset.yaml'"):
        load_config("configs/gaitset/gaitst.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(path.parent)


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.find("configs/default.yaml").is_file()
    assert shipped.find("datasets/CASIA-B/CASIA-B.json").is_file()
    for elsewhere in ("../configs/default.yaml", "configs/../pyproject.toml", "/etc/passwd", "pyproject.toml", ""):
        assert shipped.find(elsewhere) is None


def test_shipped_files_inside_a_wheel_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "opengait")
    inside = tmp_path / "opengait" / "shipped" / "configs" / "default.yaml"
    inside.parent.mkdir(parents=True)
    inside.write_text("{}")
    assert shipped.find("configs/default.yaml") == inside


def test_an_empty_experiment_is_the_defaults(write):
    path = write("")
    config = load_config(path, {"model_cfg": {"model": "Free"}})
    defaults = yaml.safe_load(shipped.find("configs/default.yaml").read_text())
    assert config.optimizer_cfg == defaults["optimizer_cfg"]
