"""ResNet9 and the residual blocks it stands on, with torchvision's key names.

Source: Deep Residual Learning for Image Recognition (He et al., CVPR 2016); the nine-layer form is GaitBase's
(OpenGait: Revisiting Gait Recognition Toward Better Practicality, Fan et al., CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from opengait.modeling.modules import BasicBlock2D, BasicConv2d
from opengait.modeling.modules.convolutions import Conv2d


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> Conv2d:
    return Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride sits on the middle one."""

    expansion: ClassVar[int] = 4
    norms_behind: ClassVar[Mapping[str, str]] = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3"}

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, channels * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, 4 c, h / stride, w / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


BLOCKS: dict[str, type[BasicBlock2D] | type[Bottleneck]] = {"BasicBlock": BasicBlock2D, "Bottleneck": Bottleneck}


class ResNet9(nn.Module):
    """A 3x3 stem without stride and four stages of residual blocks.

    Args:
        block: "BasicBlock" or "Bottleneck".
        channels: channels of the four stages; the stem has those of the first.
        in_channel: channels of the frames.
        layers: blocks of each stage; a stage of 0 blocks passes its input on.
        strides: stride of the first block of each stage.
        maxpool: whether a 3x3 max pooling of stride 2 follows the stem.

    Raises:
        ValueError: an unknown block, or lists that do not have four entries.
    """

    norms_behind: ClassVar[Mapping[str, str]] = {"conv1": "bn1"}

    def __init__(
        self,
        block: str = "BasicBlock",
        channels: Sequence[int] = (32, 64, 128, 256),
        in_channel: int = 1,
        layers: Sequence[int] = (1, 2, 2, 1),
        strides: Sequence[int] = (1, 2, 2, 1),
        maxpool: bool = True,
    ) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise ValueError(f"backbone_cfg.block: unknown block '{block}'; it is one of {', '.join(BLOCKS)}")
        for name, values in (("channels", channels), ("layers", layers), ("strides", strides)):
            if len(values) != 4:
                raise ValueError(f"backbone_cfg.{name}: four stages need four numbers, found {list(values)}")
        self.conv1 = BasicConv2d(in_channel, channels[0], 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if maxpool else nn.Identity()
        width = channels[0]
        stages = []
        for stage_channels, count, stride in zip(channels, layers, strides, strict=True):
            stages.append(_stage(BLOCKS[block], width, stage_channels, count, stride))
            width = stage_channels * BLOCKS[block].expansion if count else width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor, learns: Sequence[bool] = (True,) * 5) -> Tensor:
        """[n, c, h, w] -> [n, c', h', w'].

        Args:
            learns: whether the stem and each of the four stages get a gradient.
        """
        gradient = torch.is_grad_enabled()
        with torch.set_grad_enabled(gradient and learns[0]):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage, learning in zip((self.layer1, self.layer2, self.layer3, self.layer4), learns[1:], strict=True):
            with torch.set_grad_enabled(gradient and learning):
                x = stage(x)
        return x


def _stage(
    block: type[BasicBlock2D] | type[Bottleneck], width: int, channels: int, count: int, stride: int
) -> nn.Module:
    if count == 0:
        return nn.Identity()
    out_channels = channels * block.expansion
    downsample = None
    if stride != 1 or width != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(width, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    first = block(width, channels, stride, downsample)
    return nn.Sequential(first, *(block(out_channels, channels) for _ in range(count - 1)))
