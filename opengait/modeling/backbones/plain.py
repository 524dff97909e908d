"""The Plain backbone: convolutions written as a list of short strings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from opengait.modeling.modules import BasicConv2d, FocalConv2d


class Plain(nn.Module):
    """Convolutions with LeakyReLU, and max pooling; keys `feature.<i>.conv.weight`.

    `BC-<c>` is a convolution to c channels, `FC-<c>-<halving>` a focal one, `M` a 2x2 max pooling. The first kernel is
    5x5, all others 3x3; there is no bias and no norm.

    Args:
        layers_cfg: the layers in order, such as ["BC-64", "BC-64", "M", "FC-128-2"].
        in_channels: channels of the frames.

    Raises:
        ValueError: a layer that is none of these.
    """

    def __init__(self, layers_cfg: Sequence[str], in_channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        kernel_size = 5
        for name in layers_cfg:
            kind, *numbers = name.split("-")
            if kind == "M" and not numbers:
                layers.append(nn.MaxPool2d(2))
                continue
            if {"BC": 1, "FC": 2}.get(kind) != len(numbers) or not all(number.isdigit() for number in numbers):
                raise ValueError(
                    f"backbone_cfg.layers_cfg: '{name}' is no layer; a layer is BC-<channels>, "
                    "FC-<channels>-<halving> or M"
                )
            channels, *halving = map(int, numbers)
            if kind == "BC":
                layers.append(BasicConv2d(in_channels, channels, kernel_size, 1, kernel_size // 2))
            else:
                layers.append(FocalConv2d(in_channels, channels, kernel_size, halving[0], 1, kernel_size // 2))
            layers.append(nn.LeakyReLU(inplace=True))
            in_channels, kernel_size = channels, 3
        self.feature = _pool_before_activation(layers)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c', h', w']."""
        return self.feature(x)


def _pool_before_activation(layers: list[nn.Module]) -> nn.Sequential:
    """Exchanges each activation with the pooling behind it: LeakyReLU is monotonic, so the result is the same, and it
    runs on a quarter of the pixels. Convolutions keep their index."""
    for i in range(1, len(layers)):
        if isinstance(layers[i], nn.MaxPool2d) and isinstance(layers[i - 1], nn.LeakyReLU):
            layers[i - 1], layers[i] = layers[i], layers[i - 1]
    return nn.Sequential(*layers)
