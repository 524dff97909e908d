"""Every key that a config of the reference implementation may hold is taken, warned about as dead, or refused in words.

The names come from the shared description of that implementation, so that none of them can be forgotten here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opengait import ConfigError, load_config
from opengait.registry import MODELS, TRANSFORMS

Shared = Callable[[str], Path]
ROOT = Path(__file__).resolve().parent.parent.parent
BASE = "configs/gaitset/gaitset.yaml"
DEAD = "warned about"

CE = {"type": "CrossEntropyLoss", "log_prefix": "softmax"}
CUT = {"type": "BaseSilCuttingTransform"}
FIXED = {"type": "TripletSampler", "batch_size": [2, 2], "sample_type": "fixed_ordered", "frames_num_fixed": 4,
         "frames_skip_num": 2}  # fmt: skip
UNFIXED = {"type": "TripletSampler", "batch_size": [2, 2], "sample_type": "unfixed_unordered", "frames_num_min": 3,
           "frames_num_max": 5}  # fmt: skip

# (overrides, None where the key is taken, DEAD, or words of the refusal)
Sample = tuple[dict[str, Any], str | None]


def plain(section: str, **values: Any) -> dict[str, Sample]:
    return {key: ({f"{section}.{key}": value}, None) for key, value in values.items()}


def dead(section: str, **values: Any) -> dict[str, Sample]:
    return {key: ({f"{section}.{key}": value}, DEAD) for key, value in values.items()}


def losses(**entries: dict[str, Any]) -> dict[str, Sample]:
    return {key: ({"loss_cfg": [entry]}, None) for key, entry in entries.items()}


def samplers(**entries: dict[str, Any]) -> dict[str, Sample]:
    return {key: ({"trainer_cfg.sampler": entry}, None) for key, entry in entries.items()}


SAMPLES: dict[str, dict[str, Sample]] = {
    "2. data_cfg": {
        **plain("data_cfg", dataset_name="OUMVLP", dataset_root="data", dataset_partition="a.json", num_workers=4,
                cache=True, test_dataset_name="OUMVLP", data_in_use=[True, False], self_supervised=True,
                remove_no_gallery=True),
        **dead("data_cfg", frame_threshold=16, train_data_preload="a"),
    },
    "4. loss_cfg": {
        **losses(type=CE, log_prefix=CE, loss_term_weight=CE | {"loss_term_weight": 0.1}, scale=CE | {"scale": 1},
                 label_smooth=CE | {"label_smooth": False}, eps=CE | {"eps": 0.2},
                 log_accuracy=CE | {"log_accuracy": True},
                 margin={"type": "TripletLoss", "log_prefix": "triplet", "margin": 0.3},
                 temperature={"type": "SupConLoss_Re", "log_prefix": "a", "temperature": 0.01, "loss_term_weight": 1}),
        **dead("loss_cfg", gather_and_scale=True, loss_term_weights=1.0, lazy=False),
    },
    "6. trainer_cfg": {
        **plain("trainer_cfg", save_name="a", total_iter=10, save_iter=5, log_iter=2, enable_float16=False,
                sync_BN=True, fix_BN=True, with_test=True, find_unused_parameters=True, restore_hint="a.pt",
                restore_ckpt_strict=False, optimizer_reset=True, scheduler_reset=True, transform=[None, CUT]),
        **samplers(sampler=FIXED),
        **dead("trainer_cfg", fix_layers=True, enable_distributed=True),
        "T_max_iter": ({"trainer_cfg.T_max_iter": 10}, "GaitSet does not"),
    },
    "7. evaluator_cfg": {
        **plain("evaluator_cfg", save_name="a", restore_hint=40000, restore_ckpt_strict=False, enable_float16=True,
                eval_func="evaluate_Gait3D", metric="cos", cross_view_gallery=True, rerank=False, transform=[CUT, None],
                sampler={"type": "InferenceSampler", "sample_type": "all_ordered", "batch_size": 16}),
        **dead("evaluator_cfg", enable_distributed=True),
    },
    "8. sampler": {
        **samplers(type=FIXED | {"type": "CommonSampler", "batch_size": 8}, batch_size=FIXED | {"batch_size": [8, 16]},
                   batch_shuffle=FIXED | {"batch_shuffle": True}, sample_type=FIXED, frames_num_fixed=FIXED,
                   frames_num_min=UNFIXED, frames_num_max=UNFIXED, frames_skip_num=FIXED),
        "frames_all_limit": ({"evaluator_cfg.sampler.frames_all_limit": 720}, None),
        "points_in_use": ({"trainer_cfg.sampler.points_in_use": {"pointcloud_index": 0}}, "not supported"),
    },
}  # fmt: skip
NETWORK_KEYS = {
    "Baseline": "backbone_cfg SeparateFCs SeparateBNNecks bin_num",
    "GaitSet": "in_channels SeparateFCs bin_num",
    "GaitPart": "backbone_cfg SeparateFCs bin_num",
    "GaitGL": "channels class_num SeparateBNNecks",
    "GLN": "in_channels hidden_dim lateral_dim Lateral_pretraining dropout class_num SeparateFCs bin_num",
    "SMPLGait": "backbone_cfg SeparateFCs SeparateBNNecks bin_num",
    "Segmentation": "backbone_cfg",
    "GaitEdge": "GaitGL Segmentation edge align seg_lr kernel_size",
    "DeepGaitV2": "Backbone SeparateBNNecks use_emb2",
    "GaitSSB_Pretrain": "backbone_cfg parts_num",
    "GaitSSB_Finetune": "backbone_cfg parts_num backbone_lr projector_lr",
}


@pytest.fixture(scope="module")
def page(shared: Shared) -> str:
    return shared("spec/framework/config.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    (found,) = [part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(heading)]
    return found


def keys_of(text: str) -> list[str]:
    """Names in the first column of the tables."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize("heading", SAMPLES)
