"""Residual blocks over frames: without time, with time apart from space, and with both together.

Source: Deep Residual Learning (He et al., CVPR 2016), Learning Spatio-Temporal Representation with Pseudo-3D Residual
Networks (Qiu et al., ICCV 2017); the forms here are those of DeepGaitV2 (Fan et al., 2023, arXiv 2303.03301).

`seqL` (int [1, n]) are the lengths of sequences that lie end to end in one row; None where every row is a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from opengait.modeling.modules.convolutions import Conv3x3
from opengait.modeling.modules.frames import SetBlockWrapper
from opengait.modeling.modules.temporal import SequenceConv3d


class BasicBlock2D(nn.Module):
    """Two 3x3 convolutions and a shortcut; torchvision's keys.

    Args:
        in_channels, channels: channels before and after.
        stride: of the first convolution.
        downsample: the shortcut where size or channels change, else None.
    """

    expansion: ClassVar[int] = 1
    norms_behind: ClassVar[Mapping[str, str]] = {"conv1": "bn1", "conv2": "bn2"}

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int | tuple[int, int] = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = Conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = Conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[N, c_in, h, w] -> [N, c, h / stride, w / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class BasicBlockP3D(nn.Module):
    """A 3x3 convolution over space, one of three frames over time with its own shortcut, and a 3x3 over space.

    Args:
        in_channels, channels: channels before and after.
        stride: of space.
        downsample: the shortcut [n, c_in, s, h, w] -> [n, c, s, h', w'] where size or channels change, else None.
    """

    norms_behind: ClassVar[Mapping[str, str]] = {"shortcut3d": "sbn"}

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int | tuple[int, int] = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = SetBlockWrapper(
            nn.Sequential(Conv3x3(in_channels, channels, stride), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        )
        self.conv2 = SetBlockWrapper(nn.Sequential(Conv3x3(channels, channels), nn.BatchNorm2d(channels)))
        self.shortcut3d = SequenceConv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.sbn = nn.BatchNorm3d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor, seqL: Tensor | None = None) -> Tensor:
        """[n, c_in, s, h, w] -> [n, c, s, h / stride, w / stride]."""
        y = self.conv1(x)
        y = self.relu(y + self.sbn(self.shortcut3d(y, seqL)))
        y = self.conv2(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class BasicBlock3D(nn.Module):
    """Two 3x3x3 convolutions and a shortcut.

    Args:
        in_channels, channels: channels before and after.
        stride: of time, height and width. A temporal stride of 3 goes without temporal padding.
        downsample: the shortcut where size or channels change, else None.
    """

    norms_behind: ClassVar[Mapping[str, str]] = {"conv1": "bn1", "conv2": "bn2"}

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: Sequence[int] = (1, 1, 1),
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        temporal, height, width = stride
        padding = (0 if temporal == 3 else 1, 1, 1)
        self.conv1 = SequenceConv3d(
            in_channels, channels, 3, stride=(temporal, height, width), padding=padding, bias=False
        )
        self.bn1 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = SequenceConv3d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor, seqL: Tensor | None = None) -> Tensor:
        """[n, c_in, s, h, w] -> [n, c, s', h', w'].

        Raises:
            ValueError: packed sequences and a temporal stride, which would change their lengths.
        """
        y = self.relu(self.bn1(self.conv1(x, seqL)))
        y = self.bn2(self.conv2(y, seqL))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)
