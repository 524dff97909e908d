"""Typed settings of the networks: what `model_cfg` may hold, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opengait.registry import nearest


class Settings(BaseModel):
    """Base of every group of keys; a key that is not declared is an error."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ModelSettings(Settings):
    """Base of a network's `Settings`."""

    model: str = ""
    """Registered name of the network."""


class SeparateFCsSettings(Settings):
    """One linear map per part."""

    parts_num: int = Field(gt=0)
    """Parts p (horizontal strips) that come out of the pyramid."""
    in_channels: int = Field(gt=0)
    """Channels of each part before the map."""
    out_channels: int = Field(gt=0)
    """Channels of each part after the map."""
    norm: bool = False
    """Whether each weight column is scaled to unit length."""


class SeparateBNNecksSettings(Settings):
    """One batch norm and one classifier per part."""

    class_num: int = Field(gt=0)
    """Classes k: subjects of the training set."""
    in_channels: int = Field(gt=0)
    """Channels of each part."""
    parts_num: int = Field(gt=0)
    """Parts p (horizontal strips)."""
    norm: bool = True
    """Whether logits are cosines (features and classifier columns of unit length)."""
    parallel_BN1d: bool = True
    """Whether one batch norm holds all parts (else one a part; other keys, same map)."""


def fill_settings(owner: str, settings: type[BaseModel], model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """`model_cfg` as a plain mapping with every default filled in.

    Raises:
        ValueError: unknown, missing or ill-typed keys, all of them, each with the nearest valid name.
    """
    plain = model_cfg.to_dict() if hasattr(model_cfg, "to_dict") else dict(model_cfg)
    try:
        return settings.model_validate(plain).model_dump()
    except ValidationError as error:
        problems = [f"model_cfg of {owner}:"]
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                near = nearest(str(problem["loc"][-1]), _keys_at(settings, problem["loc"][:-1]))
                problems.append(f"{key}: unknown key" + (f" (did you mean '{near}'?)" if near else ""))
            elif problem["type"] == "missing":
                problems.append(f"{key}: missing")
            else:
                problems.append(f"{key}: {problem['msg']}" if key else problem["msg"])
        raise ValueError("\n  ".join(problems)) from error


def _keys_at(settings: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Declared keys of the group at a location such as ("SeparateFCs",)."""
    for part in location:
        field = settings.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        settings = field.annotation
    return list(settings.model_fields)
