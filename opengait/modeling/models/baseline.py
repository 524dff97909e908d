"""Baseline: any backbone, pooled over frames and strips. With ResNet9 it is GaitBase.

Source: OpenGait: Revisiting Gait Recognition Toward Better Practicality (Fan et al., CVPR 2023, arXiv 2211.06597).
Shapes: n sequences, s frames, h x w pixels, c channels, p parts, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import (
    HorizontalPoolingPyramid,
    PackSequenceWrapper,
    SeparateBNNecks,
    SeparateFCs,
    SetBlockWrapper,
)
from opengait.modeling.settings import ModelSettings, SeparateBNNecksSettings, SeparateFCsSettings


class BaselineSettings(ModelSettings):
    """Keys of `model_cfg`."""

    backbone_cfg: dict[str, Any]
    """The backbone: `type` and its arguments."""
    SeparateFCs: SeparateFCsSettings
    """The linear map of each part."""
    SeparateBNNecks: SeparateBNNecksSettings
    """The classifier of each part."""
    bin_num: list[int] = Field(default_factory=lambda: [16, 8, 4, 2, 1])
    """Numbers of strips of the horizontal pyramid."""

    @model_validator(mode="after")
    def _agree(self) -> BaselineSettings:
        parts = sum(self.bin_num)
        for name, found in (
            ("SeparateFCs", self.SeparateFCs.parts_num),
            ("SeparateBNNecks", self.SeparateBNNecks.parts_num),
        ):
            if found != parts:
                raise ValueError(f"{name}.parts_num is {found}, but bin_num {self.bin_num} gives {parts} parts")
        if self.SeparateBNNecks.in_channels != self.SeparateFCs.out_channels:
            raise ValueError(
                f"SeparateBNNecks.in_channels is {self.SeparateBNNecks.in_channels}, but SeparateFCs.out_channels is "
                f"{self.SeparateFCs.out_channels}"
            )
        return self


class Baseline(BaseModel):
    """Frames through a backbone, the maximum over frames, horizontal parts, and a classifier that only trains."""

    Settings = BaselineSettings
    ragged_testing = True

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        self.Backbone = SetBlockWrapper(self.get_backbone(model_cfg["backbone_cfg"]))
        self.FCs = SeparateFCs(**model_cfg["SeparateFCs"])
        self.BNNecks = SeparateBNNecks(**model_cfg["SeparateBNNecks"])
        self.TP = PackSequenceWrapper(torch.max)
        self.HPP = HorizontalPoolingPyramid(model_cfg["bin_num"])

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w] or images [n, s, c, h, w]; packed [1, sum of lengths, ...]."""
        ipts, labs, _, _, seqL = inputs
        frames = ipts[0].unsqueeze(1) if ipts[0].ndim == 4 else ipts[0].transpose(1, 2)  # [n, c, s, h, w]

        maps = self.Backbone(frames)  # [n, c, s, h', w']
        of_sequence = self.TP(maps, seqL, options={"dim": 2})[0]  # [n, c, h', w']
        embeddings = self.FCs(self.HPP(of_sequence))  # [n, c, p]
        _, logits = self.BNNecks(embeddings)  # [n, k, p]

        return {
            "training_feat": {
                "triplet": {"embeddings": embeddings, "labels": labs},
                "softmax": {"logits": logits, "labels": labs},
            },
            "visual_summary": {"image/sils": frames.transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": embeddings},
        }

    def check_frame_size(self, height: int, width: int) -> None:
        """Runs one blank frame through the backbone, and asks whether the strips divide its map."""
        channels = next(self.Backbone.parameters()).shape[1]
        frame = torch.zeros(1, channels, 1, height, width, device=self.device)
        training = self.Backbone.training
        try:
            with torch.no_grad():  # in eval mode, so that running statistics do not see the frame
                map_height, map_width = self.Backbone.eval()(frame).shape[-2:]
        except RuntimeError as error:
            raise ValueError(f"frames of {height}x{width} do not go through the backbone: {error}") from error
        finally:
            self.Backbone.train(training)
        wrong = [bins for bins in self.HPP.bin_num if (map_height * map_width) % bins]
        if wrong:
            raise ValueError(
                f"frames of {height}x{width} leave maps of {map_height}x{map_width}, which model_cfg.bin_num "
                f"{self.HPP.bin_num} does not cut evenly: {wrong}; choose numbers that divide {map_height}, or frames "
                "of 64x44 (BaseSilCuttingTransform on frames of 64x64)"
            )
