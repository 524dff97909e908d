"""GaitSSB: Learning Gait Representation from Massive Unlabelled Walking Videos (Fan et al., TPAMI 2023).

arXiv 2206.13964. Pretraining tells sequences apart without labels, from two views of each; fine-tuning goes on with
labels.
Shapes: n sequences, s frames, h x w pixels, c channels, p parts; m sequences of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import (
    HorizontalPoolingPyramid,
    PackSequenceWrapper,
    ParallelBN1d,
    SeparateFCs,
    SetBlockWrapper,
    full_precision,
)
from opengait.modeling.modules.precision import no_autocast
from opengait.modeling.settings import ModelSettings

WIDTHS = (44, 88)
STAGES = 4
LOWEST_RATE = 1e-4


class GaitSSBSettings(ModelSettings):
    """Keys of `model_cfg` that both networks have."""

    backbone_cfg: dict[str, Any]
    """The backbone (ResNet9): `type` and its arguments."""
    parts_num: int = Field(gt=0)
    """Parts p of the horizontal pyramid 16, 8, 4, 2, 1."""


class FinetuneSettings(GaitSSBSettings):
    """Keys of `model_cfg` of fine-tuning."""

    backbone_lr: list[float] = Field(min_length=STAGES, max_length=STAGES)
    """Learning rate of each stage of the backbone; 0 freezes it."""
    projector_lr: float = Field(gt=0)
    """Learning rate of the projector."""


class _GaitSSB(BaseModel):
    """The part that both share: backbone, pooling, projector."""

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        channels, parts = model_cfg["backbone_cfg"]["channels"][-1], model_cfg["parts_num"]
        self.Backbone = SetBlockWrapper(self.get_backbone(model_cfg["backbone_cfg"]))
        self.projector = nn.Sequential(
            SeparateFCs(parts, channels, channels),
            ParallelBN1d(parts, channels),
            nn.ReLU(inplace=True),
            SeparateFCs(parts, channels, channels),
            ParallelBN1d(parts, channels),
        )
        self.TP = PackSequenceWrapper(torch.max)
        self.HPP = HorizontalPoolingPyramid()
        self.build_head(parts, channels)

    def build_head(self, parts: int, channels: int) -> None:
        """What stands behind the projector."""
        raise NotImplementedError

    def _project(self, maps: Tensor, seqL: Tensor | None) -> Tensor:
        """Maps of frames [n, c, s, h, w] -> [n, c, p]."""
        of_sequence = self.TP(maps, seqL, options={"dim": 2})[0]
        return self.projector(self.HPP(of_sequence))

    def check_frame_size(self, height: int, width: int) -> None:
        """Bodies are 44 or 88 pixels wide; other widths are usually frames whose sides were not cut."""
        if width not in WIDTHS:
            raise ValueError(
                f"frames are {height}x{width}, and GaitSSB takes them 44 or 88 wide; BaseSilCuttingTransform makes "
                "64x44 of 64x64"
            )


class GaitSSB_Pretrain(_GaitSSB):
    """Predicts one view of a sequence from the other, and tells it from all other sequences of the batch.

    Training takes two views of the same sequences, `ipts = [q, k]`: the batch of BilateralSampler cut in the middle.
    What is predicted (the targets) has no gradient, and comes from the sequences of all processes.
    """

    Settings = GaitSSBSettings
    ragged_testing = True

    def build_head(self, parts: int, channels: int) -> None:
        self.predictor = nn.Sequential(
            SeparateFCs(parts, channels, channels),
            ParallelBN1d(parts, channels),
            nn.ReLU(inplace=True),
            SeparateFCs(parts, channels, channels),
        )

    def prepare_inputs(self, batch: Any, transforms: Any) -> Inputs:
        """A training batch [q sequences, then the same as k] becomes two views; a test batch stays as it is.

        Raises:
            ValueError: a training batch that cannot be cut in the middle.
        """
        inputs = super().prepare_inputs(batch, transforms)
        if not self.training:
            return inputs
        views, indices = inputs.ipts[0], batch.indices
        half = len(views) // 2
        if inputs.seqL is not None or not torch.equal(indices[:half], indices[half:]):
            raise ValueError(
                "GaitSSB_Pretrain trains on two views of each sequence, of one length: set trainer_cfg.sampler.type "
                "to BilateralSampler and sample_type to fixed_ordered"
            )
        labels, types, walks = batch.labels[:half], batch.types[:half], batch.views[:half]
        return Inputs([views[:half], views[half:]], labels, types, walks)

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: in training two views [n, s, h, w] each; in testing silhouettes, packed [1, sum of lengths, h, w].

        Raises:
            ValueError: training on another number of views, or frames that are neither 44 nor 88 wide.
        """
        ipts, _, _, _, seqL = inputs
        if not self.training:
            _, prediction = self._encode(ipts[0], seqL)
            embeddings = F.normalize(prediction, dim=1)
            return {"training_feat": {}, "visual_summary": {}, "inference_feat": {"embeddings": embeddings}}
        if len(ipts) != 2:
            raise ValueError(f"GaitSSB_Pretrain trains on two views of each sequence, found {len(ipts)}")
        # One view after the other, so that batch statistics are those of a view.
        target_q, prediction_q = self._encode(ipts[0], seqL)
        target_k, prediction_k = self._encode(ipts[1], seqL)
        return {
            "training_feat": {
                "softmax1": self._contrast(prediction_q, target_k),
                "softmax2": self._contrast(prediction_k, target_q),
            },
            "visual_summary": {
                "image/encoder_q": ipts[0].flatten(0, 1).unsqueeze(1),
                "image/encoder_k": ipts[1].flatten(0, 1).unsqueeze(1),
            },
            "inference_feat": {},
        }

    def _encode(self, sils: Tensor, seqL: Tensor | None) -> tuple[Tensor, Tensor]:
        """[n, s, h, w] -> projection and prediction, each [n, c, p]."""
        self.check_frame_size(*sils.shape[-2:])
        projection = self._project(self.Backbone(sils.unsqueeze(1)), seqL)
        return projection, self.predictor(projection)

    def _contrast(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """[n, c, p] each -> logits [n, m, p] of own predictions and all targets, and the place of each own target."""
        targets, first = self.gather_targets(F.normalize(target, dim=1).detach())
        labels = first + torch.arange(len(prediction), device=prediction.device)
        return {"logits": cosine_logits(prediction, targets), "labels": labels}


class GaitSSB_Finetune(_GaitSSB):
    """The pretrained backbone and projector, and a cosine map of each part that triplets train.

    The stem never learns; each stage of the backbone has its own learning rate, and 0 freezes it. Restore the
    pretrained checkpoint with `restore_ckpt_strict: false`.
    """

    Settings = FinetuneSettings
    ragged_testing = True

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        super().build_network(model_cfg)
        self.backbone_lr = list(model_cfg["backbone_lr"])
        self.projector_lr = model_cfg["projector_lr"]

    def build_head(self, parts: int, channels: int) -> None:
        self.head0 = SeparateFCs(parts, channels, channels, norm=True)

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w], packed [1, sum of lengths, h, w].

        Raises:
            ValueError: frames that are neither 44 nor 88 wide.
        """
        ipts, labs, _, _, seqL = inputs
        sils = ipts[0].unsqueeze(1)  # [n, 1, s, h, w]
        self.check_frame_size(*sils.shape[-2:])
        learns = [False, *(rate > 0 for rate in self.backbone_lr)]  # the stem first
        projection = self._project(self.Backbone(sils, learns), seqL)
        embeddings = self.head0(F.normalize(projection, dim=1))  # [n, c, p], cosines
        return {
            "training_feat": {"triplet": {"embeddings": embeddings, "labels": labs}},
            "visual_summary": {"image/sils": sils.transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": embeddings},
        }

    def parameter_groups(self, optimizer_cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Each stage that learns at its own rate, the projector at its own, the head at `optimizer_cfg.lr`."""
        stages = [self.Backbone.get_submodule(f"forward_block.layer{number}") for number in range(1, STAGES + 1)]
        groups = [
            {"params": list(stage.parameters()), "lr": rate}
            for stage, rate in zip(stages, self.backbone_lr, strict=True)
            if rate > 0
        ]
        groups.append({"params": list(self.projector.parameters()), "lr": self.projector_lr})
        groups.append({"params": list(self.head0.parameters())})
        return groups

    def before_iteration(self, optimizer: Optimizer) -> None:
        """Every 1000 iterations, rates that the schedule has brought below 1e-4 go back to it."""
        if self.iteration % 1000 == 0:
            for group in optimizer.param_groups:
                group["lr"] = max(group["lr"], LOWEST_RATE)


def cosine_logits(prediction: Tensor, targets: Tensor) -> Tensor:
    """Cosine of every prediction [n, c, p] and every target [m, c, p], part by part: [n, m, p]."""
    with no_autocast(prediction):
        prediction = F.normalize(full_precision(prediction), dim=1)
        targets = F.normalize(full_precision(targets), dim=1)
        return torch.einsum("ncp,mcp->nmp", prediction, targets)
