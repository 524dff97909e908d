from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from opengait.synthetic.body import Body, draw_body, mean_body
from opengait.synthetic.gait import TRAITS, draw_gait, mean_gait
from opengait.synthetic.keys import generator
from opengait.synthetic.skeleton import JOINT, JOINTS, PARENTS, knee_flexion
from opengait.synthetic.walking import walk, walk_phase

SUBJECTS = range(40)


def walk_of(subject: int, frames: int = 60, number: int = 0) -> np.ndarray:
    rng = generator(3, "test", subject, number)
    gait = draw_gait(3, subject)
    return walk(draw_body(3, subject), gait, walk_phase(gait["cadence"], frames, 25, 0.03, rng), rng)


def at(joints: np.ndarray, name: str) -> np.ndarray:
    return joints[:, JOINT[name]]


def test_knees_never_hyperextend():
    for subject in SUBJECTS:
        joints = walk_of(subject)
        for side in "lr":
            flexion = np.degrees(knee_flexion(joints, side))
            assert flexion.min() > -1, subject
            assert 30 < flexion.max() < 110, subject


def test_elbows_bend_forward():
    for subject in SUBJECTS:
        joints = walk_of(subject)
        for side in "lr":
            upper = at(joints, f"{side}_elbow") - at(joints, f"{side}_shoulder")
            lower = at(joints, f"{side}_wrist") - at(joints, f"{side}_elbow")
            assert np.cross(upper, lower)[:, 0].max() < 0.01


def test_one_foot_is_on_the_ground_and_neither_below():
    for subject in SUBJECTS:
        joints = walk_of(subject)
        toes = np.minimum(at(joints, "l_toe")[:, 1], at(joints, "r_toe")[:, 1])
        assert toes.min() > -0.02
        assert toes.max() < 0.12


def test_arms_swing_against_the_legs():
    joints = walk(mean_body(), mean_gait(), np.arange(100) / 50, generator(0, "test"))
    for arm, leg in (("l", "r"), ("r", "l")):
        hand, foot = (at(joints, name)[:, 2] for name in (f"{arm}_hand", f"{leg}_ankle"))
        assert np.corrcoef(hand, foot)[0, 1] > 0.7


def test_left_is_left_and_the_head_is_up():
    joints = walk_of(0)
    assert (at(joints, "l_shoulder")[:, 0] > at(joints, "r_shoulder")[:, 0]).all()
    for below, above in (("pelvis", "chest"), ("chest", "neck"), ("neck", "head"), ("head", "head_top")):
        assert (at(joints, above)[:, 1] > at(joints, below)[:, 1]).all()


def test_trunk_and_arms_keep_their_length():
    joints = walk_of(1)
    for joint, parent in enumerate(PARENTS):
        if JOINTS[joint].split("_")[-1] in ("chest", "neck", "elbow", "wrist", "hand", "top"):
            length = np.linalg.norm(joints[:, joint] - joints[:, parent], axis=1)
            np.testing.assert_allclose(length, length[0], rtol=1e-9)


def test_stand_in_heel_strike_ahead_and_toe_off_behind():
    joints = walk(mean_body(), mean_gait(), np.array([0.0, 0.6]), generator(0, "test"))
    strike = at(joints, "l_ankle") - at(joints, "pelvis")
    toe = (at(joints, "l_toe") - at(joints, "l_ankle"))[:, 1]
    assert strike[0, 2] > 0.2
    assert toe[0] > -0.02
    assert strike[1, 2] < -0.1
    assert toe[1] < -0.1


def test_subjects_depend_on_seed_and_number_alone():
    assert draw_body(1, 7) == draw_body(1, 7)
    assert draw_gait(1, 7) == draw_gait(1, 7)
    assert draw_body(1, 7) != draw_body(1, 8)
    assert draw_gait(1, 7) != draw_gait(2, 7)


def test_traits_stay_within_their_range_and_fill_it():
    gaits = [draw_gait(0, subject) for subject in range(300)]
    for name, trait in TRAITS.items():
        values = np.array([gait[name] for gait in gaits])
        assert trait.low <= values.min() < values.max() <= trait.high * (1.2 if name == "arm_swing" else 1)
        assert np.ptp(values) > 0.9 * (trait.high - trait.low)
        # A walk of one subject is far nearer to the subject than subjects are to each other.
        assert np.hypot(trait.walk, trait.stride) < 0.7 * values.std()


def test_sizes_of_a_body_vary_together():
    bodies = [draw_body(0, subject) for subject in range(300)]
    sizes = {field.name: np.log([getattr(body, field.name) for body in bodies]) for field in fields(Body)}
    assert np.corrcoef(sizes["thigh"], sizes["shank"])[0, 1] > 0.5
    assert np.corrcoef(sizes["waist_width"], sizes["hip_radius"])[0, 1] > 0.5
    assert np.std(sizes["thigh"]) < 0.1


@pytest.mark.parametrize("jitter", [0.0, 0.03])
def test_phase_starts_anywhere_and_moves_at_the_cadence(jitter):
    starts = []
    for number in range(50):
        phase = walk_phase(0.9, 50, 25, jitter, generator(0, "phase", number))
        starts.append(phase[0])
        assert (np.diff(phase) > 0).all()
        assert phase[-1] - phase[0] == pytest.approx(49 * 0.9 / 25, rel=0.2)
    assert min(starts) < 0.1
    assert max(starts) > 0.9
