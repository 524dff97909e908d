"""The body's surface: ellipsoids, and the pairs of them whose convex hulls make up a silhouette."""

from __future__ import annotations

import itertools

import numpy as np

from opengait.synthetic.body import Body, FootFrame, foot_frame
from opengait.synthetic.skeleton import JOINT, SIDES, unit


class Surface:
    """Ellipsoids of one walk, collected by name, and links between them.

    A link is the convex hull of two ellipsoids: a tapered limb, a piece of the trunk, a coat's panel.
    """

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.links: list[tuple[int, int]] = []
        self._index: dict[str, int] = {}
        self._centres: list[np.ndarray] = []
        self._axes: list[np.ndarray] = []

    def add(self, name: str, centre: np.ndarray, axes: np.ndarray) -> None:
        """An ellipsoid: centre [s, 3] and its half axes as rows [s, 3, 3]."""
        self._index[name] = len(self._centres)
        self._centres.append(centre)
        self._axes.append(np.broadcast_to(axes, (self.frames, 3, 3)))

    def ball(self, name: str, centre: np.ndarray, radius: float) -> None:
        """A sphere: centre [s, 3]."""
        self.add(name, centre, radius * np.eye(3))

    def link(self, *names: str) -> None:
        """Joins each named ellipsoid to the next."""
        self.links += [(self._index[one], self._index[two]) for one, two in itertools.pairwise(names)]

    @property
    def link_names(self) -> list[str]:
        """The two ellipsoids of each link, such as `l_hip l_knee`."""
        names = list(self._index)
        return [f"{names[one]} {names[two]}" for one, two in self.links]

    @property
    def centres(self) -> np.ndarray:
        """float32 [s, ellipsoids, 3]"""
        return np.stack(self._centres, 1).astype(np.float32)

    @property
    def axes(self) -> np.ndarray:
        """float32 [s, ellipsoids, 3, 3]: rows are half axes."""
        return np.stack(self._axes, 1).astype(np.float32)


