"""Per-part heads: linear maps, batch norm and classifiers, in float32 also under autocast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opengait.modeling.modules.precision import full_precision, no_autocast


def _weight_per_part(parts_num: int, in_channels: int, out_channels: int) -> nn.Parameter:
    """A [p, c_in, c_out] parameter with Xavier fans of the whole 3-d tensor.

    Its bound, sqrt(6 / (c_out * (c_in + p))), is far smaller than that of p separate maps; training from scratch
    depends on it.
    """
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts_num, in_channels, out_channels)))


def _map_each_part(x: Tensor, weight: Tensor) -> Tensor:
    """[n, c_in, p] with [p, c_in, c_out] -> [n, c_out, p]."""
    return torch.matmul(x.permute(2, 0, 1), weight).permute(1, 2, 0)


class SeparateFCs(nn.Module):
    """One linear map per part, without bias: part p of every sequence has its own weights; key `fc_bin`.

    Source: GaitSet (Chao et al., AAAI 2019), section 3.4.

    Args:
        parts_num: number of parts p.
        in_channels, out_channels: channels before and after.
        norm: scale each weight column to unit length (used before a cosine classifier).
    """

    def __init__(self, parts_num: int, in_channels: int, out_channels: int, norm: bool = False) -> None:
        super().__init__()
        self.parts_num = parts_num
        self.norm = norm
        self.fc_bin = _weight_per_part(parts_num, in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, p] -> [n, c_out, p], at least float32.

        Raises:
            ValueError: another number of parts than the weights have.
        """
        _check_parts(x, self.parts_num)
        with no_autocast(x):
            weight = F.normalize(self.fc_bin, dim=1) if self.norm else self.fc_bin
            return _map_each_part(full_precision(x), weight)


@dataclass(frozen=True)
class ShardedLogits:
    """Logits that were not computed, because this process has a part of the classes only.

    What a classifier returns in their place, for the engine's cross entropy; testing needs none.

    Attributes:
        features: [n, c, p], what the classifier maps.
        weight: [p, c, k'] of the own classes, `begin` to `begin + k'`, normalised where the classifier does so.
        classes: number of all classes k.
    """

    features: Tensor
    weight: Tensor
    begin: int
    classes: int

    def __getattr__(self, name: str) -> None:
        raise AttributeError(
            f"logits.{name}: a classifier whose classes are spread over processes (trainer_cfg.shard_classes) gives no "
            "tensor of logits; return them as the logits of a CrossEntropyLoss, or set shard_classes: false"
        )


class PartClassifier(nn.Module):
    """What layers with a classifier for each part have in common; key `fc_bin`, [p, c, k].

    The engine may leave each process a part of the classes: `fc_bin` is [p, c, k'] then, and the first of them `begin`.

    Args:
        parts_num: number of parts p.
        in_channels: channels c of each part.
        class_num: number of classes k.
    """

    def __init__(self, parts_num: int, in_channels: int, class_num: int) -> None:
        super().__init__()
        self.parts_num = parts_num
        self.class_num = class_num
        self.begin: int | None = None
        self.fc_bin = _weight_per_part(parts_num, in_channels, class_num)

    def _classify(self, features: Tensor, weight: Tensor) -> Tensor | ShardedLogits:
        """[n, c, p] with [p, c, k] -> [n, k, p]."""
        if self.begin is None:
            return _map_each_part(features, weight)
        return ShardedLogits(features, weight, self.begin, self.class_num)


class SeparateClassifiers(PartClassifier):
    """One linear classifier per part, without bias: `SeparateFCs` whose channels are classes.

    Source: GaitGL (Lin et al., ICCV 2021).

    Args:
        parts_num: number of parts p.
        in_channels: channels c of each part.
        class_num: number of classes k.
    """

    def forward(self, x: Tensor) -> Tensor | ShardedLogits:
        """[n, c, p] -> logits [n, k, p], at least float32.

        Raises:
            ValueError: another number of parts than the weights have.
        """
        _check_parts(x, self.parts_num)
        with no_autocast(x):
            return self._classify(full_precision(x), self.fc_bin)


class SeparateBNNecks(PartClassifier):
    """Batch norm, then one classifier per part; keys `fc_bin` and `bn1d`.

    Source: Bag of Tricks and a Strong Baseline for person re-identification (Luo et al., CVPR-W 2019).

    Args:
        parts_num: number of parts p.
        in_channels: channels c of each part.
        class_num: number of classes k.
        norm: cosine logits: features and classifier columns of unit length; the feature comes back normalised.
        parallel_BN1d: one batch norm over c * p channels, else p of c channels (same map, other keys).
    """

    def __init__(
        self, parts_num: int, in_channels: int, class_num: int, norm: bool = True, parallel_BN1d: bool = True
    ) -> None:
        super().__init__(parts_num, in_channels, class_num)
        self.norm = norm
        self.parallel_BN1d = parallel_BN1d
        self.bn1d: nn.Module
        if parallel_BN1d:
            self.bn1d = nn.BatchNorm1d(in_channels * parts_num)
        else:
            self.bn1d = nn.ModuleList([nn.BatchNorm1d(in_channels) for _ in range(parts_num)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | ShardedLogits]:
        """[n, c, p] -> (feature [n, c, p], logits [n, k, p]), at least float32.

        Raises:
            ValueError: another number of parts than the weights have.
        """
        _check_parts(x, self.parts_num)
        with no_autocast(x):
            feature = self._batch_norm(full_precision(x))
            weight: Tensor = self.fc_bin
            if self.norm:
                feature = F.normalize(feature, dim=1)
                weight = F.normalize(weight, dim=1)
            return feature, self._classify(feature, weight)

    def _batch_norm(self, x: Tensor) -> Tensor:
        if not isinstance(self.bn1d, nn.ModuleList):
            return self.bn1d(x.flatten(1)).view(x.shape)
        # A layout of old checkpoints; each part's norm stays a module of its own, so that it can be synchronised.
        return torch.stack([norm(part) for norm, part in zip(self.bn1d, x.unbind(2), strict=True)], dim=2)


class ParallelBN1d(nn.Module):
    """Batch norm of every channel of every part at once; key `bn1d`.

    Args:
        parts_num: number of parts p.
        in_channels: channels c of each part.
    """

    def __init__(self, parts_num: int, in_channels: int) -> None:
        super().__init__()
        self.parts_num = parts_num
        self.bn1d = nn.BatchNorm1d(in_channels * parts_num)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, p] -> [n, c, p], at least float32."""
        _check_parts(x, self.parts_num)
        with no_autocast(x):
            x = full_precision(x)
            return self.bn1d(x.flatten(1)).view(x.shape)


def _check_parts(x: Tensor, parts_num: int) -> None:
    if x.ndim != 3 or x.shape[2] != parts_num:
        raise ValueError(f"expected [n, c, {parts_num}] (parts_num {parts_num}), found {list(x.shape)}")
