"""Every shipped YAML is a valid config, wherever the program is started."""

from __future__ import annotations

import pytest
import yaml

from opengait.config import ConfigError, load_config, schema, shipped

CONFIGS = shipped.find("configs")
EXPERIMENTS = sorted(path.relative_to(CONFIGS.parent).as_posix() for path in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "configs/default.yaml"])
def test_shipped_experiment_is_valid(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert not config.warnings
    assert set(config) == set(schema.SECTIONS)


def test_defaults_name_every_section():
    defaults = yaml.safe_load(shipped.find("configs/default.yaml").read_text())
    assert list(defaults) == list(schema.SECTIONS)


def test_defaults_are_those_of_the_schema():
    defaults = yaml.safe_load(shipped.find("configs/default.yaml").read_text())
    for name, section in (("trainer_cfg", schema.TrainerSection), ("evaluator_cfg", schema.EvaluatorSection)):
        for key, value in defaults[name].items():
            field = section.model_fields[key]
            assert field.is_required() or field.default == value, f"{name}.{key}"


def test_every_field_says_what_it_is():
    for section in (schema.DataSection, schema.SamplerSection, schema.TrainerSection, schema.EvaluatorSection):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_a_backbone_is_bound_to_its_class():
    backbone = {"type": "ResNet9", "block": "BasicBlock", "channel": [64, 128, 256, 512]}
    with pytest.raises(ConfigError) as caught:
        load_config("configs/default.yaml", {"model_cfg": {"backbone_cfg": backbone}})
    said = str(caught.value)
    assert "model_cfg.backbone_cfg: unknown key 'channel' for ResNet9 (did you mean 'channels'?)" in said
    assert "model_cfg.SeparateFCs: missing" in said


def test_a_schedule_may_have_a_rate_for_each_parameter_group():
    rates = [0.1, 0.2, 0.3]
    cycle = {"scheduler": "OneCycleLR", "max_lr": rates, "total_steps": 20000}
    config = load_config("configs/gaitedge/phase2_gaitedge.yaml", {"scheduler_cfg": cycle})
    assert config["scheduler_cfg"]["max_lr"] == rates
    schedule = {"scheduler": "CyclicLR", "base_lr": [0.1, 0.2], "max_lr": rates}
    with pytest.raises(ConfigError, match="scheduler_cfg: CyclicLR refuses its arguments"):
        load_config("configs/gaitedge/phase2_gaitedge.yaml", {"scheduler_cfg": schedule})
