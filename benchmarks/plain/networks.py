"""The networks as their papers' figures read, layer after layer: loops over strips, parts and sequences.

Plain in every respect: contiguous layout, pooling behind the activation, one call a strip, a part and a branch. They
have the key names of `opengait`'s networks, so that both can be given the same weights and must give the same numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Output = dict[str, Tensor]


class Block(nn.Module):
    """Holds `forward_block`, as the field's wrapper does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.forward_block = block

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, s, h, w] -> the same axes."""
        n, c, s, h, w = x.shape
        y = self.forward_block(x.transpose(1, 2).reshape(n * s, c, h, w))
        return y.reshape(n, s, *y.shape[1:]).transpose(1, 2).contiguous()


class Pooled(nn.Module):
    """Holds `pooling_func`, called for one sequence after the other."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.pooling_func = function


class Conv(nn.Module):
    """A convolution, on the whole map or on one strip after the other."""

    def __init__(self, c_in: int, c_out: int, kernel: int, halving: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        self.halving = halving

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c', h, w]."""
        if self.halving == 0:
            return self.conv(x)
        strip = x.shape[2] // 2**self.halving
        return torch.cat([self.conv(part) for part in x.split(strip, 2)], 2)


class Head(nn.Module):
    """One linear map a part."""

    def __init__(self, parts: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.fc_bin = nn.Parameter(torch.empty(parts, c_in, c_out))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, p] -> [n, c', p]."""
        return torch.stack([x[:, :, p] @ self.fc_bin[p] for p in range(x.shape[2])], 2)


class Necks(nn.Module):
    """Batch norm and classifier of every part."""

    def __init__(self, parts: int, channels: int, classes: int) -> None:
        super().__init__()
        self.fc_bin = nn.Parameter(torch.empty(parts, channels, classes))
        self.bn1d = nn.BatchNorm1d(channels * parts)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, p] -> logits [n, k, p]."""
        feature = F.normalize(self.bn1d(x.flatten(1)).view(x.shape), dim=1)
        weight = F.normalize(self.fc_bin, dim=1)
        return torch.stack([feature[:, :, p] @ weight[p] for p in range(x.shape[2])], 2)


def pyramid(x: Tensor, bins: Sequence[int]) -> Tensor:
    """[n, c, h, w] -> [n, c, p]."""
    parts = []
    for count in bins:
        for strip in x.flatten(2).chunk(count, 2):
            parts.append(strip.mean(2) + strip.max(2).values)
    return torch.stack(parts, 2)


def _convolutions(channels: Sequence[int], first: int, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in, c_out in itertools.pairwise(channels):
        layers += [Conv(c_in, c_out, first), nn.LeakyReLU()]
        first = 3
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class GaitSet(nn.Module):
    """Chao et al., AAAI 2019."""

    bins = (16, 8, 4, 2, 1)

    def __init__(self, channels: Sequence[int] = (1, 32, 64, 128), out: int = 256) -> None:
        super().__init__()
        c0, c1, c2, c3 = channels
        self.set_block1 = Block(_convolutions((c0, c1, c1), 5, True))
        self.set_block2 = Block(_convolutions((c1, c2, c2), 3, True))
        self.set_block3 = Block(_convolutions((c2, c3, c3), 3, False))
        self.gl_block2 = _convolutions((c1, c2, c2), 3, True)
        self.gl_block3 = _convolutions((c2, c3, c3), 3, False)
        self.Head = Head(62, c3, out)

    def forward(self, sils: Tensor) -> Output:
        """sils [n, s, h, w]."""
        x1 = self.set_block1(sils.unsqueeze(1))
        gl = self.gl_block2(x1.max(2).values)
        x2 = self.set_block2(x1)
        gl = self.gl_block3(gl + x2.max(2).values)
        frames = self.set_block3(x2).max(2).values
        both = torch.cat([pyramid(frames, self.bins), pyramid(gl + frames, self.bins)], 2)
        return {"embeddings": self.Head(both)}


class Aggregator(nn.Module):
    """GaitPart's micro-motion capture, one part after the other."""

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.conv1d3x1 = nn.ModuleList([self._gate(channels, 1) for _ in range(parts)])
        self.conv1d3x3 = nn.ModuleList([self._gate(channels, 3) for _ in range(parts)])

    @staticmethod
    def _gate(channels: int, last: int) -> nn.Sequential:
        class Conv1d(nn.Module):
            def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
                super().__init__()
                self.conv = nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2, bias=False)

            def forward(self, x: Tensor) -> Tensor:
                return self.conv(x)

        return nn.Sequential(Conv1d(channels, channels // 4, 3), nn.LeakyReLU(), Conv1d(channels // 4, channels, last))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, s, p] -> [n, c, p]."""
        parts = []
        for p in range(x.shape[3]):
            row = x[..., p]
            gate3, gate5 = self.conv1d3x1[p](row).sigmoid(), self.conv1d3x3[p](row).sigmoid()
            window3 = F.avg_pool1d(row, 3, 1, 1) + F.max_pool1d(row, 3, 1, 1)
            window5 = F.avg_pool1d(row, 5, 1, 2) + F.max_pool1d(row, 5, 1, 2)
            parts.append((window3 * gate3 + window5 * gate5).max(2).values)
        return torch.stack(parts, 2)


class GaitPart(nn.Module):
    """Fan et al., CVPR 2020; the CASIA-B form."""

    def __init__(self, channels: Sequence[int] = (32, 64, 128), parts: int = 16) -> None:
        super().__init__()
        c1, c2, c3 = channels
        backbone = nn.Module()
        backbone.feature = nn.Sequential(
            *(Conv(1, c1, 5), nn.LeakyReLU(), Conv(c1, c1, 3), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(Conv(c1, c2, 3, 2), nn.LeakyReLU(), Conv(c2, c2, 3, 2), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(Conv(c2, c3, 3, 3), nn.LeakyReLU(), Conv(c3, c3, 3, 3), nn.LeakyReLU()),
        )
        backbone.forward = backbone.feature.forward
        self.Backbone = Block(backbone)
        self.Head = Head(parts, c3, c3)
        self.TFA = Pooled(Aggregator(c3, parts))
        self.parts = parts

    def forward(self, sils: Tensor) -> Output:
        """sils [n, s, h, w]."""
        maps = self.Backbone(sils.unsqueeze(1))
        strips = torch.stack([pyramid(maps[:, :, i], [self.parts]) for i in range(maps.shape[2])], 2)
        return {"embeddings": self.Head(self.TFA.pooling_func(strips))}


class Conv3d(nn.Module):
    """A 3-D convolution with the field's key."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int] = (3, 3, 3), stride: int = 1) -> None:
        super().__init__()
        padding = (0, 0, 0) if stride > 1 else (1, 1, 1)
        self.conv3d = nn.Conv3d(c_in, c_out, kernel, stride=(stride, 1, 1), padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, s, h, w]."""
        return self.conv3d(x)


class GlobalLocal(nn.Module):
    """GaitGL's pair of convolutions, one strip after the other in the local one."""

    def __init__(self, c_in: int, c_out: int, concat: bool = False) -> None:
        super().__init__()
        self.global_conv3d, self.local_conv3d, self.concat = Conv3d(c_in, c_out), Conv3d(c_in, c_out), concat

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, s, h, w] -> [n, c', s, h or 2 h, w]."""
        strip = x.shape[3] // 8
        of_strips = torch.cat([self.local_conv3d(part) for part in x.split(strip, 3)], 3)
        of_map = F.leaky_relu(self.global_conv3d(x))
        of_strips = F.leaky_relu(of_strips)
        return torch.cat([of_map, of_strips], 3) if self.concat else of_map + of_strips


class GaitGL(nn.Module):
    """Lin et al., ICCV 2021; the CASIA-B form."""

    def __init__(self, channels: Sequence[int] = (32, 64, 128), classes: int = 74) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.conv3d = nn.Sequential(Conv3d(1, c1), nn.LeakyReLU())
        self.LTA = nn.Sequential(Conv3d(c1, c1, (3, 1, 1), stride=3), nn.LeakyReLU())
        self.GLConvA0, self.GLConvA1 = GlobalLocal(c1, c2), GlobalLocal(c2, c3)
        self.GLConvB2 = GlobalLocal(c3, c3, concat=True)
        self.HPP = nn.Module()
        self.HPP.p = nn.Parameter(torch.empty(1))
        self.Head0, self.Bn, self.Head1 = Head(64, c3, c3), nn.BatchNorm1d(c3), Head(64, c3, classes)

    def forward(self, sils: Tensor) -> Output:
        """sils [n, s, h, w]."""
        x = self.LTA(self.conv3d(sils.unsqueeze(1)))
        x = F.max_pool3d(self.GLConvA0(x), (1, 2, 2))
        x = self.GLConvB2(self.GLConvA1(x)).max(2).values
        strips = x.flatten(2).chunk(64, 2)
        power = self.HPP.p
        gem = torch.stack([strip.clamp(min=1e-6).pow(power).mean(2).pow(1 / power) for strip in strips], 2)
        embeddings = self.Bn(self.Head0(gem))
        return {"embeddings": embeddings, "logits": self.Head1(embeddings)}


class Residual(nn.Module):
    """ResNet's basic block."""

    def __init__(self, c_in: int, c: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)
        change = stride != 1 or c_in != c
        shortcut = nn.Sequential(nn.Conv2d(c_in, c, 1, stride=stride, bias=False), nn.BatchNorm2d(c))
        self.downsample = shortcut if change else None

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w]."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet9(nn.Module):
    """GaitBase's backbone."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv(1, channels[0], 3), nn.BatchNorm2d(channels[0])
        width = channels[0]
        for number, (c, stride) in enumerate(zip(channels, (1, 2, 2, 1), strict=True), 1):
            setattr(self, f"layer{number}", nn.Sequential(Residual(width, c, stride)))
            width = c

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, h, w] -> [n, c, h / 4, w / 4]."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class GaitBase(nn.Module):
    """Fan et al., CVPR 2023."""

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512), out: int = 256, classes: int = 74) -> None:
        super().__init__()
        self.Backbone = Block(ResNet9(channels))
        self.FCs, self.BNNecks = Head(16, channels[-1], out), Necks(16, out, classes)

    def forward(self, sils: Tensor) -> Output:
        """sils [n, s, h, w]."""
        maps = self.Backbone(sils.unsqueeze(1)).max(2).values
        embeddings = self.FCs(pyramid(maps, [16]))
        return {"embeddings": embeddings, "logits": self.BNNecks(embeddings)}


PLAIN: dict[str, Callable[..., nn.Module]] = {
    "GaitSet": GaitSet,
    "GaitPart": GaitPart,
    "GaitGL": GaitGL,
    "GaitBase": GaitBase,
}
