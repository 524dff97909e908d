"""The procedural walk: traits and phase -> joint positions of a walker who stays on the spot.

Curves of hip and foot follow the normal walk in Winter, Biomechanics and Motor Control of Human Movement, and Perry,
Gait Analysis. Phase 0 of a leg is its heel strike; it leaves the ground at about 0.62.
"""

from __future__ import annotations

import numpy as np

from opengait.synthetic.body import TOE_JOINT_DROP, Body, foot_frame
from opengait.synthetic.gait import vary_gait
from opengait.synthetic.skeleton import JOINT, JOINTS, SIDES

Traits = dict[str, np.ndarray]

# Degrees at each twentieth of a stride.
_HIP = (30, 28, 25, 20, 15, 10, 6, 1, -3, -7, -10, -9, -5, 3, 13, 22, 28, 33, 34, 32)
# Foot pitch as a fraction: of the heel-strike pitch where positive, of the toe-off pitch where negative.
_TOE_UP = (1.0, 0.45, 0.05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.05, 0.35, 0.75, 1.0)
_HEEL_UP = (0, 0, 0, 0, 0, 0, 0, 0.01, 0.06, 0.14, 0.28, 0.52, 0.84, 1.0, 0.86, 0.56, 0.22, 0.04, 0, 0)
_TOE_OFF_PITCH = np.radians(62)
_ANKLE_RANGE = np.radians((-34, 20))
_MIN_KNEE = np.radians(1.5)


