"""GaitSet: Regarding Gait as a Set for Cross-View Gait Recognition (Chao et al., AAAI 2019, arXiv 1811.06186).

Shapes: n sequences, s frames, h x w pixels, c channels, p parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import (
    BasicConv2d,
    HorizontalPoolingPyramid,
    PackSequenceWrapper,
    SeparateFCs,
    SetBlockWrapper,
)
from opengait.modeling.settings import ModelSettings, SeparateFCsSettings


class GaitSetSettings(ModelSettings):
    """Keys of `model_cfg`."""

    in_channels: list[int] = Field(min_length=4, max_length=4)
    """Channels of the frames and after each of the three blocks."""
    SeparateFCs: SeparateFCsSettings
    """The linear map of each part."""
    bin_num: list[int] = Field(default_factory=lambda: [16, 8, 4, 2, 1])
    """Numbers of strips of the horizontal pyramid; both paths have them all."""

    @model_validator(mode="after")
    def _agree(self) -> GaitSetSettings:
        parts = 2 * sum(self.bin_num)
        if self.SeparateFCs.parts_num != parts:
            raise ValueError(
                f"SeparateFCs.parts_num is {self.SeparateFCs.parts_num}, but bin_num {self.bin_num} on two paths "
                f"gives {parts} parts"
            )
        if self.SeparateFCs.in_channels != self.in_channels[-1]:
            raise ValueError(
                f"SeparateFCs.in_channels is {self.SeparateFCs.in_channels}, but the last block has "
                f"{self.in_channels[-1]} channels (in_channels {self.in_channels})"
            )
        return self


class GaitSet(BaseModel):
    """A sequence as a set of silhouettes: a path over single frames, and one over what frames have in common."""

    Settings = GaitSetSettings
    ragged_testing = True

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        c0, c1, c2, c3 = model_cfg["in_channels"]
        self.bin_num = list(model_cfg["bin_num"])
        self.set_block1 = SetBlockWrapper(_block(c0, c1, kernel_size=5, pool=True))
        self.set_block2 = SetBlockWrapper(_block(c1, c2, kernel_size=3, pool=True))
        self.set_block3 = SetBlockWrapper(_block(c2, c3, kernel_size=3, pool=False))
        self.gl_block2 = _block(c1, c2, kernel_size=3, pool=True)
        self.gl_block3 = _block(c2, c3, kernel_size=3, pool=False)
        self.set_pooling = PackSequenceWrapper(torch.max)
        self.HPP = HorizontalPoolingPyramid(self.bin_num)
        self.Head = SeparateFCs(**model_cfg["SeparateFCs"])

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w] (or [n, c, s, h, w]), packed [1, sum of lengths, h, w]."""
        ipts, labs, _, _, seqL = inputs
        sils = ipts[0].unsqueeze(1) if ipts[0].ndim == 4 else ipts[0]  # [n, c, s, h, w]
        over_frames = {"dim": 2}

        frames = self.set_block1(sils)  # [n, c1, s, h/2, w/2]
        gl = self.gl_block2(self.set_pooling(frames, seqL, options=over_frames)[0])  # [n, c2, h/4, w/4]

        frames = self.set_block2(frames)  # [n, c2, s, h/4, w/4]
        gl = self.gl_block3(gl + self.set_pooling(frames, seqL, options=over_frames)[0])  # [n, c3, h/4, w/4]

        frames = self.set_block3(frames)  # [n, c3, s, h/4, w/4]
        of_frames = self.set_pooling(frames, seqL, options=over_frames)[0]  # [n, c3, h/4, w/4]
        of_set = gl + of_frames

        parts = torch.cat([self.HPP(of_frames), self.HPP(of_set)], dim=-1)  # [n, c3, p]
        embeddings = self.Head(parts)  # [n, c, p]

        return {
            "training_feat": {"triplet": {"embeddings": embeddings, "labels": labs}},
            "visual_summary": {"image/sils": sils.transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": embeddings},
        }

    def check_frame_size(self, height: int, width: int) -> None:
        """Two poolings halve the frame, and every number of strips has to divide what is left."""
        if height % 4 or width % 4:
            raise ValueError(
                f"GaitSet halves its frames twice, and {height}x{width} is not divisible by 4; "
                "64x44 is usual (BaseSilCuttingTransform on frames of 64x64)"
            )
        pixels = (height // 4) * (width // 4)
        wrong = [bins for bins in self.bin_num if pixels % bins]
        if wrong:
            raise ValueError(
                f"frames of {height}x{width} leave maps of {height // 4}x{width // 4}, which model_cfg.bin_num "
                f"{self.bin_num} does not cut evenly: {wrong}; choose numbers that divide {height // 4}"
            )


def _block(in_channels: int, out_channels: int, kernel_size: int, pool: bool) -> nn.Sequential:
    """[N, c_in, h, w] -> [N, c_out, h, w], or half of h and w with `pool`."""
    layers: list[nn.Module] = [
        BasicConv2d(in_channels, out_channels, kernel_size, 1, kernel_size // 2),
        nn.LeakyReLU(inplace=True),
        BasicConv2d(out_channels, out_channels, 3, 1, 1),
    ]
    if pool:
        layers.append(nn.MaxPool2d(2))  # before the activation: it is monotonic, and a quarter of the pixels is left
    layers.append(nn.LeakyReLU(inplace=True))
    return nn.Sequential(*layers)
