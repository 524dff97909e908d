"""What every network shares: construction, initialisation, and the hooks that the engine calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pydantic
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from opengait.modeling.inputs import Inputs
from opengait.modeling.message_manager import MessageManager
from opengait.modeling.overrides import RefusedError, check_overrides, not_here
from opengait.modeling.pretreatment import Pretreatment
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


@not_here
class BaseModel(nn.Module):
    """A gait network, built and run without a data set, a process group or a GPU.

    A subclass overrides `build_network` and `forward`; the other hooks where it needs to. `forward(inputs)` takes
    `Inputs` or a plain 5-tuple and returns a mapping with three keys, all present:
    `training_feat` {loss prefix: keyword arguments}, `visual_summary` {"image/..." or "scalar/...": tensor},
    `inference_feat` {"embeddings": `[n, c, p]`, ...}.

    What networks of the field read is there: `msg_mgr`, `iteration`, `cfgs`, `engine_cfg` (the section of the run),
    `save_path` (its folder), in training `optimizer` and `scheduler`. Of the reference implementation's other methods
    (`opengait.modeling.overrides`) each is refused when a class that overrides it is defined.

    Args:
        cfgs: the resolved configuration; only `model_cfg` (and `data_cfg`, where a network asks for it) is read.
        training: training mode after construction, else eval mode.

    Raises:
        ValueError: `model_cfg` has unknown, missing or contradictory keys.
    """

    Settings: ClassVar[type[pydantic.BaseModel] | None] = None
    """The keys of `model_cfg`; a network without it takes any."""

    ragged_testing: ClassVar[bool] = False
    """Whether test batches may hold sequences of different lengths, packed with `seqL`. Worth it for networks that look
    at frames one by one; the others are given batches of one length. A subclass says it for itself: its forward pass
    may not know of `seqL`."""

    # Given by the engine; until then reading one says so (`overrides.LATER_ATTRIBUTES`).
    engine_cfg: Mapping[str, Any]
    save_path: str
    optimizer: Optimizer
    scheduler: Any

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        check_overrides(cls, BaseModel)

    @classmethod
    def tests_ragged(cls) -> bool:
        """Whether this very class, not one that it derives from, sets `ragged_testing`."""
        return bool(vars(cls).get("ragged_testing", False))

    def __init__(self, cfgs: Mapping[str, Any], training: bool) -> None:
        super().__init__()
        self.cfgs = cfgs
        section = "trainer_cfg" if training else "evaluator_cfg"
        if section in cfgs:
            self.engine_cfg = cfgs[section]
        self.msg_mgr = MessageManager()
        self.iteration = 0
        self._pretreatment: Pretreatment | None = None
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
        if self.transforms_itself:
            self._pretreatment = pretreatment = Pretreatment(batch, transforms)
            try:
                return pretreatment.finished(self.inputs_pretreament(pretreatment.collated()))
            finally:
                self._pretreatment = None
        return Inputs(transforms(batch), batch.labels, batch.types, batch.views, batch.lengths)

    def inputs_pretreament(self, inputs: Sequence[Any]) -> Inputs:
        """The field's form of `prepare_inputs` (and its spelling), for networks that override it: called only then.

        Args:
            inputs: [data, labels, types, views, lengths]: for each modality a list of n arrays `[s, ...]` (packed: of
                one array), class indices, and names. The default applies the transforms to what it is given.
        """
        return self._in_pretreatment("inputs_pretreament").default(inputs)

    @property
    def trainer_trfs(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """Inside `inputs_pretreament`: one callable a modality, frames `[s, ...]` of one sequence -> float32 array."""
        return self._in_pretreatment("trainer_trfs").sequence_transforms()

    @property
    def evaluator_trfs(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """The same: the transforms of the section in use."""
        return self._in_pretreatment("evaluator_trfs").sequence_transforms()

    def _in_pretreatment(self, name: str) -> Pretreatment:
        if self._pretreatment is None:
            raise RefusedError(f"{type(self).__name__}.{name}: is there only inside inputs_pretreament, for its batch")
        return self._pretreatment

    def get_optimizer(self, optimizer_cfg: Mapping[str, Any]) -> Optimizer:
        """The optimiser; a network that overrides it reads `optimizer_cfg` itself. Groups alone: `parameter_groups`."""
        from opengait.engine.optimizer import default_optimizer  # here, since modeling stands below the engine

        return default_optimizer(optimizer_cfg, self)

    def get_scheduler(self, scheduler_cfg: Mapping[str, Any]) -> Any:
        """The schedule over `self.optimizer`, stepped once an iteration; whoever overrides it reads the section."""
        from opengait.engine.optimizer import default_scheduler

        return default_scheduler(scheduler_cfg, self.optimizer)

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
    def overrides(cls, method: str) -> bool:
        """Whether a class has a method of its own in place of the default."""
        return getattr(cls, method) is not getattr(BaseModel, method)

    @classmethod
    def _make_selectable(cls) -> None:
        if cls.__name__ not in MODELS:
            MODELS.register(cls)

    @property
    def transforms_itself(self) -> bool:
        """Whether `inputs_pretreament` is overridden, and so has to be given frames that nothing has changed."""
        return self.overrides("inputs_pretreament")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device