def test_every_key_is_looked_at(page: str, heading: str) -> None:
    assert sorted(SAMPLES[heading]) == sorted(keys_of(section(page, heading)))


@pytest.mark.parametrize(
    ("overrides", "outcome"),
    [pytest.param(*one, id=f"{heading}: {key}") for heading, keys in SAMPLES.items() for key, one in keys.items()],
)
def test_every_key_is_taken_warned_about_or_refused_in_words(overrides: dict[str, Any], outcome: str | None) -> None:
    (place,) = overrides
    if outcome in (None, DEAD):
        config = load_config(BASE, overrides)
        assert [warning.key for warning in config.warnings] == ([] if outcome is None else [place])
        return
    with pytest.raises(ConfigError) as caught:
        load_config(BASE, overrides)
    assert [problem.key for problem in caught.value.problems] == [place]
    assert outcome in str(caught.value)


def test_the_list_forms(page: str) -> None:
    with pytest.raises(ConfigError, match="a list of data sets, which GaitSet does not take"):
        load_config(BASE, {"data_cfg": [{"dataset_name": "a"}]})
    with pytest.raises(ConfigError, match="loss_cfg: no loss"):
        load_config(BASE, {"loss_cfg": []})
    hints = {"trainer_cfg.restore_hint": ["a.pt", 10]}
    assert load_config("configs/gaitedge/phase2_gaitedge.yaml", hints).trainer_cfg.restore_hint == ["a.pt", 10]


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer_cfg": {"solver": "Adam", "lr": 1e-4}},
        {"optimizer_cfg": {"solver": "AdamW", "lr": 3e-4, "weight_decay": 0.02}},
        {"scheduler_cfg": {"scheduler": "OneCycleLR", "max_lr": 0.1, "total_steps": 40000, "pct_start": 0.3,
                           "div_factor": 25, "final_div_factor": 10000, "three_phase": True}},
        {"scheduler_cfg": {"scheduler": "CosineAnnealingLR", "T_max": 40000, "eta_min": 1e-5}},
    ],
    ids=str,
)  # fmt: skip
def test_optimisers_and_schedules(values: dict[str, Any]) -> None:
    assert not load_config(BASE, values).warnings