def walk_phase(cadence: float, frames: int, fps: float, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Strides walked at each frame, [s], from a random start in [0, 1); `jitter` is the relative drift of the pace."""
    start = rng.uniform()
    drift = np.interp(np.arange(frames), np.linspace(0, frames, 5), rng.normal(0, jitter, 5))
    pace = cadence / fps * np.exp(rng.normal(0, jitter) + drift)
    return start + np.cumsum(pace) - pace[0]


def walk(body: Body, gait: dict[str, float], phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Joint positions [s, 21, 3] of one walk; the pelvis stays above the origin but for sway and bounce."""
    traits = vary_gait(gait, phase, rng)
    joints = np.zeros((len(phase), len(JOINTS), 3))
    lateral = _pelvis_axis(traits, phase)
    for side, sign in SIDES:
        _leg(joints, body, traits, phase, lateral, side, sign)
    _trunk(joints, body, traits, phase)
    for side, sign in SIDES:
        _arm(joints, body, traits, phase, side, sign)
    stand_on_ground(joints, body)
    _sway(joints, traits, phase)
    return joints


def leg_phase(traits: Traits, phase: np.ndarray, sign: float) -> np.ndarray:
    """The phase of the left (sign 1) or right leg; the right one follows half a stride later, give or take."""
    return phase if sign > 0 else phase + 0.5 + traits["step_asymmetry"]


def _curve(table: tuple[float, ...], phase: np.ndarray) -> np.ndarray:
    """A periodic curve through the table, without the corners of straight pieces."""
    terms = np.fft.rfft(np.asarray(table, float))[:7] / len(table)
    angle = 2 * np.pi * phase[:, None] * np.arange(7)
    weight = np.array([1.0, *[2.0] * 6])
    return (weight * (terms.real * np.cos(angle) - terms.imag * np.sin(angle))).sum(-1)


def _bump(phase: np.ndarray, centre: float, sharpness: float) -> np.ndarray:
    """1 at `centre`, near 0 half a stride away."""
    return np.exp(sharpness * (np.cos(2 * np.pi * (phase - centre)) - 1))


def _in_plane(pitch: np.ndarray, outward: np.ndarray, sign: float) -> np.ndarray:
    """Direction [s, 3] of a limb that hangs down at pitch 0, swings forward with pitch and outward to its own side."""
    return np.stack(
        [sign * np.sin(outward), -np.cos(outward) * np.cos(pitch), np.cos(outward) * np.sin(pitch)], axis=-1
    )


def _pelvis_axis(traits: Traits, phase: np.ndarray) -> np.ndarray:
    """Unit vector [s, 3] from the pelvis to the left hip: forward at left heel strike, high over a standing leg."""
    turn = -traits["pelvis_turn"] * np.cos(2 * np.pi * phase)
    drop = traits["pelvis_drop"] * np.sin(2 * np.pi * phase)
    return np.stack([np.cos(turn) * np.cos(drop), np.sin(drop), -np.sin(turn) * np.cos(drop)], axis=-1)


def _leg(
    joints: np.ndarray, body: Body, traits: Traits, phase: np.ndarray, lateral: np.ndarray, side: str, sign: float
) -> None:
    at = leg_phase(traits, phase, sign)
    stride = traits["stride"] * (1 + sign * traits["stride_asymmetry"])
    swing = _bump(at, 0.75, 2.5)
    hip = stride * np.radians(_curve(_HIP, at) - 11) + np.radians(3) + traits["hip_bias"]
    hip = hip + traits["thigh_lift"] * _bump(at, 0.82, 3.0) + 0.5 * traits["knee_bend"]
    knee = traits["knee_bend"] + np.radians(13) * stride * _bump(at, 0.14, 7.0)
    # The knee folds as far as the step asks for and is nearly straight again at heel strike.
    knee = knee + traits["knee_lift"] * np.radians(58) * _bump(at, 0.725, 1.9) - np.radians(4)
    knee = np.maximum(knee, _MIN_KNEE)
    shank_pitch = hip - knee
    pitch = traits["toe_lift"] * _curve(_TOE_UP, at)
    pitch = pitch - traits["push_off"] * np.sqrt(stride) * _TOE_OFF_PITCH * _curve(_HEEL_UP, at)
    pitch = np.clip(pitch, shank_pitch + _ANKLE_RANGE[0], shank_pitch + _ANKLE_RANGE[1])
    out = np.arcsin((traits["step_width"] / 2 - body.hip_offset) / (body.thigh + body.shank))
    out = out + traits["leg_swing_out"] * swing
    yaw = traits["foot_angle"] * (1 - 0.3 * swing)
    forward = np.stack([sign * np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=-1)
    down = np.stack([sign * np.sin(yaw) * np.sin(pitch), -np.cos(pitch), np.cos(yaw) * np.sin(pitch)], axis=-1)
    hip_joint = sign * body.hip_offset * lateral
    knee_joint = hip_joint + body.thigh * _in_plane(hip, out + traits["knee_valgus"], sign)
    ankle = knee_joint + body.shank * _in_plane(shank_pitch, out - traits["knee_valgus"], sign)
    for name, position in (("hip", hip_joint), ("knee", knee_joint), ("ankle", ankle)):
        joints[:, JOINT[f"{side}_{name}"]] = position
    joints[:, JOINT[f"{side}_toe"]] = ankle + body.foot * forward + TOE_JOINT_DROP * body.ankle_height * down


def _trunk(joints: np.ndarray, body: Body, traits: Traits, phase: np.ndarray) -> None:
    angle = 2 * np.pi * phase
    roll = traits["trunk_roll"] * np.sin(angle) + traits["trunk_tilt"]
    # The trunk pitches a little at each heel strike, twice a stride.
    lean = traits["lean"] + np.radians(1.2) * traits["stride"] * np.cos(2 * angle)
    upper = lean + traits["stoop"]
    nod = traits["head_nod"] * np.cos(2 * angle + 0.6)

    def up(pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(roll), np.cos(roll) * np.cos(pitch), np.cos(roll) * np.sin(pitch)], axis=-1)

    pelvis = joints[:, JOINT["pelvis"]]
    chest = pelvis + body.lower_trunk * up(lean - 0.3 * traits["stoop"], 0.6 * roll)
    neck = chest + body.upper_trunk * up(upper, roll)
    head = neck + body.neck * up(traits["neck_forward"] + 0.5 * upper, 0.6 * roll)
    top = head + body.head * up(traits["head_pitch"] + nod, 0.3 * roll)
    for name, position in (("chest", chest), ("neck", neck), ("head", head), ("head_top", top)):
        joints[:, JOINT[name]] = position
    turn = traits["shoulder_turn"] * np.cos(angle)
    lateral = np.stack([np.cos(turn) * np.cos(roll), -np.sin(roll), -np.sin(turn) * np.cos(roll)], axis=-1)
    forward = np.stack([np.sin(turn), np.zeros_like(turn), np.cos(turn)], axis=-1)
    middle = neck - 0.075 * (neck - chest) / body.upper_trunk
    for side, sign in SIDES:
        shift = traits["shoulder_raise"][:, None] * np.array([0.0, 1.0, 0.0])
        shift = shift + traits["shoulder_round"][:, None] * forward
        joints[:, JOINT[f"{side}_shoulder"]] = middle + sign * body.shoulder_offset * lateral + shift


def _arm(joints: np.ndarray, body: Body, traits: Traits, phase: np.ndarray, side: str, sign: float) -> None:
    # An arm is furthest ahead when the other leg strikes.
    angle = 2 * np.pi * (leg_phase(traits, phase, -sign) - traits["arm_lag"])
    amount = 1 + sign * traits["arm_asymmetry"]
    pitch = traits["arm_bias"] + 0.35 * traits["lean"] + amount * traits["arm_swing"] * np.cos(angle)
    bend = traits["elbow_bend"] + amount * traits["elbow_swing"] * (0.5 + 0.5 * np.cos(angle - 0.5))
    out = traits["arm_out"] + 0.1 * traits["elbow_bend"]
    shoulder = joints[:, JOINT[f"{side}_shoulder"]]
    elbow = shoulder + body.upper_arm * _in_plane(pitch, out, sign)
    reach = _in_plane(pitch + bend, out - traits["arm_in"] - 0.25 * bend, sign)
    wrist = elbow + body.forearm * reach
    joints[:, JOINT[f"{side}_elbow"]] = elbow
    joints[:, JOINT[f"{side}_wrist"]] = wrist
    joints[:, JOINT[f"{side}_hand"]] = wrist + body.hand * _in_plane(pitch + bend + 0.1, out - 0.25 * bend, sign)


def stand_on_ground(joints: np.ndarray, body: Body) -> None:
    """Moves every frame of joints [s, 21, 3] up or down so that the lower foot is on y = 0."""
    feet = [foot_frame(joints, body, side) for side, _ in SIDES]
    soles = np.stack([point[:, 1] for foot in feet for point in (foot.heel, foot.ball)])
    # A soft minimum, lest the body jerks where one foot takes over from the other.
    lowest = soles.min(0) - np.log(np.exp(-80 * (soles - soles.min(0))).sum(0)) / 80
    joints[..., 1] -= lowest[:, None]


def _sway(joints: np.ndarray, traits: Traits, phase: np.ndarray) -> None:
    upper = [index for index, name in enumerate(JOINTS) if name.split("_")[-1] not in ("knee", "ankle", "toe")]
    rise = -traits["bounce"] * 0.5 * np.cos(4 * np.pi * phase)
    shift = np.stack([traits["sway"] * np.sin(2 * np.pi * phase), rise, np.zeros_like(rise)], axis=-1)
    joints[:, upper] += shift[:, None]
    # The legs follow the pelvis: knees half of the way, feet stay.
    knees = [JOINT["l_knee"], JOINT["r_knee"]]
    joints[:, knees] += 0.5 * shift[:, None]
