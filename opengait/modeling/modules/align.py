"""The differentiable crop of GaitEdge."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opengait.modeling.modules.precision import full_precision, no_autocast


class GaitAlign(nn.Module):
    """Cuts the person out of a square map and brings it to the size and aspect of a normalised silhouette.

    The box is found on a binary mask: its rows from the first to the last that is on, its columns around the one that
    halves the mass, as wide as the person's own aspect asks for. Gradients flow into the map only.

    Source: GaitEdge (Liang et al., ECCV 2022), section 3.2.

    Args:
        H, W: height and width of the result.
        eps: smallest sum of a row of the mask that counts as on.
    """

    def __init__(self, H: int = 64, W: int = 44, eps: float = 1) -> None:
        super().__init__()
        self.H, self.W, self.eps = H, W, eps

    def forward(self, feature_map: Tensor, binary_mask: Tensor, w_h_ratio: Tensor) -> Tensor:
        """Map and mask [n, 1, h, w], ratios with n values (width / height of each person's box) -> [n, 1, H, W].

        Raises:
            ValueError: shapes that do not fit.
        """
        if feature_map.ndim != 4 or feature_map.shape[1] != 1 or binary_mask.shape != feature_map.shape:
            raise ValueError(
                f"expected a map and a mask [n, 1, h, w], found {list(feature_map.shape)}, {list(binary_mask.shape)}"
            )
        if w_h_ratio.numel() != len(feature_map):
            raise ValueError(f"{len(feature_map)} maps need as many ratios, found {w_h_ratio.numel()}")
        from torchvision.ops import roi_align  # here, since only this network needs torchvision

        with no_autocast(feature_map):
            padding = self.W // 2
            padded = F.pad(full_precision(feature_map), (padding, padding))
            boxes = self.boxes(full_precision(binary_mask), full_precision(w_h_ratio)).to(padded.dtype)
            return roi_align(padded, boxes, (self.H, self.W), sampling_ratio=-1)

    @torch.no_grad()
    def boxes(self, mask: Tensor, ratio: Tensor) -> Tensor:
        """Mask [n, 1, h, w], n ratios -> [n, 5]: index, left, top, right, bottom on the padded map."""
        n, _, h, w = mask.shape
        rows = (mask.sum(-1) >= self.eps).flatten(1).cumsum(1)  # [n, h]
        top = (rows == 0).sum(1)
        bottom = (rows != rows[:, -1:]).sum(1) + 1
        columns = mask.sum(-2).flatten(1).cumsum(1)  # [n, w]
        center = (columns < columns[:, -1:] / 2).sum(1) + self.W // 2

        person = self.H * ratio.reshape(-1)  # width of the person in the result, in its pixels
        margin = ((self.W - person) / 2).clamp(min=0) / (person / w)  # at each side, in pixels of the map
        half = (bottom - top) * w / h / 2 + margin
        left = (center - half).clamp(0, w + 2 * (self.W // 2))
        right = (center + half).clamp(0, w + 2 * (self.W // 2))
        return torch.stack(
            [torch.arange(n, device=mask.device).to(left), left, top.to(left), right, bottom.to(left)], 1
        )
