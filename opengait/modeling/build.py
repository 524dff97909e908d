"""From a `model_cfg` to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opengait.modeling.base_model import BaseModel
from opengait.plugins import load_installed
from opengait.registry import MODELS


def build_model(
    model_cfg: Mapping[str, Any],
    *,
    training: bool = False,
    data_cfg: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> BaseModel:
    """The network that `model_cfg["model"]` names, initialised, on the CPU, in eval mode unless `training`.

    Args:
        config: the whole configuration of a run, whose other sections the network may read as `self.cfgs`.

    Raises:
        ValueError: unknown network, or keys that it does not take.
    """
    if "model" not in model_cfg:
        raise ValueError(f"model_cfg needs 'model', one of {', '.join(MODELS.names())}")
    if model_cfg["model"] not in MODELS:
        load_installed()
    cfgs = {**(config or {}), "model_cfg": model_cfg, "data_cfg": data_cfg or {}}
    return MODELS.get(model_cfg["model"])(cfgs, training)