def frame_of(lateral: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rows left, up, forward [s, 3, 3]: `up` is kept, `lateral` made orthogonal to it."""
    up = unit(up)
    forward = unit(np.cross(lateral, up))
    return np.stack([np.cross(up, forward), up, forward], axis=1)


def trunk_frames(joints: np.ndarray) -> dict[str, np.ndarray]:
    """Axes [s, 3, 3] (rows left, up, forward) of pelvis, chest and head."""
    at = {name: joints[:, index] for name, index in JOINT.items()}
    hips, shoulders = at["l_hip"] - at["r_hip"], at["l_shoulder"] - at["r_shoulder"]
    return {
        "pelvis": frame_of(hips, at["chest"] - at["pelvis"]),
        "waist": frame_of(unit(hips) + unit(shoulders), at["chest"] - at["pelvis"]),
        "chest": frame_of(shoulders, at["neck"] - at["chest"]),
        "head": frame_of(unit(hips) + unit(shoulders), at["head_top"] - at["head"]),
    }


def dress(joints: np.ndarray, body: Body, hair: float = 0.0) -> Surface:
    """The surface of a body in close clothes.

    Args:
        joints: [s, 21, 3].
        body: widths; lengths are taken from the joints.
        hair: thickness over the skull in metres.
    """
    surface = Surface(len(joints))
    frames = trunk_frames(joints)
    _trunk(surface, joints, body, frames)
    _head(surface, joints, body, frames["head"], hair)
    for side, _ in SIDES:
        _arm(surface, joints, body, side)
        _leg(surface, joints, body, frames["pelvis"], side)
    return surface


def _scaled(frame: np.ndarray, left: float, up: float, forward: float) -> np.ndarray:
    return frame * np.array([left, up, forward])[:, None]


def _trunk(surface: Surface, joints: np.ndarray, body: Body, frames: dict[str, np.ndarray]) -> None:
    pelvis, chest, neck = (joints[:, JOINT[name]] for name in ("pelvis", "chest", "neck"))
    hips, back = frames["pelvis"], frames["chest"]
    seat = pelvis - 0.01 * hips[:, 1] - 0.006 * hips[:, 2]
    surface.add("pelvis", seat, _scaled(hips, body.pelvis_width, 0.085, body.pelvis_depth))
    waist = 0.35 * pelvis + 0.65 * chest
    surface.add("waist", waist, _scaled(frames["waist"], body.waist_width, 0.07, body.waist_depth))
    ribs = chest + 0.38 * (neck - chest)
    surface.add("chest", ribs, _scaled(back, body.chest_width, 0.12, body.chest_depth))
    yoke = chest + 0.80 * (neck - chest)
    surface.add("yoke", yoke, _scaled(back, 0.75 * body.shoulder_offset, 0.045, 0.70 * body.chest_depth))
    surface.ball("neck", neck + 0.01 * back[:, 1], body.neck_radius)
    for side, _ in SIDES:
        surface.ball(f"{side}_shoulder", joints[:, JOINT[f"{side}_shoulder"]], body.shoulder_radius)
        surface.link("chest", f"{side}_shoulder", "neck")
        surface.link("yoke", f"{side}_shoulder")
    surface.link("pelvis", "waist", "chest", "yoke", "neck")


def _head(surface: Surface, joints: np.ndarray, body: Body, frame: np.ndarray, hair: float) -> None:
    base, top = joints[:, JOINT["head"]], joints[:, JOINT["head_top"]]
    height = body.head * 0.58
    skull = top - (height - 0.005) * frame[:, 1] + 0.012 * frame[:, 2]
    surface.ball("skull_base", base + 0.02 * frame[:, 1], 0.92 * body.neck_radius)
    axes = _scaled(frame, body.head_width + hair, height + hair, body.head_depth + hair)
    surface.add("skull", skull - 0.3 * hair * frame[:, 2], axes)
    jaw = skull - 0.076 * frame[:, 1] + 0.036 * frame[:, 2]
    surface.add("jaw", jaw, _scaled(frame, 0.72 * body.head_width, 0.052, 0.58 * body.head_depth))
    surface.link("neck", "skull_base", "skull", "jaw")


def _arm(surface: Surface, joints: np.ndarray, body: Body, side: str) -> None:
    elbow, wrist, hand = (joints[:, JOINT[f"{side}_{name}"]] for name in ("elbow", "wrist", "hand"))
    surface.ball(f"{side}_elbow", elbow, body.elbow_radius)
    surface.ball(f"{side}_wrist", wrist, body.wrist_radius)
    surface.ball(f"{side}_hand", wrist + 0.65 * (hand - wrist), 1.25 * body.wrist_radius)
    surface.link(f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist", f"{side}_hand")


def _leg(surface: Surface, joints: np.ndarray, body: Body, hips: np.ndarray, side: str) -> None:
    hip, knee, ankle = (joints[:, JOINT[f"{side}_{name}"]] for name in ("hip", "knee", "ankle"))
    thigh, shank = unit(knee - hip), unit(ankle - knee)
    surface.ball(f"{side}_hip", hip + 0.02 * thigh, body.hip_radius)
    # The seat follows the thigh half way.
    seat = hip - 0.030 * hips[:, 2] + 0.03 * (thigh - hips[:, 1]) * 0.5
    surface.ball(f"{side}_seat", seat, 0.96 * body.hip_radius)
    surface.ball(f"{side}_knee", knee, body.knee_radius)
    foot = foot_frame(joints, body, side)
    behind = unit(np.cross(foot.side, shank))
    calf = knee + 0.30 * (ankle - knee) + 0.014 * behind
    surface.ball(f"{side}_calf", calf, body.calf_radius)
    surface.ball(f"{side}_ankle", ankle, body.ankle_radius)
    surface.link("pelvis", f"{side}_hip", f"{side}_knee", f"{side}_calf", f"{side}_ankle")
    surface.link("waist", f"{side}_seat", f"{side}_knee")
    _foot(surface, foot, body, side)


def _foot(surface: Surface, foot: FootFrame, body: Body, side: str) -> None:
    forward, up, across, heel, ball = foot
    heel_radius, ball_height = 0.034, 0.026
    surface.ball(f"{side}_heel", heel + heel_radius * (up + 0.3 * forward), heel_radius)
    axes = np.stack([0.042 * across, ball_height * up, 0.03 * forward], axis=1)
    surface.add(f"{side}_ball", ball + ball_height * up, axes)
    # Toes stay on the ground while the heel rises.
    flat = forward.copy()
    flat[:, 1] = np.maximum(flat[:, 1], -0.25)
    tip = ball + body.toes * unit(flat) + 0.018 * up
    surface.add(f"{side}_tip", tip, np.stack([0.032 * across, 0.018 * up, 0.02 * forward], axis=1))
    surface.link(f"{side}_ankle", f"{side}_heel", f"{side}_ball", f"{side}_tip")
    surface.link(f"{side}_ankle", f"{side}_ball")
