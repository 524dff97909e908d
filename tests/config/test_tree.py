"""The Config object: read-only, plain inside, the same after every round trip."""

from __future__ import annotations

import pickle

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from opengait.config import Config, load_config

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
KEYS = st.text(min_size=1, max_size=5)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)


@given(TREES)
def test_round_trips(tree):
    config = Config.from_dict(tree)
    assert config.to_dict() == tree
    assert Config.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_loaded_config_round_trips(write):
    config = load_config(write())
    assert Config.from_dict(config.to_dict()) == config
    assert yaml.safe_load(config.to_yaml()) == config.to_dict()


def test_a_resolved_config_is_a_config_file(write):
    config = load_config(write())
    again = load_config(write(config.to_yaml(), "resolved.yaml"))
    assert again == config
    assert not again.warnings


def test_a_partition_rule_goes_through_files_overrides_and_back(write):
    rule = {"train": "001-074", "test": ["075-080", "090", "0x1f", "1_0", "no"]}
    by_file = load_config(write({"data_cfg": {"dataset_partition": rule}}))
    assert by_file.data_cfg.dataset_partition.to_dict() == rule
    over_a_file_name = ["data_cfg.dataset_partition.train=001-074", f"data_cfg.dataset_partition.test={rule['test']}"]
    assert load_config(write(), over_a_file_name) == by_file
    assert yaml.safe_load(by_file.to_yaml()) == by_file.to_dict()
    assert load_config(write(by_file.to_yaml(), "resolved.yaml")) == by_file
    changed = load_config(write({"data_cfg": {"dataset_partition": rule}}), ["data_cfg.dataset_partition.test=100-124"])
    assert changed.data_cfg.dataset_partition.to_dict() == {"train": "001-074", "test": "100-124"}
    replaced = load_config(write({"data_cfg": {"dataset_partition": rule}}), ["data_cfg.dataset_partition=list.json"])
    assert replaced.data_cfg.dataset_partition == "list.json"


def test_access():
    config = Config.from_dict({"a": {"b": [1, {"c": 2}], "items": 3}})
    assert config.a.b[0] == 1
    assert config["a"]["b"][1].c == 2
    assert config.a["items"] == 3
    assert isinstance(config.a, Config)
    assert config.get("z") is None
    assert {**config.a} == {"b": [1, {"c": 2}], "items": 3}
    with pytest.raises(AttributeError, match="no key 'aa'"):
        _ = config.aa
    with pytest.raises(KeyError):
        config["z"]
    assert not hasattr(config, "z")


def test_read_only():
    config = Config.from_dict({"a": {"b": [1, [2]]}})
    with pytest.raises(AttributeError, match="read-only"):
        config.a = 1
    with pytest.raises(AttributeError, match="read-only"):
        config.a.b = 1
    with pytest.raises(AttributeError, match="read-only"):
        del config.a
    with pytest.raises(TypeError):
        config["a"] = 1
    config.a.b.append(3)
    config.to_dict()["a"]["b"][1].append(3)
    source = config.to_dict()
    taken = Config.from_dict(source)
    source["a"]["b"].append(4)
    assert config == taken == {"a": {"b": [1, [2]]}}


@pytest.mark.parametrize("tree", [{"a": object()}, {1: 2}, {"a": {None: 1}}, {"a": [{1, 2}]}])
def test_only_plain_values(tree):
    with pytest.raises(ValueError):
        Config.from_dict(tree)


def test_describe_names_every_value_and_its_origin(write):
    path = write()
    text = load_config(path, ["trainer_cfg.seed=5"]).describe()
    assert "trainer_cfg.seed: 5  # override 'trainer_cfg.seed=5'" in text
    assert f"model_cfg.model: Tiny  # {path.as_posix()}:2" in text
    assert "optimizer_cfg.lr: 0.1  # " in text
    assert "trainer_cfg.sampler.batch_size: [8, 16]  # " in text
