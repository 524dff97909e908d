"""The joints that every source of motion gives and the body renderer takes.

Axes: X to the subject's left, Y up, Z the walking direction, metres. Joint arrays are [s, 21, 3].
"""

from __future__ import annotations

import numpy as np

JOINTS = (
    "pelvis", "chest", "neck", "head", "head_top",
    "l_shoulder", "l_elbow", "l_wrist", "l_hand",
    "r_shoulder", "r_elbow", "r_wrist", "r_hand",
    "l_hip", "l_knee", "l_ankle", "l_toe",
    "r_hip", "r_knee", "r_ankle", "r_toe",
)  # fmt: skip
PARENTS = (-1, 0, 1, 2, 3, 2, 5, 6, 7, 2, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
JOINT = {name: index for index, name in enumerate(JOINTS)}
# Side letter and the sign of its X axis.
SIDES = (("l", 1.0), ("r", -1.0))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] at length one; a null vector stays null."""
    length = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return vectors / np.maximum(length, 1e-9)


def knee_flexion(joints: np.ndarray, side: str) -> np.ndarray:
    """Flexion of a knee in radians, [s]: positive where the shank is folded back behind the thigh."""
    hip, knee, ankle = (joints[:, JOINT[f"{side}_{name}"]] for name in ("hip", "knee", "ankle"))
    thigh, shank = unit(knee - hip), unit(ankle - knee)
    # The knee's axis points to the subject's left; seen along it, a flexed shank turns backwards.
    left = unit(joints[:, JOINT["l_hip"]] - joints[:, JOINT["r_hip"]])
    sine = (np.cross(thigh, shank) * left).sum(-1)
    return np.arctan2(sine, (thigh * shank).sum(-1))
