"""Names of sequences laid out as CASIA-B's, for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TYPES = [*(f"nm-0{i}" for i in range(1, 7)), "bg-01", "bg-02", "cl-01", "cl-02"]
VIEWS = ["000", "036", "090", "144"]


def casia_names(subjects: int, views: list[str] | None = None) -> tuple[list[str], list[str], list[str]]:
    """Labels, types and views of every sequence."""
    rows = [(f"{75 + s:03d}", t, v) for s in range(subjects) for t in TYPES for v in (views or VIEWS)]
    labels, types, seen = zip(*rows, strict=True)
    return list(labels), list(types), list(seen)


def subject_embeddings(labels: list[str], noise: float, *, seed: int = 0, parts: int = 2) -> NDArray[np.float32]:
    """A random point for each subject, with noise: `[n, 4, parts]`."""
    rng = np.random.default_rng(seed)
    known, codes = np.unique(labels, return_inverse=True)
    centres = rng.normal(size=(len(known), 4, parts))
    return (centres[codes] + noise * rng.normal(size=(len(labels), 4, parts))).astype(np.float32)
