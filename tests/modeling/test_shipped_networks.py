"""The networks of the shipped recipes have the published numbers of parameters."""

from __future__ import annotations

import pytest
import torch

from opengait import build_model, load_config

PARAMETERS = {
    "baseline/baseline_casiab": 3_779_136,
    "baseline/baseline_gait3d": 26_999_872,
    "baseline/baseline_grew": 84_148_000,
    "baseline/baseline_hid": 12_730_432,
    "baseline/baseline_oumvlp": 44_112_928,
    "gaitbase/gaitbase_casiae": 7_821_504,
    "gaitbase/gaitbase_ccpg": 7_411_904,
    "gaitbase/gaitbase_oumvlp": 28_108_992,
    "gaitset/gaitset": 2_594_592,
    "gaitset/gaitset_casiae": 6_313_536,
    "gaitset/gaitset_grew": 6_313_536,
    "gaitset/gaitset_oumvlp": 6_313_536,
    "gaitssb/gaitssb_finetune_casiab": 29_339_840,
    "gaitssb/gaitssb_finetune_gait3d": 29_339_840,
    "gaitssb/gaitssb_finetune_grew": 29_339_840,
    "gaitssb/gaitssb_finetune_oumvlp": 29_339_840,
    "gln/gln_phase1": 8_541_984,
    "gln/gln_phase2": 14_703_904,
    "smplgait/smplgait": 27_110_976,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_recipe_has_the_published_size(name: str) -> None:
    config = load_config(f"configs/{name}.yaml")
    with torch.device("meta"):
        model = build_model(config["model_cfg"], data_cfg=config["data_cfg"])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert config["trainer_cfg"]["total_iter"] == config["evaluator_cfg"]["restore_hint"]
    assert config["trainer_cfg"]["save_name"] == config["evaluator_cfg"]["save_name"]
