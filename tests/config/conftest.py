"""Small components that the config tests choose from, so that they speak of the config room alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from opengait.config import components, sampler
from opengait.registry import Registry

MINIMAL = {
    "model_cfg": {
        "model": "Tiny",
        "in_channels": [1, 4, 8, 8],
        "SeparateFCs": {"in_channels": 8, "out_channels": 16, "parts_num": 62},
    }
}


class HeadSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    in_channels: int
    out_channels: int
    parts_num: int
    norm: bool = False


class Tiny:
    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        in_channels: list[int]
        SeparateFCs: HeadSettings
        bin_num: tuple[int, ...] = (16, 8, 4, 2, 1)


class Free:
    """A user's model that declares no keys."""


class TripletLoss:
    def __init__(self, margin: float, loss_term_weight: float = 1.0) -> None: ...


class CrossEntropyLoss:
    def __init__(
        self, scale: float = 16, label_smooth: bool = True, eps: float = 0.1, loss_term_weight: float = 1.0
    ) -> None: ...


class BaseSilTransform:
    def __init__(self, divsor: float = 255.0, img_shape: tuple[int, int] | None = None) -> None: ...


class BaseSilCuttingTransform:
    def __init__(self, divsor: float = 255.0, cutting: int | None = None) -> None: ...


class Compose:
    def __init__(self, trf_cfg: list[Any]) -> None: ...


class TripletSampler:
    def __init__(self, dataset: object, batch_size: list[int], batch_shuffle: bool = False) -> None: ...


class InferenceSampler:
    def __init__(self, dataset: object, batch_size: int) -> None: ...


def registry_of(kind: str, *entries: Any) -> Registry:
    registry = Registry(kind, {})
    for entry in entries:
        registry.register(entry)
    return registry


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the small components into the registries that the config room looks into."""
    samplers = registry_of("sampler", TripletSampler, InferenceSampler)
    monkeypatch.setattr(components, "MODELS", registry_of("model", Tiny, Free))
    monkeypatch.setattr(components, "LOSSES", registry_of("loss", TripletLoss, CrossEntropyLoss))
    transforms = registry_of("transform", BaseSilTransform, BaseSilCuttingTransform, Compose)
    monkeypatch.setattr(components, "TRANSFORMS", transforms)
    monkeypatch.setattr(sampler, "SAMPLERS", samplers)


@pytest.fixture
def write(tmp_path: Path, fakes: None) -> Callable[..., Path]:
    """Writes a config file: a text as it is, a mapping as YAML over the minimal experiment."""

    def make(content: str | dict[str, Any] | None = None, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str):
            content = yaml.safe_dump({**MINIMAL, **(content or {})}, sort_keys=False)
        path.write_text(content)
        return path

    return make
