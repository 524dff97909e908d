"""GLN: Gait Lateral Network: Learning Discriminative and Compact Representations (Hou et al., ECCV 2020).

Shapes: n sequences, s frames, h x w pixels, c channels, p parts, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from opengait.modeling.base_model import BaseModel
from opengait.modeling.inputs import Inputs
from opengait.modeling.modules import (
    BasicConv2d,
    HorizontalPoolingPyramid,
    PackSequenceWrapper,
    SeparateFCs,
    SetBlockWrapper,
    full_precision,
)
from opengait.modeling.modules.convolutions import Conv2d
from opengait.modeling.modules.precision import no_autocast
from opengait.modeling.settings import ModelSettings, SeparateFCsSettings

LEVELS = 3


class GLNSettings(ModelSettings):
    """Keys of `model_cfg`."""

    in_channels: list[int] = Field(min_length=4, max_length=4)
    """Channels of the frames and after each of the three stages."""
    lateral_dim: int = Field(gt=0)
    """Channels of the lateral and smoothing layers."""
    hidden_dim: int = Field(gt=0)
    """Channels of each part after the head; length of the compact vector."""
    SeparateFCs: SeparateFCsSettings
    """The linear map of each part."""
    Lateral_pretraining: bool
    """Phase 1 (without the compact block) or phase 2 (with it)."""
    bin_num: list[int] = Field(default_factory=lambda: [16, 8, 4, 2, 1])
    """Numbers of strips of the horizontal pyramid; all three levels have them all."""
    dropout: float = Field(default=0.9, ge=0, lt=1)
    """Share of the compact block's inputs that are dropped in training, phase 2."""
    class_num: int | None = Field(default=None, gt=0)
    """Classes k: subjects of the training set; needed in phase 2."""
    compat: Literal["reference"] | None = None
    """`reference` gives phase 2's logits as [n, 1, k], to be held against the reference implementation's."""

    @model_validator(mode="after")
    def _agree(self) -> GLNSettings:
        head, parts = self.SeparateFCs, LEVELS * sum(self.bin_num)
        if head.parts_num != parts:
            raise ValueError(
                f"SeparateFCs.parts_num is {head.parts_num}, but bin_num {self.bin_num} on three levels gives "
                f"{parts} parts"
            )
        if head.in_channels != self.lateral_dim:
            raise ValueError(f"SeparateFCs.in_channels is {head.in_channels}, but lateral_dim is {self.lateral_dim}")
        if self.Lateral_pretraining:
            return self
        if self.class_num is None:
            raise ValueError("class_num: missing; phase 2 (Lateral_pretraining: false) has a classifier")
        if head.out_channels != self.hidden_dim:
            raise ValueError(f"SeparateFCs.out_channels is {head.out_channels}, but hidden_dim is {self.hidden_dim}")
        return self


