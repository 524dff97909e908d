"""GaitGL: Gait Recognition via Effective Global-Local Feature Representation and Local Temporal Aggregation
(Lin et al., ICCV 2021, arXiv 2011.01461).

Shapes: n sequences, s frames, t = s // 3 behind the temporal aggregation, h x w pixels, c channels, p = 64 parts,
k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import BasicConv3d, GeMHPP, SeparateBNNecks, SeparateClassifiers, SeparateFCs
from opengait.modeling.modules.convolutions import convolve_strips
from opengait.modeling.modules.rows import EqualLengths, GappedRow, layout
from opengait.modeling.settings import ModelSettings, SeparateBNNecksSettings, Settings

PARTS = 64
STRIDE = 3  # frames that the temporal aggregation joins
CHANNELS = {"small": 3, "large": 4}


class GaitGLKeys(Settings):
    """The network's own keys."""

    channels: list[int] = Field(min_length=3, max_length=4)
    """Channels of the stages: three for the small network, four for the large one."""
    variant: Literal["small", "large"] | None = None
    """small (published for CASIA-B) or large (OUMVLP, GREW); null goes by the number of channels."""
    class_num: int | None = Field(default=None, gt=0)
    """Classes k of the default head; not used with SeparateBNNecks."""
    SeparateBNNecks: SeparateBNNecksSettings | None = None
    """Classifier of the BNNeck head, which takes the place of the default one."""

    @model_validator(mode="after")
    def _agree(self) -> GaitGLKeys:
        expected = CHANNELS.get(self.variant or "", len(self.channels))
        if len(self.channels) != expected:
            raise ValueError(
                f"variant is {self.variant}, which takes {expected} channels, but channels is {self.channels}"
            )
        necks = self.SeparateBNNecks
        if necks is None and self.class_num is None:
            raise ValueError("class_num is missing; give it, or SeparateBNNecks for the BNNeck head")
        if necks is not None and (necks.parts_num, necks.in_channels) != (PARTS, self.channels[-1]):
            raise ValueError(
                f"SeparateBNNecks has parts_num {necks.parts_num} and in_channels {necks.in_channels}, but the network "
                f"gives {PARTS} parts of {self.channels[-1]} channels (channels {self.channels})"
            )
        return self


class GaitGLSettings(GaitGLKeys, ModelSettings):
    """Keys of `model_cfg`."""


