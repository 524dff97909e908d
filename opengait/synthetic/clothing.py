"""What a sequence's condition adds to a body: a coat, or a bag and the way it is carried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opengait.synthetic.body import Body
from opengait.synthetic.skeleton import JOINT, unit
from opengait.synthetic.surface import Surface, trunk_frames


@dataclass(frozen=True)
class Coat:
    """A coat from the shoulders to the thighs or knees; lengths in metres."""

    hem: float
    """fraction of the way from hip to knee"""
    ease: float
    """between body and cloth at the trunk"""
    flare: float
    """on top of that at the hem"""
    sleeve: float
    """between arm and cloth"""
    hood: float
    """size of a hood or collar behind the neck, 0 for none"""
    swing: float
    """fraction of the arm swing that its sleeves leave"""


@dataclass(frozen=True)
class Bag:
    """A bag: `kind` handbag, backpack or shoulderbag; half sizes in metres."""

    kind: str
    side: str
    width: float
    height: float
    depth: float
    swing: float
    """fraction of the arm swing that is left on the carrying side"""
    lean: float
    """radians that the trunk leans forward under the load"""


def draw_coat(rng: np.random.Generator) -> Coat:
    """A coat of one sequence."""
    hood = rng.uniform(0.05, 0.085) * (rng.uniform() < 0.6)
    return Coat(
        hem=rng.uniform(0.35, 1.0),
        ease=rng.uniform(0.045, 0.12),
        flare=rng.uniform(0.0, 0.10),
        sleeve=rng.uniform(0.02, 0.055),
        hood=hood,
        swing=rng.uniform(0.45, 0.85),
    )


def draw_bag(rng: np.random.Generator) -> Bag:
    """A bag of one sequence."""
    kind = ("handbag", "backpack", "shoulderbag")[rng.integers(3)]
    side = "lr"[rng.integers(2)]
    size = rng.uniform(0.7, 1.05)
    width, height, depth = {
        "handbag": (0.05, 0.14, 0.17), "backpack": (0.15, 0.21, 0.085), "shoulderbag": (0.055, 0.13, 0.17),
    }[kind]  # fmt: skip
    swing = rng.uniform(0.45, 0.8) if kind != "backpack" else rng.uniform(0.8, 1.0)
    lean = np.radians(rng.uniform(0, 4)) if kind == "backpack" else 0.0
    shape = np.exp(rng.normal(0, 0.12, 3)) * size
    return Bag(kind, side, width * shape[0], height * shape[1], depth * shape[2], swing, float(lean))


def carry(joints: np.ndarray, bag: Bag) -> np.ndarray:
    """The walk [s, 21, 3] under the bag: less arm swing on the carrying side, the trunk bent forward by a backpack."""
    joints = joints.copy()
    if bag.kind == "backpack":
        _lean(joints, bag.lean)
        for side in "lr":
            _quieten_arm(joints, side, bag.swing, hang=0.0)
    else:
        _quieten_arm(joints, bag.side, bag.swing, hang=0.5 if bag.kind == "handbag" else 0.15)
    return joints


def restrain(joints: np.ndarray, coat: Coat) -> np.ndarray:
    """The walk [s, 21, 3] in the coat: both arms swing less."""
    joints = joints.copy()
    for side in "lr":
        _quieten_arm(joints, side, coat.swing, hang=0.2)
    return joints


def _lean(joints: np.ndarray, angle: float) -> None:
    pelvis = joints[:, :1].copy()
    above = [
        index for name, index in JOINT.items() if name.split("_")[-1] not in ("pelvis", "hip", "knee", "ankle", "toe")
    ]
    arm = joints[:, above] - pelvis
    cos, sin = np.cos(angle), np.sin(angle)
    y, z = cos * arm[..., 1] - sin * arm[..., 2], sin * arm[..., 1] + cos * arm[..., 2]
    joints[:, above] = pelvis + np.stack([arm[..., 0], y, z], -1)


def _quieten_arm(joints: np.ndarray, side: str, keep: float, hang: float) -> None:
    """Keeps a fraction of the swing about the mean pose and pulls the forearm towards hanging down."""
    chain = [JOINT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hand")]
    bones = np.diff(joints[:, chain], axis=1)
    length = np.sqrt((bones**2).sum(-1, keepdims=True))
    mean = bones.mean(0, keepdims=True)
    calm = mean + keep * (bones - mean)
    down = np.array([0.0, -1.0, 0.0]) * length
    pull = np.array([0.4, 1.0, 1.0])[:, None] * hang
    calm = (1 - pull) * calm + pull * down
    joints[:, chain[1:]] = joints[:, chain[:1]] + np.cumsum(length * unit(calm), axis=1)


def wear_coat(surface: Surface, joints: np.ndarray, body: Body, coat: Coat) -> None:
    """Adds the coat to a dressed body's surface."""
    at = {name: joints[:, index] for name, index in JOINT.items()}
    frames = trunk_frames(joints)
    ease = coat.ease
    ribs = at["chest"] + 0.45 * (at["neck"] - at["chest"])
    size = np.array([body.chest_width + ease, 0.13, body.chest_depth + ease])
    surface.add("coat_chest", ribs, frames["chest"] * size[:, None])
    size = np.array([body.waist_width + 1.2 * ease, 0.08, body.waist_depth + 1.2 * ease])
    surface.add("coat_waist", 0.35 * at["pelvis"] + 0.65 * at["chest"], frames["waist"] * size[:, None])
    size = np.array([body.pelvis_width + ease, 0.09, body.pelvis_depth + ease])
    surface.add("coat_seat", at["pelvis"], frames["pelvis"] * size[:, None])
    _hem(surface, at, frames["pelvis"], body, coat)
    for side in "lr":
        sleeve = coat.sleeve
        surface.ball(f"coat_{side}_shoulder", at[f"{side}_shoulder"], body.shoulder_radius + 0.8 * sleeve)
        surface.ball(f"coat_{side}_elbow", at[f"{side}_elbow"], body.elbow_radius + sleeve)
        surface.ball(f"coat_{side}_wrist", at[f"{side}_wrist"], body.wrist_radius + 0.8 * sleeve)
        surface.link("coat_chest", f"coat_{side}_shoulder", f"coat_{side}_elbow", f"coat_{side}_wrist")
        surface.link(f"coat_{side}_shoulder", "neck")
    surface.link("coat_chest", "coat_waist", "coat_seat", "coat_hem")
    if coat.hood:
        behind = at["neck"] + 0.01 * frames["chest"][:, 1] - 0.045 * frames["chest"][:, 2]
        surface.ball("coat_hood", behind, coat.hood)
        surface.link("coat_hood", "coat_chest")