class GLN(BaseModel):
    """Features of frames and of the whole set at three resolutions, joined from coarse to fine by lateral layers.

    Phase 1 trains all parts with triplets. Phase 2 starts from its checkpoint (not strictly) and adds the compact
    block, a classifier of one vector for all parts; the embedding for testing stays that of the parts.

    The reference implementation's logits of phase 2 have classes and parts interchanged, so that its own cross entropy
    refuses every label above 0. `compat: reference` gives them in that form, which nothing here can be trained with.
    """

    Settings = GLNSettings
    ragged_testing = True

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        c0, c1, c2, c3 = model_cfg["in_channels"]
        lateral, hidden = model_cfg["lateral_dim"], model_cfg["hidden_dim"]
        self.pretraining = model_cfg["Lateral_pretraining"]
        self.logits_axis = 1 if model_cfg["compat"] == "reference" else -1
        self.sil_stage_0 = SetBlockWrapper(_stage(c0, c1, kernel_size=5))
        self.sil_stage_1 = SetBlockWrapper(_stage(c1, c2))
        self.sil_stage_2 = SetBlockWrapper(_stage(c2, c3))
        self.set_stage_1 = _stage(c1, c2)
        self.set_stage_2 = _stage(c2, c3)
        self.set_pooling = PackSequenceWrapper(torch.max)
        self.MaxP_sil = SetBlockWrapper(nn.MaxPool2d(2))
        self.MaxP_set = nn.MaxPool2d(2)

        self.lateral_layer1 = nn.Conv2d(2 * c1, lateral, 1, bias=False)
        self.lateral_layer2 = nn.Conv2d(2 * c2, lateral, 1, bias=False)
        self.lateral_layer3 = nn.Conv2d(2 * c3, lateral, 1, bias=False)
        self.smooth_layer1 = Conv2d(lateral, lateral, 3, padding=1, bias=False)
        self.smooth_layer2 = Conv2d(lateral, lateral, 3, padding=1, bias=False)
        self.smooth_layer3 = Conv2d(lateral, lateral, 3, padding=1, bias=False)

        self.HPP = HorizontalPoolingPyramid(model_cfg["bin_num"])
        self.Head = SeparateFCs(**model_cfg["SeparateFCs"])
        if not self.pretraining:
            values = LEVELS * sum(model_cfg["bin_num"]) * hidden
            self.encoder_bn = _norm_with_frozen_bias(values)
            self.dropout = nn.Dropout(model_cfg["dropout"])
            self.reduce_fc = nn.Linear(values, hidden, bias=False)
            self.reduce_bn = _norm_with_frozen_bias(hidden)
            self.reduce_cls = nn.Linear(hidden, model_cfg["class_num"], bias=False)

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w], packed [1, sum of lengths, h, w]; phase 2 logits are [n, k, 1]."""
        ipts, labs, _, _, seqL = inputs
        sils = ipts[0].unsqueeze(1) if ipts[0].ndim == 4 else ipts[0]  # [n, 1, s, h, w]

        frames = self.sil_stage_0(sils)  # [n, c1, s, h, w]
        set0 = self._over_frames(frames, seqL)  # [n, c1, h, w]
        frames = self.MaxP_sil(frames)  # [n, c1, s, h/2, w/2]
        halved = self._over_frames(frames, seqL)
        frames = self.sil_stage_1(frames)  # [n, c2, s, h/2, w/2]
        set1 = self._over_frames(frames, seqL)
        set2 = self._over_frames(self.sil_stage_2(self.MaxP_sil(frames)), seqL)  # [n, c3, h/4, w/4]
        total1 = self.set_stage_1(halved) + set1
        total2 = self.set_stage_2(self.MaxP_set(total1)) + set2

        # There is no path of the set at full resolution, so its first level stands twice.
        level3 = self.lateral_layer3(torch.cat([set2, total2], dim=1))  # [n, c, h/4, w/4]
        level2 = _doubled(level3) + self.lateral_layer2(torch.cat([set1, total1], dim=1))  # [n, c, h/2, w/2]
        level1 = _doubled(level2) + self.lateral_layer1(torch.cat([set0, set0], dim=1))  # [n, c, h, w]
        smooth = self.smooth_layer1(level1), self.smooth_layer2(level2), self.smooth_layer3(level3)
        embeddings = self.Head(torch.cat([self.HPP(level) for level in smooth], dim=-1))  # [n, c, p]

        training_feat = {"triplet": {"embeddings": embeddings, "labels": labs}}
        if not self.pretraining:
            training_feat["softmax"] = {"logits": self._compact(embeddings).unsqueeze(self.logits_axis), "labels": labs}
        return {
            "training_feat": training_feat,
            "visual_summary": {"image/sils": sils.transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": embeddings},
        }

    def _over_frames(self, frames: Tensor, seqL: Tensor | None) -> Tensor:
        """[n, c, s, h, w] -> [n, c, h, w]."""
        return self.set_pooling(frames, seqL, options={"dim": 2})[0]

    def _compact(self, embeddings: Tensor) -> Tensor:
        """The compact block: [n, c, p] -> logits [n, k]."""
        with no_autocast(embeddings):
            parts = self.encoder_bn(full_precision(embeddings).flatten(1))
            compact = self.reduce_fc(F.relu(self.dropout(parts)))
            return self.reduce_cls(self.reduce_bn(compact))

    def check_frame_size(self, height: int, width: int) -> None:
        """Two poolings halve the frame, and every number of strips has to divide each of the three maps."""
        if height % 4 or width % 4:
            raise ValueError(
                f"GLN halves its frames twice, and {height}x{width} is not divisible by 4; 128x88 is usual "
                "(BaseSilCuttingTransform on frames of 128x128)"
            )
        wrong = [bins for bins in self.HPP.bin_num if (height // 4) * (width // 4) % bins]
        if wrong:
            raise ValueError(
                f"frames of {height}x{width} leave maps of {height // 4}x{width // 4}, which model_cfg.bin_num "
                f"{self.HPP.bin_num} does not cut evenly: {wrong}; choose numbers that divide {height // 4}"
            )


def _stage(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    """[N, c_in, h, w] -> [N, c_out, h, w]."""
    return nn.Sequential(
        BasicConv2d(in_channels, out_channels, kernel_size, 1, kernel_size // 2),
        nn.LeakyReLU(inplace=True),
        BasicConv2d(out_channels, out_channels, 3, 1, 1),
        nn.LeakyReLU(inplace=True),
    )


def _norm_with_frozen_bias(channels: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(channels)
    norm.bias.requires_grad_(False)
    return norm


def _doubled(x: Tensor) -> Tensor:
    """[n, c, h, w] -> [n, c, 2 h, 2 w], every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