class GLConv(nn.Module):
    """A convolution of the whole map beside one of its horizontal strips; keys `global_conv3d.*`, `local_conv3d.*`.

    Args:
        halving: the local convolution sees 2^halving strips, each by itself.
        concat: stack global over local map instead of adding them, which doubles the height.
    """

    def __init__(self, in_channels: int, out_channels: int, halving: int, concat: bool = False) -> None:
        super().__init__()
        self.halving = halving
        self.concat = concat
        self.global_conv3d = BasicConv3d(in_channels, out_channels)
        self.local_conv3d = BasicConv3d(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, s, h, w] -> [n, c_out, s, h or 2 h, w]."""
        of_map = F.leaky_relu(self.global_conv3d(x), inplace=True)
        of_strips = F.leaky_relu(convolve_strips(self.local_conv3d, x, self.halving), inplace=True)
        return torch.cat([of_map, of_strips], dim=3) if self.concat else of_map + of_strips


class GaitGL(BaseModel):
    """3-D convolutions that look at the body as a whole and at its parts, side by side.

    Packed sequences may have any lengths, in training too: they stay apart in every convolution over frames.
    """

    Settings: ClassVar[type[pydantic.BaseModel] | None] = GaitGLSettings

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        channels = model_cfg["channels"]
        c = channels[-1]
        self.conv3d: nn.Sequential
        if len(channels) == CHANNELS["small"]:
            self._build_small(*channels)
        else:
            self._build_large(*channels)
        self.HPP = GeMHPP([PARTS])
        self.Head0 = SeparateFCs(PARTS, c, c)
        self.has_necks = model_cfg["SeparateBNNecks"] is not None
        if self.has_necks:
            self.BNNecks = SeparateBNNecks(**model_cfg["SeparateBNNecks"])
        else:
            self.Bn = nn.BatchNorm1d(c)
            self.Head1 = SeparateClassifiers(PARTS, c, model_cfg["class_num"])

    def _build_small(self, c1: int, c2: int, c3: int) -> None:
        self.conv3d = nn.Sequential(BasicConv3d(1, c1), nn.LeakyReLU(inplace=True))
        self.LTA = _temporal_aggregation(c1)
        self.GLConvA0: nn.Module = GLConv(c1, c2, halving=3)
        self.MaxPool0 = nn.MaxPool3d((1, 2, 2))
        self.GLConvA1: nn.Module = GLConv(c2, c3, halving=3)
        self.GLConvB2: nn.Module = GLConv(c3, c3, halving=3, concat=True)

    def _build_large(self, c1: int, c2: int, c3: int, c4: int) -> None:
        activation = nn.LeakyReLU(inplace=True)
        self.conv3d = nn.Sequential(BasicConv3d(1, c1), activation, BasicConv3d(c1, c1), activation)
        self.LTA = _temporal_aggregation(c1)
        self.GLConvA0 = nn.Sequential(GLConv(c1, c2, halving=1), GLConv(c2, c2, halving=1))
        self.MaxPool0 = nn.MaxPool3d((1, 2, 2))
        self.GLConvA1 = nn.Sequential(GLConv(c2, c3, halving=1), GLConv(c3, c3, halving=1))
        self.GLConvB2 = nn.Sequential(GLConv(c3, c4, halving=1), GLConv(c4, c4, halving=1, concat=True))

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w], packed [1, sum of lengths, h, w]; fewer than 3 frames are repeated.

        Raises:
            ValueError: the input has a channel axis.
        """
        ipts, labs, _, _, seqL = inputs
        if ipts[0].ndim != 4:
            raise ValueError(f"GaitGL takes silhouettes [n, s, h, w] without channels, found {list(ipts[0].shape)}")
        sils = ipts[0].unsqueeze(1)  # [n, 1, s, h, w]

        parts = self.HPP(self._of_sequence(sils, seqL))  # [n, c, p]
        embeddings, logits = self._heads(parts)  # [n, c, p], [n, k, p]
        return {
            "training_feat": {
                "triplet": {"embeddings": embeddings, "labels": labs},
                "softmax": {"logits": logits, "labels": labs},
            },
            "visual_summary": {"image/sils": EqualLengths(STRIDE).lay(sils).transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": embeddings},
        }

    def _of_sequence(self, sils: Tensor, seqL: Tensor | None) -> Tensor:
        """[n, 1, s, h, w] -> [n, c, h, w / 2]: all convolutions, and the maximum over frames."""
        frames = layout(sils, seqL, gap=1, stride=STRIDE, least=STRIDE)
        # One channel lies both first and last in memory; said to be last, all convolutions leave theirs there too,
        # which they run faster with.
        x = frames.lay(sils).squeeze(1).unsqueeze(-1).permute(0, 4, 1, 2, 3)
        x = _run(self.conv3d, x, frames)  # [n, c1, s, h, w]
        frames = frames.every(STRIDE)
        x = _run(self.LTA, x, frames)  # [n, c1, t, h, w]
        x = self.MaxPool0(_run(self.GLConvA0, x, frames))  # [n, c2, t, h/2, w/2]
        x = _run(self.GLConvA1, x, frames)  # [n, c3, t, h/2, w/2]
        x = _run(self.GLConvB2, x, frames)  # [n, c, t, h, w/2]
        return frames.maximum(x)

    def _heads(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """[n, c, p] -> embeddings [n, c, p] and logits [n, k, p]."""
        gait = self.Head0(parts)
        if self.has_necks:
            return gait, self.BNNecks(gait)[1]
        embeddings = self.Bn(gait)  # statistics over sequences and parts together
        return embeddings, self.Head1(embeddings)

    def check_frame_size(self, height: int, width: int) -> None:
        """The map behind the poolings has twice h / 2 rows and w / 2 columns, and 64 parts have to divide it."""
        pixels = 2 * (height // 2) * (width // 2)
        if height // 2 < 8 or pixels % PARTS:
            raise ValueError(
                f"GaitGL cuts its last map, {2 * (height // 2)}x{width // 2} for frames of {height}x{width}, into "
                f"{PARTS} parts of equal size, which does not work out; frames of 64x44 are usual "
                "(BaseSilCuttingTransform on frames of 64x64)"
            )


def _temporal_aggregation(channels: int) -> nn.Sequential:
    """Joins three frames into one; one or two that are left over are dropped."""
    convolution = BasicConv3d(channels, channels, (STRIDE, 1, 1), stride=(STRIDE, 1, 1), padding=(0, 0, 0))
    return nn.Sequential(convolution, nn.LeakyReLU(inplace=True))


def _run(block: nn.Module, x: Tensor, frames: EqualLengths | GappedRow) -> Tensor:
    """One layer after the other, with the gaps between packed sequences empty before each of them."""
    for layer in block if isinstance(block, nn.Sequential) else [block]:
        x = layer(x)
        if not isinstance(layer, nn.LeakyReLU):  # which leaves zeros alone
            x = frames.clear(x)
    return x
