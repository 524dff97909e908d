"""What every network shares: construction, initialisation, and the hooks that the engine calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pydantic
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from opengait.modeling.inputs import Inputs
from opengait.modeling.settings import fill_settings
from opengait.registry import BACKBONES, MODELS

CONVOLUTIONS_AND_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

GatherTargets = Callable[[Tensor], tuple[Tensor, int]]


def own_targets(targets: Tensor) -> tuple[Tensor, int]:
    """What a network contrasts its sequences with, [n, ...] -> those of the whole batch [m, ...] without gradient, and
    the place of this process's first. Here: those of one process. With several, the engine puts its own function into
    `BaseModel.gather_targets`."""
    return targets.detach(), 0


class BaseModel(nn.Module):
    """A gait network, built and run without a data set, a process group or a GPU.

    A subclass overrides `build_network` and `forward`; the other hooks where it needs to. `forward(inputs)` takes
    `Inputs` or a plain 5-tuple and returns a mapping with three keys, all present:
    `training_feat` {loss prefix: keyword arguments}, `visual_summary` {"image/..." or "scalar/...": tensor},
    `inference_feat` {"embeddings": `[n, c, p]`, ...}.

    Args:
        cfgs: the resolved configuration; only `model_cfg` (and `data_cfg`, where a network asks for it) is read.
        training: training mode after construction, else eval mode.

    Raises:
        ValueError: `model_cfg` has unknown, missing or contradictory keys.
    """

    Settings: ClassVar[type[pydantic.BaseModel] | None] = None
    """The keys of `model_cfg`; a network without it takes any."""

    def __init__(self, cfgs: Mapping[str, Any], training: bool) -> None:
        super().__init__()
        self.cfgs = cfgs
        self.iteration = 0
        self.gather_targets: GatherTargets = own_targets
        model_cfg = cfgs["model_cfg"]
        if self.Settings is not None:
            model_cfg = fill_settings(type(self).__name__, self.Settings, model_cfg)
        self.build_network(model_cfg)
        self.init_parameters()
        self.train(training)

    # -- hooks of the network -------------------------------------------------------------------------------------

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        """Makes the layers. The default builds `self.Backbone` if `backbone_cfg` is there."""
        if "backbone_cfg" in model_cfg:
            self.Backbone = self.get_backbone(model_cfg["backbone_cfg"])

    def init_parameters(self) -> None:
        """Convolutions and linear maps: Xavier-uniform, bias 0. Batch norms: weight N(1, 0.02), bias 0.

        Raw parameters (`fc_bin`, GeM powers ...) keep what their layer's constructor gave them.
        """
        for module in self.modules():
            if isinstance(module, CONVOLUTIONS_AND_LINEAR):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, BATCH_NORMS) and module.affine:
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} has to define forward(inputs)")

    def check_frame_size(self, height: int, width: int) -> None:
        """Called before the first iteration with the size of the transformed frames.

        Raises:
            ValueError: the network cannot take such frames; the message says what to change.
        """

    def get_backbone(self, backbone_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> nn.Module:
        """The backbone that a mapping names (`type` and its arguments); for a list of mappings, a ModuleList.

        Raises:
            ValueError: no such backbone, or `type` is missing.
        """
        if isinstance(backbone_cfg, Mapping):
            if "type" not in backbone_cfg:
                raise ValueError(f"backbone_cfg needs 'type', one of {', '.join(BACKBONES.names())}")
            arguments = {key: value for key, value in backbone_cfg.items() if key != "type"}
            return BACKBONES.get(backbone_cfg["type"])(**arguments)
        return nn.ModuleList([self.get_backbone(one) for one in backbone_cfg])

    # -- hooks of the engine --------------------------------------------------------------------------------------

    def prepare_inputs(self, batch: Any, transforms: Any) -> Inputs:
        """A batch of raw frames -> what `forward` takes. Override it to join modalities or to make several views."""
        return Inputs(transforms(batch), batch.labels, batch.types, batch.views, batch.lengths)

    def parameter_groups(self, optimizer_cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; the default is one group of all that need a gradient."""
        parameters: list[Tensor] = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": parameters}]

    def before_iteration(self, optimizer: Optimizer) -> None:
        """Called before every training iteration, when `self.iteration` others are done, with the optimiser.

        For networks that steer learning rates beside the schedule; the default leaves everything as it is.
        """

    @classmethod
    def run_train(cls, cfgs: Mapping[str, Any], **options: Any) -> Any:
        """Trains this network as the configuration says (`opengait.engine.train`)."""
        from opengait.engine import train  # here, since modeling stands below the engine

        cls._make_selectable()
        return train(cfgs, **options)

    @classmethod
    def run_test(cls, cfgs: Mapping[str, Any], **options: Any) -> Any:
        """Tests a checkpoint of this network as the configuration says (`opengait.engine.test`)."""
        from opengait.engine import test

        cls._make_selectable()
        return test(cfgs, **options)

    @classmethod
    def _make_selectable(cls) -> None:
        if cls.__name__ not in MODELS:
            MODELS.register(cls)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