def test_evaluation_functions(page: str) -> None:
    row = next(line for line in section(page, "7.").splitlines() if line.startswith("| `eval_func`"))
    named = set(re.findall(r"\b(?:evaluate_\w+|\w+_submission|mean_iou)\b", row))
    assert len(named) == 11
    refused = {name for name in named if f"`{name}`" in listed_as_refused()}
    assert refused == {"mean_iou"}
    for name in named - refused:
        assert load_config(BASE, {"evaluator_cfg.eval_func": name}).evaluator_cfg.eval_func == name
    for name in refused:
        with pytest.raises(ConfigError, match=f"unknown evaluation function '{name}'"):
            load_config(BASE, {"evaluator_cfg.eval_func": name})


def test_networks_and_their_keys(page: str) -> None:
    rows = section(page, "3.").partition("Model-specific keys")[2].splitlines()
    named = {name for row in rows if row.startswith("| ") for name in re.findall(r"(\w+\*?) \(\d", row.split("|")[1])}
    assert {"GaitSet", "SwinGait", "LidarGaitPlusPlus"} <= named
    assert {name for name in named if name not in MODELS and "FoundationGait" not in name} <= set(
        re.findall(r"\w+", listed_as_refused())
    )
    assert set(NETWORK_KEYS) == set(MODELS._modules)
    for name, keys in NETWORK_KEYS.items():
        assert set(keys.split()) <= set(MODELS.get(name).Settings.model_fields), name
    for key in ("test_da", "eroded_kernel", "diffusion_ckpt"):
        assert [warning.key for warning in load_config(BASE, {f"model_cfg.{key}": 1}).warnings] == [f"model_cfg.{key}"]


def test_transforms_and_samplers(shared: Shared) -> None:
    page = shared("spec/framework/data.md").read_text(encoding="utf-8")
    text = section(page, "7. Transforms")
    named = {row.split("|")[1].split("(")[0].strip() for row in text.splitlines() if row.startswith("| ")}
    named |= set(re.findall(r"### Points .*?(PointCloudsTransform)", text))
    named -= {"Name", "null / list"}
    assert len(named) > 25
    refused = set(re.findall(r"\w+", listed_as_refused()))
    for name in named:
        assert (name in TRANSFORMS) != (name in refused), name
    for kind in ("BaseSilCuttingTransform", "BaseParsingCuttingTransform"):
        config = load_config(BASE, {"trainer_cfg.transform": [{"type": kind, "img_w": 64}]})
        assert [warning.key for warning in config.warnings] == ["trainer_cfg.transform.0.img_w"]


def listed_as_refused() -> str:
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    return text.partition("## What is refused of its files")[2].partition("- **networks**")[2]


FAULTS = {
    "Configuration": "framework/config.md",
    "Data": "framework/data.md",
    "Training and testing": "framework/engine.md",
    "Evaluation": "framework/evaluation.md",
    "Preparation of data sets": "framework/datasets.md",
}


@pytest.mark.parametrize("title", FAULTS)
def test_every_known_fault_is_in_the_document(shared: Shared, title: str) -> None:
    page = shared(f"spec/{FAULTS[title]}").read_text(encoding="utf-8")
    known = re.findall(r"^\| (\d+) \|", page.partition("Known faults of the reference")[2], re.MULTILINE)
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8").partition(f"### {title}\n")[2]
    rows = [line for line in text.partition("\n##")[0].splitlines() if re.match(r"\| \d", line)]
    assert [row.split("|")[1].strip() for row in rows] == known
    for row in rows:
        assert len(row.split("|")) == 7, row
