"""OpenGait: train, evaluate and deploy gait-recognition networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opengait.config import Config, ConfigError, load_config
    from opengait.modeling.base_model import BaseModel
    from opengait.modeling.build import build_model
    from opengait.modeling.inputs import Inputs

__version__ = "0.1.0"

# Resolved when first read, so that `import opengait` costs nothing and needs no torch.
_EXPORTS = {
    "BaseModel": "opengait.modeling.base_model",
    "Config": "opengait.config",
    "ConfigError": "opengait.config",
    "Inputs": "opengait.modeling.inputs",
    "build_model": "opengait.modeling.build",
    "load_config": "opengait.config",
}

__all__ = ["BaseModel", "Config", "ConfigError", "Inputs", "__version__", "build_model", "load_config"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'opengait' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
