"""U-Net: the segmentation network of GaitEdge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class U_Net(nn.Module):
    """Encoder 16-32-64-128, decoder 64-32-16, skip connections at three scales.

    Source: U-Net (Ronneberger et al., MICCAI 2015), in the size of GaitEdge (Liang et al., ECCV 2022).

    Args:
        in_channels: channels of the images.
        freeze_half: the encoder does not learn and runs without gradient; its batch norms still follow the data.
    """

    def __init__(self, in_channels: int = 3, freeze_half: bool = True) -> None:
        super().__init__()
        self.freeze_half = freeze_half
        self.Conv1 = ConvBlock(in_channels, 16)
        self.Conv2 = ConvBlock(16, 32)
        self.Conv3 = ConvBlock(32, 64)
        self.Conv4 = ConvBlock(64, 128)
        self.Up4 = UpConv(128, 64)
        self.Up_conv4 = ConvBlock(128, 64)
        self.Up3 = UpConv(64, 32)
        self.Up_conv3 = ConvBlock(64, 32)
        self.Up2 = UpConv(32, 16)
        self.Up_conv2 = ConvBlock(32, 16)
        self.Conv_1x1 = nn.Conv2d(16, 1, 1)
        if freeze_half:
            for block in (self.Conv1, self.Conv2, self.Conv3, self.Conv4):
                block.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> logits [n, 1, h, w].

        Raises:
            ValueError: h or w is not divisible by 8.
        """
        if x.shape[2] % 8 or x.shape[3] % 8:
            raise ValueError(f"U_Net halves its images three times; {x.shape[2]}x{x.shape[3]} is not divisible by 8")
        # Channels last is up to three times as fast; but on a CPU torch's batch norm adds up the statistics of such a
        # batch one float32 after the other, which leaves three digits.
        if x.device.type != "cpu" or not self.training:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_half):
            x1 = self.Conv1(x)  # [n, 16, h, w]
            x2 = self.Conv2(F.max_pool2d(x1, 2))  # [n, 32, h/2, w/2]
            x3 = self.Conv3(F.max_pool2d(x2, 2))  # [n, 64, h/4, w/4]
            x4 = self.Conv4(F.max_pool2d(x3, 2))  # [n, 128, h/8, w/8]
        d4 = self.Up_conv4(torch.cat([x3, self.Up4(x4)], 1))  # [n, 64, h/4, w/4]
        d3 = self.Up_conv3(torch.cat([x2, self.Up3(d4)], 1))  # [n, 32, h/2, w/2]
        d2 = self.Up_conv2(torch.cat([x1, self.Up2(d3)], 1))  # [n, 16, h, w]
        return self.Conv_1x1(d2)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU; keys `conv.{0,1,3,4}.*`."""

    norms_behind: ClassVar[Mapping[str, str]] = {}  # all in a Sequential

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, h, w]."""
        return self.conv(x)


class UpConv(nn.Module):
    """Twice the size, then a 3x3 convolution with batch norm and ReLU; keys `up.{1,2}.*`."""

    norms_behind: ClassVar[Mapping[str, str]] = {}  # all in a Sequential

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, 2 h, 2 w]."""
        return self.up(x)
