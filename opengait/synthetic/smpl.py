"""SMPL-like vectors of a walk, as an estimator would give them for each frame: camera 3, pose 72, shape 10.

SMPL: A Skinned Multi-Person Linear Model (Loper et al., SIGGRAPH Asia 2015). Pose is 24 joints' rotations against their
parents in axis-angle form, from a rest pose with the arms held out sideways; the first one is the whole body's, in the
camera's axes (x right, y down, z away from it). Bones and joints of the walker give the rotations; a twist that they do
not show is taken from the neighbouring part. The shape has no model behind it: ten log ratios of the body's sizes to
the population's mean, in units of a size's spread.
"""

from __future__ import annotations

import numpy as np

from opengait.synthetic.body import SPREAD, Body, foot_frame, mean_body
from opengait.synthetic.camera import HEIGHT, Cameras
from opengait.synthetic.skeleton import JOINT, SIDES, unit
from opengait.synthetic.surface import frame_of, trunk_frames

JOINT_NAMES = (
    "pelvis", "l_hip", "r_hip", "spine1", "l_knee", "r_knee", "spine2", "l_ankle", "r_ankle", "spine3", "l_foot",
    "r_foot", "neck", "l_collar", "r_collar", "head", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist",
    "r_wrist", "l_hand", "r_hand",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
SIZE = 3 + 3 * len(JOINT_NAMES) + 10

# What each shape number is the mean of.
_SHAPE = (
    ("thigh", "shank", "lower_trunk", "upper_trunk"),
    ("waist_width", "waist_depth", "pelvis_depth", "chest_depth", "hip_radius"),
    ("thigh", "shank", "ankle_height"),
    ("lower_trunk", "upper_trunk"),
    ("shoulder_offset", "chest_width"),
    ("hip_offset", "pelvis_width"),
    ("upper_arm", "forearm", "hand"),
    ("neck", "head", "head_width", "head_depth"),
    ("shoulder_radius", "elbow_radius", "wrist_radius"),
    ("knee_radius", "calf_radius", "ankle_radius"),
)
# An estimator's errors: standard deviations of a sequence and of a frame.
_POSE_ERROR, _SHAPE_ERROR, _CAMERA_ERROR = (0.03, 0.03), (0.6, 0.15), (0.01, 0.01)


def smpl_vectors(joints: np.ndarray, body: Body, cameras: Cameras, number: int, rng: np.random.Generator) -> np.ndarray:
    """The vectors of one view.

    Args:
        joints: [s, 21, 3].
        body: the walker's own.
        cameras: of the scene.
        number: of the view among them.
        rng: draws the errors of the estimate.

    Returns:
        float32 [s, 85]: scale (of metres to half an image's height) and the pelvis's x and y (metres, y down) of a weak
        perspective camera; pose; shape.
    """
    frames = len(joints)
    right, up, forward = cameras.axes[number].astype(np.float64)
    offset = joints[:, JOINT["pelvis"]] - cameras.position[number]
    x, y, depth = ((offset * axis).sum(-1) for axis in (right, -up, forward))
    camera = np.stack([cameras.focal[number] / depth / (HEIGHT / 2), x, y], -1)
    pose = _pose(joints, body, np.stack([right, -up, forward]))
    shape = np.broadcast_to(body_shape(body), (frames, 10))
    parts = ((camera, _CAMERA_ERROR), (pose.reshape(frames, -1), _POSE_ERROR), (shape, _SHAPE_ERROR))
    return np.concatenate(
        [
            values + rng.normal(0, lasting, values.shape[1]) + rng.normal(0, passing, values.shape)
            for values, (lasting, passing) in parts
        ],
        axis=1,
    ).astype(np.float32)


def body_shape(body: Body) -> np.ndarray:
    """[10], near 0 for a body of mean sizes."""
    mean = mean_body()
    spread = sum(value**2 for value in SPREAD.values()) ** 0.5
    return np.array(
        [np.mean([np.log(getattr(body, name) / getattr(mean, name)) for name in names]) / spread for names in _SHAPE]
    )


def _pose(joints: np.ndarray, body: Body, camera: np.ndarray) -> np.ndarray:
    """Joints [s, 21, 3], the camera's axes as rows -> axis-angle vectors [s, 24, 3]."""
    axes = body_axes(joints, body)  # rows
    rotations = axes.swapaxes(-1, -2)  # from the rest pose, whose axes are those of the world
    relative = np.empty_like(rotations)
    relative[:, 0] = camera @ rotations[:, 0]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        relative[:, joint] = rotations[:, parent].swapaxes(-1, -2) @ rotations[:, joint]
    # An upright body is half a turn away from the camera's axes, whose y points down; its angle stays around that.
    reference = np.zeros((len(PARENTS), 4))
    reference[1:, 0] = reference[0, 1] = 1
    return axis_angle(relative, reference)


def body_axes(joints: np.ndarray, body: Body) -> np.ndarray:
    """Axes of the 24 parts in the world, [s, 24, 3, 3]; rows are where the rest pose's left, up and forward went."""
    at = {name: joints[:, index] for name, index in JOINT.items()}
    trunk = trunk_frames(joints)
    hips, chest, head = trunk["pelvis"], trunk["chest"], trunk["head"]
    axes = {"pelvis": hips, "spine1": trunk["waist"], "spine2": trunk["waist"], "spine3": chest, "head": head}
    axes["neck"] = frame_of(chest[:, 0], at["head"] - at["neck"])
    for side, sign in SIDES:
        foot = foot_frame(joints, body, side)
        axes[f"{side}_hip"] = frame_of(foot.side, at[f"{side}_hip"] - at[f"{side}_knee"])
        axes[f"{side}_knee"] = frame_of(foot.side, at[f"{side}_knee"] - at[f"{side}_ankle"])
        axes[f"{side}_ankle"] = axes[f"{side}_foot"] = np.stack([foot.side, foot.up, foot.forward], 1)
        axes[f"{side}_collar"] = chest
        upper, lower, hand = (
            unit(at[f"{side}_{end}"] - at[f"{side}_{begin}"])
            for begin, end in (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "hand"))
        )
        # The elbow's axis; an arm that hangs straight down bends forward, about the axis across the body.
        hinge = sign * (0.1 * chest[:, 0] - np.cross(upper, lower))
        for name, bone in (("shoulder", upper), ("elbow", lower), ("wrist", hand), ("hand", hand)):
            axes[f"{side}_{name}"] = _arm_axes(sign * bone, hinge)
    return np.stack([axes[name] for name in JOINT_NAMES], 1)


