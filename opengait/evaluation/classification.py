"""Classes told apart, not subjects: how many sequences get the class that their type names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def classification(logits: NDArray[np.generic], types: Sequence[str], classes: Mapping[str, int]) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 as means over classes, 0 to 1; a class that never occurs or is never given
    counts 0 where its share is not defined.

    Args:
        logits: `[n, k, p]`; the largest mean over parts is the class given.
        types: of each sequence, the name of its class in any case.
        classes: number of each class by name.

    Raises:
        ValueError: logits of another number of classes, not finite, or a type that names none.
    """
    if logits.ndim != 3 or logits.shape[1] != len(classes) or len(logits) != len(types) or not len(types):
        raise ValueError(
            f"logits of shape {list(logits.shape)} for {len(types)} sequences; expected [n, {len(classes)}, p]"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinite values; expected finite numbers")
    strange = sorted({str(kind) for kind in types if str(kind).lower() not in classes})
    if strange:
        raise ValueError(f"type '{strange[0]}' names no class; expected one of: {', '.join(classes)}")
    truth = np.array([classes[str(kind).lower()] for kind in types])
    given = logits.astype(np.float64).mean(axis=2).argmax(axis=1)
    there = sorted(set(truth.tolist()) | set(given.tolist()))
    right = np.array([np.sum((truth == one) & (given == one)) for one in there])
    precision = right / np.maximum([np.sum(given == one) for one in there], 1)
    recall = right / np.maximum([np.sum(truth == one) for one in there], 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "accuracy": float((truth == given).mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "F1": float(f1.mean()),
    }
