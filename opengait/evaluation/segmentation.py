"""How well predicted silhouettes cover the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def sequence_iou(features: object, frames: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """`pred` and `mask`, a row a frame, to what `mean_iou` needs of each sequence, so that no images have to be kept.

    Args:
        features: mapping with `pred` and `mask`, [sum of frames, ...].
        frames: number of frames of each of n sequences, in the order of the rows.

    Returns:
        'iou' -> [n, 2]: sum over frames of the intersection over union, and number of frames.

    Raises:
        ValueError: as `mean_iou`; or the rows are not as many as the frames.
    """
    values = mask_iou(*_images(features))
    if len(values) != sum(frames):
        raise ValueError(f"pred and mask have {len(values)} rows for {sum(frames)} frames; expected a row a frame")
    sums = [part.sum() for part in np.split(values, np.cumsum(frames)[:-1])]
    return {"iou": np.stack([np.array(sums), np.array(frames, dtype=np.float64)], 1)}


def mean_iou(features: object) -> float:
    """Mean over images of `pred` against `mask`, 0 to 1; or from the `iou` [n, 2] of `sequence_iou`.

    Raises:
        ValueError: `features` is no mapping with both, or not finite.
    """
    if isinstance(features, Mapping) and "iou" in features:
        total, frames = np.asarray(features["iou"], dtype=np.float64).reshape(-1, 2).sum(0)
        if not (np.isfinite(total) and frames > 0):
            raise ValueError(f"iou sums to {total} over {frames} frames; expected a finite number and some frames")
        return float(total / frames)
    return float(mask_iou(*_images(features)).mean())


def _images(features: object) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    if not isinstance(features, Mapping) or not {"pred", "mask"} <= set(features):
        found = ", ".join(sorted(features)) if isinstance(features, Mapping) else type(features).__name__
        raise ValueError(f"segmentation needs a mapping with 'pred' and 'mask'; found: {found or 'nothing in it'}")
    pred, mask = (
        value.detach().cpu().float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for value in (features["pred"], features["mask"])
    )
    return pred, mask
