"""What happens beside the training loop, one concern a hook."""

from opengait.engine.hooks.base import Hook
from opengait.engine.hooks.checkpoint import CheckpointHook
from opengait.engine.hooks.evaluation import EvaluationHook
from opengait.engine.hooks.log import LogHook
from opengait.engine.hooks.nonfinite import NonFiniteError, NonFiniteHook
from opengait.engine.hooks.signals import SignalHook
from opengait.engine.hooks.tensorboard import TensorBoardHook

__all__ = [
    "CheckpointHook",
    "EvaluationHook",
    "Hook",
    "LogHook",
    "NonFiniteError",
    "NonFiniteHook",
    "SignalHook",
    "TensorBoardHook",
]
