"""The segmentation network of GaitEdge (Liang et al., ECCV 2022, arXiv 2203.03972), trained by itself.

Shapes: n sequences, s frames, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import full_precision
from opengait.modeling.settings import ModelSettings


class SegmentationSettings(ModelSettings):
    """Keys of `model_cfg`."""

    backbone_cfg: dict[str, Any]
    """The network: `type` (U_Net) and its arguments."""


class Segmentation(BaseModel):
    """Every RGB frame to the probability that a pixel is of the person."""

    Settings = SegmentationSettings

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        self.Backbone = self.get_backbone(model_cfg["backbone_cfg"])

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: RGB frames [n, s, 3, h, w] and masks [n, s, h, w], packed [1, sum of lengths, ...].

        There are no embeddings: inference gives `pred` and `mask`, both [n s, 1, h, w], a row a frame.
        """
        rgb, sils = inputs[0]
        masks = sils.flatten(0, 1).unsqueeze(1)  # [n s, 1, h, w]

        probability = foreground(self.Backbone, rgb)  # [n s, 1, h, w]
        predicted = (probability > 0.5).to(probability.dtype)

        return {
            "training_feat": {"bce": {"logits": probability, "labels": masks}},
            "visual_summary": {"image/sils": masks, "image/logits": probability, "image/pred": predicted},
            "inference_feat": {"pred": predicted, "mask": masks},
        }

    def check_frame_size(self, height: int, width: int) -> None:
        """The U-Net halves its images three times."""
        if height % 8 or width % 8:
            raise ValueError(f"the U-Net halves its images three times, and {height}x{width} is not divisible by 8")


def foreground(network: nn.Module, rgb: Tensor) -> Tensor:
    """RGB frames [n, s, 3, h, w] -> probabilities [n s, 1, h, w], at least float32."""
    logits = network(rgb.flatten(0, 1))
    return full_precision(logits).sigmoid()
