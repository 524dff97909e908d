"""Training and test engine: `train(config, ...)`, `test(config, ...)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opengait.engine.run import test, train
    from opengait.engine.trainer import Trainer, TrainResult

__all__ = ["TrainResult", "Trainer", "test", "train"]

_HOMES = {"train": "run", "test": "run", "Trainer": "trainer", "TrainResult": "trainer"}


def __getattr__(name: str) -> Any:
    """Imported where first asked for: `import opengait.engine` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
