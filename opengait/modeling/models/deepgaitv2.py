"""DeepGaitV2: Exploring Deep Models for Practical Gait Recognition (Fan et al., 2023, arXiv 2303.03301).

Shapes: n sequences, s frames, h x w pixels, c channels, p = 16 parts, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import (
    BasicBlock2D,
    BasicBlock3D,
    BasicBlockP3D,
    HorizontalPoolingPyramid,
    PackSequenceWrapper,
    SeparateBNNecks,
    SeparateFCs,
    SetBlockWrapper,
)
from opengait.modeling.settings import ModelSettings, Settings

PARTS = 16
WIDTHS = (44, 88)


class DeepGaitV2BackboneSettings(Settings):
    """The residual network."""

    mode: Literal["2d", "p3d", "3d"]
    """Blocks of stages 2 to 4: without time, time apart from space, or both together."""
    in_channels: int = Field(default=1, gt=0)
    """Channels of a frame."""
    layers: list[Annotated[int, Field(ge=1)]] = Field(min_length=4, max_length=4)
    """Blocks of each of the four stages."""
    channels: list[Annotated[int, Field(ge=1)]] = Field(min_length=4, max_length=4)
    """Channels of each stage."""


class ClassifierSettings(Settings):
    """The classifier of each part; its other sizes follow from the backbone."""

    class_num: int = Field(gt=0)
    """Classes k: subjects of the training set."""


class DeepGaitV2Settings(ModelSettings):
    """Keys of `model_cfg`."""

    Backbone: DeepGaitV2BackboneSettings
    """The residual network."""
    SeparateBNNecks: ClassifierSettings
    """The classifier."""
    use_emb2: bool = False
    """Test with the normalised feature behind the batch norm instead of the one before it."""


class DeepGaitV2(BaseModel):
    """A deep residual network whose first stage looks at single frames and whose later stages also look along time.

    Packed sequences stay apart in every mode: temporal convolutions see empty frames between them.
    """

    Settings = DeepGaitV2Settings

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        backbone = model_cfg["Backbone"]
        mode, channels, layers = backbone["mode"], backbone["channels"], backbone["layers"]
        self.use_emb2 = model_cfg["use_emb2"]
        self.layer0 = SetBlockWrapper(
            nn.Sequential(
                nn.Conv2d(backbone["in_channels"], channels[0], 3, padding=1, bias=False),
                nn.BatchNorm2d(channels[0]),
                nn.ReLU(inplace=True),
            )
        )
        self.layer1 = _stage("2d", channels[0], channels[0], 1, layers[0])
        self.layer2 = _stage(mode, channels[0], channels[1], 2, layers[1])
        self.layer3 = _stage(mode, channels[1], channels[2], 2, layers[2])
        self.layer4 = _stage(mode, channels[2], channels[3], 1, layers[3])
        self.FCs = SeparateFCs(PARTS, channels[3], channels[2])
        self.BNNecks = SeparateBNNecks(PARTS, channels[2], model_cfg["SeparateBNNecks"]["class_num"])
        self.TP = PackSequenceWrapper(torch.max)
        self.HPP = HorizontalPoolingPyramid([PARTS])

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w] or images [n, s, c, h, w]; packed [1, sum of lengths, ...].

        Raises:
            ValueError: frames that are neither 44 nor 88 wide.
        """
        ipts, labs, _, _, seqL = inputs
        frames = ipts[0].unsqueeze(1) if ipts[0].ndim == 4 else ipts[0].transpose(1, 2)  # [n, c, s, h, w]
        self.check_frame_size(*frames.shape[-2:])

        maps = self.layer1(self.layer0(frames))  # [n, c1, s, h, w]
        for stage in (self.layer2, self.layer3, self.layer4):
            maps = _run(stage, maps, seqL)  # [n, c2, s, h/2, w/2], then [n, c3 and c4, s, h/4, w/4]
        of_sequence = self.TP(maps, seqL, options={"dim": 2})[0]  # [n, c4, h/4, w/4]
        embeddings = self.FCs(self.HPP(of_sequence))  # [n, c3, p]
        normalised, logits = self.BNNecks(embeddings)  # [n, c3, p], [n, k, p]

        return {
            "training_feat": {
                "triplet": {"embeddings": embeddings, "labels": labs},
                "softmax": {"logits": logits, "labels": labs},
            },
            "visual_summary": {"image/sils": frames.transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": normalised if self.use_emb2 else embeddings},
        }

    def check_frame_size(self, height: int, width: int) -> None:
        """Bodies are 44 or 88 pixels wide; other widths are usually frames whose sides were not cut."""
        if width not in WIDTHS or height % 4 or (height // 4) * (width // 4) % PARTS:
            raise ValueError(
                f"frames are {height}x{width}, and the network takes 64x44 or 128x88; BaseSilCuttingTransform makes "
                "them of 64x64 or 128x128"
            )


def _stage(mode: str, in_channels: int, channels: int, stride: int, count: int) -> nn.Module:
    """`count` blocks [n, c_in, s, h, w] -> [n, c, s, h / stride, w / stride], the first of which changes the size."""
    if mode == "2d":
        shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )
        first: nn.Module = BasicBlock2D(in_channels, channels, stride, shortcut)
        return SetBlockWrapper(nn.Sequential(first, *(BasicBlock2D(channels, channels) for _ in range(count - 1))))
    shortcut = None
    steps = (1, stride, stride)
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            nn.Conv3d(in_channels, channels, 1, stride=steps, bias=False), nn.BatchNorm3d(channels)
        )
    if mode == "p3d":
        first = BasicBlockP3D(in_channels, channels, stride, shortcut)
        return nn.ModuleList([first, *(BasicBlockP3D(channels, channels) for _ in range(count - 1))])
    first = BasicBlock3D(in_channels, channels, steps, shortcut)
    return nn.ModuleList([first, *(BasicBlock3D(channels, channels) for _ in range(count - 1))])


def _run(stage: nn.Module, maps: Tensor, seqL: Tensor | None) -> Tensor:
    """A stage on [n, c, s, h, w]; blocks that look along time are told where sequences end."""
    if isinstance(stage, SetBlockWrapper):
        return stage(maps)
    for block in stage.children():
        maps = block(maps, seqL)
    return maps
