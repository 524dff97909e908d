"""SMPLGait: Gait Recognition in the Wild with Dense 3D Representations (Zheng et al., CVPR 2022, arXiv 2204.02569).

Shapes: n sequences, s frames, h x w pixels, c channels, p parts, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opengait.modeling.inputs import Inputs
from opengait.modeling.models.baseline import Baseline

SMPL_VALUES = 85
SIDE = 16


class SMPLGait(Baseline):
    """Baseline whose feature maps are turned by a matrix that a body model gives for each frame.

    The second modality are SMPL vectors of 85 numbers: camera 3, pose 72, shape 10. Keys of `model_cfg` are those of
    Baseline.
    """

    ragged_testing = True

    def build_network(self, model_cfg: Mapping[str, Any]) -> None:
        super().build_network(model_cfg)
        self.fc1 = nn.Linear(SMPL_VALUES, 128)
        self.fc2 = nn.Linear(128, 256)
        self.fc3 = nn.Linear(256, SIDE * SIDE)
        self.bn1 = nn.BatchNorm1d(128)
        self.bn2 = nn.BatchNorm1d(256)
        self.bn3 = nn.BatchNorm1d(SIDE * SIDE)
        self.dropout2 = nn.Dropout(0.2)
        self.dropout3 = nn.Dropout(0.2)

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """ipts: silhouettes [n, s, h, w] and SMPL vectors [n, s, 85]; packed [1, sum of lengths, ...].

        Raises:
            ValueError: another number of modalities, or silhouettes that do not leave a map of 16 rows.
        """
        ipts, labs, _, _, seqL = inputs
        if len(ipts) != 2:
            raise ValueError(f"SMPLGait takes silhouettes and SMPL vectors, found {len(ipts)} modalities")
        sils, smpls = ipts[0].unsqueeze(1), ipts[1]  # [n, 1, s, h, w], [n, s, 85]

        maps = self.Backbone(sils)  # [n, c, s, 16, w']
        height, width = maps.shape[-2:]
        if height != SIDE or width > SIDE:
            raise ValueError(f"expected maps of 16 x (16 or less), found {height}x{width}; frames are to be 64x44")
        maps = F.pad(maps, (0, SIDE - width))  # [n, c, s, 16, 16]
        turned = maps @ self._transforms(smpls).to(maps.dtype)
        of_sequence = self.TP(turned, seqL, options={"dim": 2})[0]  # [n, c, 16, 16]
        embeddings = self.FCs(self.HPP(of_sequence))  # [n, c, p]
        _, logits = self.BNNecks(embeddings)  # [n, k, p]

        return {
            "training_feat": {
                "triplet": {"embeddings": embeddings, "labels": labs},
                "softmax": {"logits": logits, "labels": labs},
            },
            "visual_summary": {"image/sils": sils.transpose(1, 2).flatten(0, 1)},
            "inference_feat": {"embeddings": embeddings},
        }

    def _transforms(self, smpls: Tensor) -> Tensor:
        """SMPL vectors [n, s, 85] -> one matrix a frame, near the identity, [n, 1, s, 16, 16]."""
        rows = smpls.flatten(0, 1)
        rows = F.relu(self.bn1(self.fc1(rows)))
        rows = F.relu(self.bn2(self.dropout2(self.fc2(rows))))
        rows = F.relu(self.bn3(self.dropout3(self.fc3(rows))))
        matrices = rows.view(*smpls.shape[:2], SIDE, SIDE) + torch.eye(SIDE, dtype=rows.dtype, device=rows.device)
        return matrices.unsqueeze(1)

    def check_frame_size(self, height: int, width: int) -> None:
        """Maps have to be 16 rows high and at most 16 columns wide: frames of 64x44 (or 64x64) with Plain."""
        super().check_frame_size(height, width)
        if height // 4 != SIDE or width // 4 > SIDE:
            raise ValueError(
                f"frames are {height}x{width}, and SMPLGait multiplies maps of 16x16, a quarter of frames 64 high and "
                "at most 64 wide; BaseSilCuttingTransform makes 64x44 of 64x64"
            )
