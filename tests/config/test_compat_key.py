"""`compat: reference` reaches every component that takes it, and can be found again in the resolved config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from opengait import Config, ConfigError, load_config
from opengait.config.compat import in_use, said
from opengait.registry import LOSSES

PLACES = ["trainer_cfg.compat", "trainer_cfg.sampler.compat", "evaluator_cfg.sampler.compat", "compat"]
AUGMENTED = "configs/gaitbase/gaitbase_da_gait3d.yaml"


def test_without_it_nothing_is_in_use() -> None:
    for overrides in ([], ["compat=null"], ["trainer_cfg.compat=null"]):
        config = load_config(AUGMENTED, overrides)
        assert in_use(config) == []
        assert "compat" not in config


def test_one_key_reaches_every_component() -> None:
    config = load_config(AUGMENTED, ["compat=reference"])
    steps = config.trainer_cfg.transform[0].trf_cfg
    rotation = [number for number, step in enumerate(steps) if step.type == "RandomRotate"]
    assert len(rotation) == 1
    assert sorted(in_use(config)) == sorted([*PLACES, f"trainer_cfg.transform.0.trf_cfg.{rotation[0]}.compat"])
    assert config.origin("trainer_cfg.compat") == "override 'compat=reference'"
    plain = load_config(AUGMENTED).to_dict()
    assert {key: value for key, value in config.to_dict()["trainer_cfg"].items() if key not in ("compat", "sampler",
            "transform")} == {key: value for key, value in plain["trainer_cfg"].items()
                              if key not in ("compat", "sampler", "transform")}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("gln/gln_phase2.yaml", "model_cfg.compat"),
        ("gaitssb/gaitssb_pretrain.yaml", "trainer_cfg.transform.0.compat"),
    ],
)
def test_networks_and_whole_recipes_of_augmentation(name: str, place: str) -> None:
    assert sorted(in_use(load_config(name, ["compat=reference"]))) == sorted([*PLACES, place])


def test_single_components_can_have_it_alone() -> None:
    config = load_config(AUGMENTED, ["trainer_cfg.transform=[{type: RandomRotate, compat: reference}]"])
    assert in_use(config) == ["trainer_cfg.transform.0.compat"]
    assert in_use(load_config(AUGMENTED, ["trainer_cfg.sampler.compat=reference"])) == ["trainer_cfg.sampler.compat"]


def test_a_component_of_ones_own_that_takes_it_is_given_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        def __init__(self, compat: str | None = None, loss_term_weight: float = 1.0) -> None: ...

    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    LOSSES.register(Odd)
    losses = [{"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.2}, {"type": "Odd", "log_prefix": "odd"}]
    config = load_config("gaitset/gaitset.yaml", {"loss_cfg": losses, "compat": "reference"})
    assert config.to_dict()["loss_cfg"] == [losses[0], {**losses[1], "compat": "reference"}]


def test_a_resolved_config_is_a_config_file(tmp_path: Path) -> None:
    config = load_config(AUGMENTED, ["compat=reference"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(config.to_yaml())
    assert load_config(resolved) == config
    assert in_use(Config.from_dict(config.to_dict())) == in_use(config)
    assert in_use(yaml.safe_load(config.to_yaml())) == in_use(config)
    # Where a run without it was saved, its nulls do not stand in the way.
    resolved.write_text(load_config(AUGMENTED).to_yaml())
    assert in_use(load_config(resolved, ["compat=reference"])) == in_use(config)


def test_a_key_that_never_acted_does_not_act_then() -> None:
    overrides = ["data_cfg.remove_no_gallery=true"]
    assert load_config(AUGMENTED, overrides).data_cfg.remove_no_gallery is True
    config = load_config(AUGMENTED, [*overrides, "compat=reference"])
    assert config.data_cfg.remove_no_gallery is False
    assert [warning.key for warning in config.warnings] == ["data_cfg.remove_no_gallery"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("compat=refrence", ["compat: expected 'reference' or null", "did you mean 'reference'?"]),
        ("compat=true", ["compat: expected 'reference' or null, found true"]),
        ("compat={a: 1}", ["compat: expected 'reference' or null"]),
        ("trainer_cfg.compat=no", ["trainer_cfg.compat"]),
        ("trainer_cfg.sampler.compat=V1", ["trainer_cfg.sampler.compat", "'reference'"]),
        ("model_cfg.compat=reference", ["model_cfg", "unknown key 'compat'"]),
        ("evaluator_cfg.transform.0.compat=reference", ["unknown key 'compat'"]),
        ("compatt=reference", ["unknown section 'compatt'", "did you mean 'compat'?"]),
    ],
)
def test_mistakes(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(AUGMENTED, [override])
    for word in words:
        assert word in str(caught.value)


def test_mistakes_elsewhere_are_still_found_under_it() -> None:
    wrong: dict[str, Any] = {
        "compat": "reference",
        "loss_cfg": {"type": "Nothing"},
        "trainer_cfg.transform": [3, {"type": "Compose", "trf_cfg": 4}],
        "trainer_cfg.sampler": 5,
    }
    with pytest.raises(ConfigError) as caught:
        load_config(AUGMENTED, wrong)
    keys = {problem.key for problem in caught.value.problems}
    assert {"loss_cfg.type", "trainer_cfg.transform.0", "trainer_cfg.sampler"} <= keys


def test_what_is_said_names_the_places() -> None:
    text = said(in_use(load_config(AUGMENTED, ["trainer_cfg.compat=reference"])))
    assert text.startswith("compat: reference")
    assert text.endswith(": trainer_cfg.compat")