def _arm_axes(lateral: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rows [s, 3, 3]: `lateral` is kept, `up` made orthogonal to it."""
    forward = unit(np.cross(lateral, up))
    return np.stack([lateral, np.cross(forward, lateral), forward], 1)


def axis_angle(rotations: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] -> axis times angle in radians [..., 3].

    Of the two ways round, the one on the side of the quaternions `reference` [..., 4] (w, x, y, z) is taken, so that
    angles near half a turn do not jump; against (1, 0, 0, 0) they are at most half a turn.
    """
    m = rotations
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    x, y, z = (m[..., i, j] - m[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    # Row i of this matrix is 4 q_i q; the row of the largest q_i divides by no small number.
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    diagonal = [1 + 2 * m[..., i, i] - trace for i in range(3)]
    rows = [[1 + trace, x, y, z], [x, diagonal[0], xy, xz], [y, xy, diagonal[1], yz], [z, xz, yz, diagonal[2]]]
    table = np.stack([np.stack(row, -1) for row in rows], -2)
    largest = np.argmax(np.diagonal(table, axis1=-2, axis2=-1), -1)
    q = np.take_along_axis(table, largest[..., None, None], -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    q = np.where((q * reference).sum(-1, keepdims=True) < 0, -q, q)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return q[..., 1:] * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)
