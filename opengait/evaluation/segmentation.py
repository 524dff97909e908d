"""How well predicted silhouettes cover the true ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray


def mask_iou(pred: NDArray[np.generic], mask: NDArray[np.generic]) -> NDArray[np.float64]:
    """Intersection over union of each image, 0 to 1: `[n, ...]` twice -> `[n]`; two empty masks give 0.

    Raises:
        ValueError: shapes differ, no image, or values that are not finite.
    """
    if pred.shape != mask.shape or pred.ndim < 2 or pred.size == 0:
        raise ValueError(f"pred has shape {list(pred.shape)} and mask {list(mask.shape)}; expected the same [n, ...]")
    values = np.empty(len(pred), dtype=np.float64)
    for i, (ours, truth) in enumerate(zip(pred, mask, strict=True)):
        ours, truth = ours.astype(np.float64), truth.astype(np.float64)
        if not (np.isfinite(ours).all() and np.isfinite(truth).all()):
            raise ValueError(f"image {i} of pred or mask holds NaN or infinite values; expected finite numbers")
        values[i] = (ours * truth).sum() / (np.count_nonzero(ours + truth > 0) + 1e-9)
    return values


def mean_iou(features: object) -> float:
    """Mean over images of `pred` against `mask`, 0 to 1.

    Raises:
        ValueError: `features` is no mapping with both.
    """
    if not isinstance(features, Mapping) or not {"pred", "mask"} <= set(features):
        found = ", ".join(sorted(features)) if isinstance(features, Mapping) else type(features).__name__
        raise ValueError(f"segmentation needs a mapping with 'pred' and 'mask'; found: {found or 'nothing in it'}")
    pred, mask = (
        value.detach().cpu().float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for value in (features["pred"], features["mask"])
    )
    return float(mask_iou(pred, mask).mean())