def _hem(surface: Surface, at: dict[str, np.ndarray], hips: np.ndarray, body: Body, coat: Coat) -> None:
    """The hem goes around both thighs, so it opens and closes with the stride."""
    left, right = (at[f"{side}_hip"] + coat.hem * (at[f"{side}_knee"] - at[f"{side}_hip"]) for side in "lr")
    radius = body.hip_radius + coat.hem * (body.knee_radius - body.hip_radius)
    apart = np.abs(((left - right)[:, None] * hips).sum(-1)) / 2
    room = radius + 0.6 * coat.ease + coat.flare
    zeros = np.zeros(len(apart))
    size = np.stack([np.maximum(apart[:, 0] + room, 0.9 * body.pelvis_width), zeros + 0.02, apart[:, 2] + room], -1)
    surface.add("coat_hem", (left + right) / 2, hips * size[..., None])


def hang_bag(surface: Surface, joints: np.ndarray, body: Body, bag: Bag) -> None:
    """Adds the bag to a dressed body's surface."""
    at = {name: joints[:, index] for name, index in JOINT.items()}
    frames = trunk_frames(joints)
    size = np.array([bag.width, bag.height, bag.depth])
    if bag.kind == "backpack":
        axes = frames["chest"]
        centre = at["chest"] + 0.25 * (at["neck"] - at["chest"]) - (body.chest_depth + 0.6 * bag.depth) * axes[:, 2]
        ends = 0.35 * bag.height * axes[:, 1]
        halves = np.array([bag.width, 0.65 * bag.height, bag.depth])
    else:
        centre, axes = _beside(at, frames["pelvis"], body, bag)
        ends = 0.45 * bag.depth * axes[:, 2]
        halves = size * np.array([1.0, 1.0, 0.55])
        surface.ball("strap_low", centre + 0.8 * bag.height * axes[:, 1], 0.012)
        holder = f"{bag.side}_hand" if bag.kind == "handbag" else f"{bag.side}_shoulder"
        surface.ball("strap_high", at[holder], 0.012)
        surface.link("strap_low", "strap_high")
    for name, sign in (("one", 1), ("two", -1)):
        surface.add(f"bag_{name}", centre + sign * ends, axes * halves[:, None])
    surface.link("bag_one", "bag_two")


def _beside(at: dict[str, np.ndarray], hips: np.ndarray, body: Body, bag: Bag) -> tuple[np.ndarray, np.ndarray]:
    """Centre and axes of a bag that hangs upright: from the hand, or from the shoulder at the hip."""
    sign = 1.0 if bag.side == "l" else -1.0
    upright = np.broadcast_to(np.eye(3), hips.shape)
    if bag.kind == "handbag":
        return at[f"{bag.side}_hand"] - np.array([0.0, 0.05 + bag.height, 0.0]), upright
    beside = at["pelvis"] + sign * (body.pelvis_width + 0.7 * bag.width) * hips[:, 0]
    return beside - 0.03 * hips[:, 2] + 0.02 * hips[:, 1], upright
