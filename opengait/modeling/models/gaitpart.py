"""GaitPart: Temporal Part-based Model for Gait Recognition (Fan et al., CVPR 2020).

Shapes: n sequences, s frames, h x w pixels, c channels, p parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import (
    BasicConv1d,
    HorizontalPoolingPyramid,
    PackSequenceWrapper,
    SeparateFCs,
    SetBlockWrapper,
)
from opengait.modeling.modules.rows import layout
from opengait.modeling.settings import ModelSettings, SeparateFCsSettings

SQUEEZE = 4


class GaitPartSettings(ModelSettings):
    """Keys of `model_cfg`."""

    backbone_cfg: dict[str, Any]
    """The backbone of single frames: `type` (Plain) and its arguments."""
    SeparateFCs: SeparateFCsSettings
    """The linear map of each part."""
    bin_num: list[int] = Field(default_factory=lambda: [16])
    """Numbers of strips of the horizontal pyramid."""

    @model_validator(mode="after")
    def _agree(self) -> GaitPartSettings:
        if self.SeparateFCs.parts_num != sum(self.bin_num):
            raise ValueError(
                f"SeparateFCs.parts_num is {self.SeparateFCs.parts_num}, but bin_num {self.bin_num} gives "
                f"{sum(self.bin_num)} parts"
            )
        if self.SeparateFCs.in_channels % SQUEEZE:
            raise ValueError(f"SeparateFCs.in_channels is {self.SeparateFCs.in_channels}, not divisible by {SQUEEZE}")
        return self


class TemporalFeatureAggregator(nn.Module):
    """Short windows of frames, gated, then the strongest of them; every part has its own weights.

    Two branches, with windows of 3 and 5 frames: mean plus maximum of each window, times an attention in (0, 1). Its
    weights are stored part by part, keys `conv1d3x1.<part>.{0,2}.conv.weight` (3, then 1 frame wide) and
    `conv1d3x3.<part>.{0,2}.conv.weight` (3, then 3), and run as grouped convolutions over all parts.

    Source: GaitPart, section 3.3, the micro-motion capture module.

    Args:
        in_channels: channels c of each part.
        parts_num: number of parts p.
    """

    def __init__(self, in_channels: int, parts_num: int) -> None:
        super().__init__()
        self.parts_num = parts_num
        hidden = in_channels // SQUEEZE
        self.conv1d3x1 = nn.ModuleList([_attention(in_channels, hidden, 1) for _ in range(parts_num)])
        self.conv1d3x3 = nn.ModuleList([_attention(in_channels, hidden, 3) for _ in range(parts_num)])

    takes_lengths = True  # for the packing wrapper: all sequences in one call

    def forward(self, x: Tensor, seqL: Tensor | None = None) -> Tensor:
        """[n, c, s, p], or packed [1, c, sum of lengths, p] with `seqL` [1, n] -> [n, c, p]."""
        frames = layout(x, seqL, gap=2)
        row = frames.lay(x).permute(0, 3, 1, 2).flatten(1, 2)  # [n, p c, s]
        p = self.parts_num

        # Both branches look at the same strips, so their first convolutions are one; channels p, branch, c / 4.
        first = self._weights(self.conv1d3x1, self.conv1d3x3, layer=0)
        hidden = frames.clear(F.leaky_relu(F.conv1d(row, first, padding=1, groups=p), inplace=True))
        hidden3, hidden5 = hidden.unflatten(1, (p, 2, -1)).unbind(2)
        gate3 = F.conv1d(hidden3.flatten(1, 2), self._weights(self.conv1d3x1, layer=2), groups=p).sigmoid()
        gate5 = F.conv1d(hidden5.flatten(1, 2), self._weights(self.conv1d3x3, layer=2), padding=1, groups=p).sigmoid()

        # Beyond the ends of a sequence there are zeros for the mean, which counts them, and nothing for the maximum.
        ended = frames.clear(row, float("-inf"))
        window3 = F.avg_pool1d(row, 3, 1, 1) + frames.clear(F.max_pool1d(ended, 3, 1, 1))
        window5 = F.avg_pool1d(row, 5, 1, 2) + frames.clear(F.max_pool1d(ended, 5, 1, 2))
        strongest = frames.maximum(window3 * gate3 + window5 * gate5)  # [n, p c]
        return strongest.unflatten(1, (p, -1)).transpose(1, 2)

    @staticmethod
    def _weights(*branches: nn.ModuleList, layer: int) -> Tensor:
        """The weights of one layer, part after part and in a part branch after branch: [p c_out, c_in, k]."""
        parts = zip(*branches, strict=True)
        return torch.cat([branch[layer].conv.weight for part in parts for branch in part])


class GaitPart(BaseModel):
    """Strips of single frames by focal convolutions, then each strip's own short-range motion."""

    Settings = GaitPartSettings
    ragged_testing = True

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        head = model_cfg["SeparateFCs"]
        self.Backbone = SetBlockWrapper(self.get_backbone(model_cfg["backbone_cfg"]))
        self.Head = SeparateFCs(**head)
        self.HPP = SetBlockWrapper(HorizontalPoolingPyramid(model_cfg["bin_num"]))
        self.TFA = PackSequenceWrapper(TemporalFeatureAggregator(head["in_channels"], head["parts_num"]))

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w], packed [1, sum of lengths, h, w]."""
        ipts, labs, _, _, seqL = inputs
        sils = ipts[0].unsqueeze(1) if ipts[0].ndim == 4 else ipts[0]  # [n, c, s, h, w]

        maps = self.Backbone(sils)  # [n, c, s, h', w']
        strips = self.HPP(maps)  # [n, c, s, p]
        embeddings = self.Head(self.TFA(strips, seqL))  # [n, c, p]

        return {
            "training_feat": {"triplet": {"embeddings": embeddings, "labels": labs}},
            "visual_summary": {"image/sils": sils.transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": embeddings},
        }


def _attention(channels: int, hidden: int, last_kernel: int) -> nn.Sequential:
    """Weights of one part: 3 frames wide to the hidden channels, then `last_kernel` wide and back."""
    return nn.Sequential(
        BasicConv1d(channels, hidden, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        BasicConv1d(hidden, channels, last_kernel, padding=last_kernel // 2),
    )
