"""A subject's body: lengths and half widths in metres, drawn from (seed, subject).

Means are adult proportions after Winter, Biomechanics and Motor Control of Human Movement (segment lengths as fractions
of stature). Sizes vary together: one factor for legs against trunk, one for stoutness, one for frame width, and a
little of each size's own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from opengait.synthetic.keys import generator
from opengait.synthetic.skeleton import JOINT, unit


@dataclass(frozen=True)
class Body:
    """Sizes of one body in metres. Widths and depths are half axes, `radius` is that of a limb's round section."""

    thigh: float = 0.420
    shank: float = 0.415
    ankle_height: float = 0.070
    foot: float = 0.122  # ankle to ball
    toes: float = 0.052
    heel: float = 0.055
    hip_offset: float = 0.090  # midline to hip joint
    lower_trunk: float = 0.235  # pelvis to chest joint
    upper_trunk: float = 0.265  # chest joint to base of the neck
    neck: float = 0.092
    head: float = 0.190  # skull base to crown
    shoulder_offset: float = 0.172
    upper_arm: float = 0.295
    forearm: float = 0.250
    hand: float = 0.110
    pelvis_width: float = 0.160
    pelvis_depth: float = 0.102
    waist_width: float = 0.136
    waist_depth: float = 0.100
    chest_width: float = 0.150
    chest_depth: float = 0.112
    neck_radius: float = 0.055
    head_width: float = 0.076
    head_depth: float = 0.091
    shoulder_radius: float = 0.056
    elbow_radius: float = 0.041
    wrist_radius: float = 0.029
    hip_radius: float = 0.085
    knee_radius: float = 0.056
    calf_radius: float = 0.054
    ankle_radius: float = 0.037

    @property
    def leg(self) -> float:
        """Hip joint to sole."""
        return self.thigh + self.shank + self.ankle_height

    def widened(self, torso: float, limbs: float) -> Body:
        """The same skeleton with all torso and all limb sections scaled: how tightly clothes sit."""
        sections = {name: getattr(self, name) * torso for name in _TORSO}
        return replace(self, **sections, **{name: getattr(self, name) * limbs for name in _LIMBS})


_LEG = ("thigh", "shank", "ankle_height")
_TRUNK = ("lower_trunk", "upper_trunk", "neck")
_TORSO = ("pelvis_width", "pelvis_depth", "waist_width", "waist_depth", "chest_width", "chest_depth")
_LIMBS = ("shoulder_radius", "elbow_radius", "wrist_radius", "hip_radius", "knee_radius", "calf_radius")
_FRAME = ("shoulder_offset", "hip_offset", "chest_width", "pelvis_width")

# The toe joint lies this far below the ankle, as a fraction of the ankle's height.
TOE_JOINT_DROP = 0.8

# Spread (standard deviation of the natural logarithm) of the shared factors and of each size's own part.
SPREAD = {"stature": 0.030, "legs": 0.030, "stout": 0.075, "frame": 0.045, "own": 0.025}


def mean_body() -> Body:
    """The population mean: everybody's body where bodies are not to tell subjects apart."""
    return Body()


def draw_body(seed: int, subject: int) -> Body:
    """The body of a subject, a function of (seed, subject) alone."""
    rng = generator(seed, "body", subject)
    stature, legs, stout, frame = (rng.normal(0, SPREAD[name]) for name in ("stature", "legs", "stout", "frame"))
    sizes = {}
    for field in fields(Body):
        log = stature + rng.normal(0, SPREAD["own"])
        log += legs * (field.name in _LEG) - legs * (field.name in _TRUNK)
        log += stout * (field.name in _TORSO + _LIMBS) + frame * (field.name in _FRAME)
        sizes[field.name] = float(field.default * np.exp(log))
    return Body(**sizes)


class FootFrame(NamedTuple):
    """Axes of a foot and the sole's points, each [s, 3]."""

    forward: np.ndarray
    up: np.ndarray
    side: np.ndarray
    heel: np.ndarray
    ball: np.ndarray


def foot_frame(joints: np.ndarray, body: Body, side: str) -> FootFrame:
    """Where the sole lies, from knee, ankle and toe joints [s, 21, 3]; the toe joint sits a little above the ball."""
    knee, ankle, toe = (joints[:, JOINT[f"{side}_{name}"]] for name in ("knee", "ankle", "toe"))
    slope = unit(toe - ankle)
    across = unit(np.cross(knee - ankle, slope))
    above = np.cross(slope, across)
    angle = np.arctan2(TOE_JOINT_DROP * body.ankle_height, body.foot)
    forward = np.cos(angle) * slope + np.sin(angle) * above
    up = np.cos(angle) * above - np.sin(angle) * slope
    heel = ankle - body.heel * forward - body.ankle_height * up
    ball = ankle + body.foot * forward - body.ankle_height * up
    return FootFrame(forward, up, across, heel, ball)
