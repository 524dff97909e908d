"""GaitEdge: Beyond Plain End-to-end Gait Recognition for Better Practicality (Liang et al., ECCV 2022,
arXiv 2203.03972).

Shapes: n sequences, s frames, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from opengait.modeling.inputs import Inputs
from opengait.modeling.models.gaitgl import GaitGL, GaitGLKeys
from opengait.modeling.models.segmentation import foreground
from opengait.modeling.modules import GaitAlign
from opengait.modeling.settings import ModelSettings

SIZE = (64, 44)  # of the silhouettes that GaitGL sees


class GaitEdgeSettings(ModelSettings):
    """Keys of `model_cfg`."""

    GaitGL: GaitGLKeys
    """The recognition network."""
    Segmentation: dict[str, Any]
    """The segmentation network: `type` (U_Net) and its arguments."""
    edge: bool
    """Gait synthesis: only a band along the edge of the given silhouette comes from the segmentation; else all does."""
    align: bool
    """Crop the person with GaitAlign; else the square frame is resized as it is."""
    seg_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the segmentation network; null is that of optimizer_cfg."""
    kernel_size: int = Field(default=3, gt=0)
    """Pixels k of the k x k element whose dilation and erosion bound the band; odd."""

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"{value} is even; the element is centred on a pixel, so its size is odd")
        return value


class GaitEdge(GaitGL):
    """A segmentation network in front of GaitGL, trained together by the losses of both."""

    Settings = GaitEdgeSettings
    takes_several_checkpoints = True  # those of segmentation and recognition, one after the other

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        super().build_network(model_cfg["GaitGL"])
        self.Backbone = self.get_backbone(model_cfg["Segmentation"])
        self.align = GaitAlign(*SIZE) if model_cfg["align"] else None
        self.edge = model_cfg["edge"]
        self.seg_lr = model_cfg["seg_lr"]
        self.kernel_size = model_cfg["kernel_size"]

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: ratios width / height of the person's box [n, s], RGB frames [n, s, 3, h, w], masks [n, s, h, w];
        packed [1, sum of lengths, ...]."""
        ipts, labs, typs, vies, seqL = inputs
        ratios, rgb, sils = ipts
        n, s = rgb.shape[:2]
        given = sils.flatten(0, 1).unsqueeze(1)  # [n s, 1, h, w]

        probability = foreground(self.Backbone, rgb)  # [n s, 1, h, w]
        if self.edge:
            frames, crop = self.synthesize(probability, given), given
        else:
            frames, crop = probability, probability.detach().round()
        if self.align is not None:
            roi = self.align(frames, crop, ratios)
        else:
            roi = F.interpolate(frames, SIZE, mode="bilinear", antialias=True)

        result = super().forward(Inputs([roi.view(n, s, *SIZE)], labs, typs, vies, seqL))
        result["training_feat"]["bce"] = {"logits": probability, "labels": given}
        result["visual_summary"]["image/roi"] = roi
        return result

    def synthesize(self, probability: Tensor, given: Tensor) -> Tensor:
        """The given silhouette with the probabilities in the band around its edge; both [N, 1, h, w]."""
        with torch.no_grad():
            padding = self.kernel_size // 2
            dilated = F.max_pool2d(given, self.kernel_size, 1, padding) > 0.5
            eroded = -F.max_pool2d(-given, self.kernel_size, 1, padding) > 0.5
            band = (dilated != eroded).to(probability.dtype)
            inside = eroded * given
        return band * probability + inside

    def parameter_groups(self, optimizer_cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The segmentation network with its own learning rate, then everything else."""
        trainable = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        segmentation: dict[str, Any] = {"params": [value for name, value in trainable if "Backbone" in name]}
        if self.seg_lr is not None:
            segmentation["lr"] = self.seg_lr
        return [segmentation, {"params": [value for name, value in trainable if "Backbone" not in name]}]

    def check_frame_size(self, height: int, width: int) -> None:
        """The U-Net halves its images three times; the silhouettes of GaitGL are made here."""
        if height % 8 or width % 8:
            raise ValueError(f"the U-Net halves its images three times, and {height}x{width} is not divisible by 8")
