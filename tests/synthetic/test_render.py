from __future__ import annotations

import itertools

import numpy as np
import pytest

from opengait.synthetic import TYPES, contact_sheet
from opengait.synthetic.body import mean_body
from opengait.synthetic.camera import HEIGHT, VIEWS, WIDTH, CameraSpread, draw_cameras
from opengait.synthetic.clothing import Coat, carry, draw_bag, hang_bag, wear_coat
from opengait.synthetic.faults import SegmentationFaults
from opengait.synthetic.gait import mean_gait
from opengait.synthetic.keys import generator
from opengait.synthetic.render import draw, outlines
from opengait.synthetic.sequence import Settings, render_sequence
from opengait.synthetic.skeleton import JOINT
from opengait.synthetic.surface import Surface, dress
from opengait.synthetic.walking import walk

STILL = CameraSpread(height=(1.0, 1.0), distance=(5.0, 5.0), person=(130.0, 130.0), yaw=0.0, own_yaw=0.0, roll=0.0)


def settings(**changed) -> Settings:
    values = {
        "seed": 0, "render_seed": 0, "types": TYPES, "views": ("000", "090"), "frames": (8, 12), "strength": 1.0,
        "own_body": True, "own_gait": True,
    }  # fmt: skip
    return Settings(**{**values, **changed})


def mean_walk(frames: int = 12) -> np.ndarray:
    return walk(mean_body(), mean_gait(), np.arange(frames) / frames, generator(0, "test"))


def raw_frames(surface: Surface, view: str) -> np.ndarray:
    polygons = outlines(surface, draw_cameras((view,), generator(0, "camera"), STILL))
    return np.stack([frame.copy() for frame in draw(polygons[0])])


def test_a_ball_is_drawn_as_a_disc_of_its_size_and_place():
    surface = Surface(1)
    surface.ball("ball", np.array([[0.0, 0.87, 0.0]]), 0.3)
    surface.link("ball", "ball")
    frame = raw_frames(surface, "090")[0] > 0
    rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
    focal = 130 / 1.7
    assert len(rows) == pytest.approx(0.6 * focal, rel=0.12)
    assert len(columns) == pytest.approx(len(rows), abs=2)
    assert frame.sum() == pytest.approx(np.pi / 4 * len(rows) * len(columns), rel=0.06)


def test_a_link_is_the_convex_hull_of_its_ends():
    apart, joined = Surface(1), Surface(1)
    for surface in (apart, joined):
        surface.ball("one", np.array([[0.0, 0.6, -0.3]]), 0.1)
        surface.ball("two", np.array([[0.0, 1.2, 0.3]]), 0.2)
    apart.link("one", "one")
    apart.link("two", "two")
    joined.link("one", "two")
    ends, hull = (raw_frames(surface, "090")[0] > 0 for surface in (apart, joined))
    assert (hull | ~ends).mean() > 0.9995
    assert hull.sum() > 1.2 * ends.sum()


def test_the_walker_faces_the_camera_at_000_and_shows_the_left_side_at_090():
    surface = Surface(1)
    surface.ball("ahead", np.array([[0.0, 0.9, 1.0]]), 0.1)
    surface.link("ahead", "ahead")
    columns = {view: np.flatnonzero(raw_frames(surface, view)[0].any(0)).mean() for view in ("000", "090", "180")}
    assert columns["000"] == pytest.approx(WIDTH / 2, abs=12)
    assert columns["180"] == pytest.approx(WIDTH / 2, abs=12)
    assert columns["090"] < WIDTH / 2 - 30
    sizes = {view: (raw_frames(surface, view) > 0).sum() for view in ("000", "180")}
    assert sizes["000"] > 1.5 * sizes["180"]


@pytest.mark.parametrize("view", VIEWS)
def test_raw_frames_are_binary_and_hold_the_whole_person(view):
    frames = raw_frames(dress(mean_walk(), mean_body()), view)
    assert frames.shape == (12, HEIGHT, WIDTH)
    assert set(np.unique(frames)) == {0, 255}
    assert not frames[:, [0, -1]].any()
    assert not frames[:, :, [0, -1]].any()


def test_a_coat_and_a_bag_only_add_to_the_outline():
    joints, body = mean_walk(), mean_body()
    plain = raw_frames(dress(joints, body), "090")
    coat = dress(joints, body)
    wear_coat(coat, joints, body, Coat(hem=0.7, ease=0.04, flare=0.03, sleeve=0.02, hood=0.06, swing=1.0))
    bag = dress(joints, body)
    hang_bag(bag, joints, body, draw_bag(generator(0, "bag")))
    for dressed in (coat, bag):
        frames = raw_frames(dressed, "090")
        assert (frames >= plain).all()
        assert (frames > 0).sum() > 1.02 * (plain > 0).sum()


@pytest.mark.parametrize("number", range(6))
def test_a_bag_calms_the_arm_that_carries_it(number):
    bag = draw_bag(generator(0, "bags", number))
    joints = mean_walk(30)
    carried = carry(joints, bag)
    side = bag.side
    swing = [
        np.ptp(walked[:, JOINT[f"{side}_wrist"], 2] - walked[:, JOINT["pelvis"], 2]) for walked in (joints, carried)
    ]
    assert swing[1] < 0.95 * swing[0]
    for name in ("elbow", "wrist"):
        parent = {"elbow": "shoulder", "wrist": "elbow"}[name]
        bones = [
            np.linalg.norm(walked[:, JOINT[f"{side}_{name}"]] - walked[:, JOINT[f"{side}_{parent}"]], axis=1)
            for walked in (joints, carried)
        ]
        np.testing.assert_allclose(*bones, rtol=1e-9)


def test_faults_are_off_at_strength_zero_and_grow_with_it():
    clean = raw_frames(dress(mean_walk(), mean_body()), "090")
    changed = []
    for strength in (0.0, 0.5, 1.0, 2.0):
        total = 0
        for number in range(8):
            faults = SegmentationFaults(generator(0, "faults", number), len(clean), strength)
            for index, frame in enumerate(clean):
                spoiled = frame.copy()
                faults.apply(spoiled, index)
                assert set(np.unique(spoiled)) <= {0, 255}
                total += int((spoiled != frame).sum())
        changed.append(total)
    assert changed[0] == 0
    assert changed == sorted(changed)
    assert changed[1] > 0


def test_faults_last_over_neighbouring_frames():
    clean = raw_frames(dress(mean_walk(), mean_body()), "000")[0]
    near, far = [], []
    for number in range(10):
        faults = SegmentationFaults(generator(1, "faults", number), 60, 1.0)
        spoiled = []
        for index in range(60):
            frame = clean.copy()
            faults.apply(frame, index)
            spoiled.append(frame != clean)
        near += [(one ^ two).sum() for one, two in itertools.pairwise(spoiled)]
        far += [(one ^ two).sum() for one, two in zip(spoiled, spoiled[25:], strict=False)]
    assert np.mean(near) < 0.7 * np.mean(far)


@pytest.mark.parametrize("kind", ["nm-01", "bg-01", "bg-02", "cl-01", "cl-02"])
def test_sequences_are_centred_whole_and_not_empty(kind):
    for subject in range(3):
        for frames in render_sequence(settings(), subject, kind).views.values():
            assert frames.dtype == np.uint8
            assert frames.shape[1:] == (64, 64)
            assert 8 <= len(frames) <= 12
            assert (frames.reshape(len(frames), -1).mean(1) > 8).all()
            columns = np.cumsum(frames.sum(1, dtype=np.int64), axis=1)
            middle = (columns * 2 > columns[:, -1:]).argmax(1)
            np.testing.assert_array_equal(middle, 32)


def test_nuisances_differ_from_sequence_to_sequence_and_with_render_seed():
    clean = settings(strength=0.0)
    one = render_sequence(clean, 0, "nm-01").views["090"]
    for other in (
        render_sequence(clean, 0, "nm-02"),
        render_sequence(settings(strength=0.0, render_seed=1), 0, "nm-01"),
        render_sequence(clean, 1, "nm-01"),
    ):
        frames = min(len(one), len(other.views["090"]))
        assert (one[:frames] != other.views["090"][:frames]).mean() > 0.02


def test_a_view_looks_the_same_whichever_others_are_made():
    alone = render_sequence(settings(views=("090",)), 0, "cl-01").views["090"]
    together = render_sequence(settings(views=VIEWS), 0, "cl-01").views["090"]
    np.testing.assert_array_equal(alone, together)


def test_with_neither_body_nor_gait_only_nuisances_are_left():
    from opengait.synthetic.sequence import subject_body, subject_gait

    neither = settings(own_body=False, own_gait=False)
    assert subject_body(neither, 0) == subject_body(neither, 1)
    assert subject_gait(neither, 0) == subject_gait(neither, 1)
    assert subject_body(settings(own_gait=False), 0) == subject_body(settings(), 0)
    assert subject_gait(settings(own_body=False), 0) == subject_gait(settings(), 0)


def test_contact_sheet(tmp_path):
    sheet = contact_sheet(tmp_path / "new" / "sheet.png", subjects=(0,), types=("nm-01", "cl-01"), views=("000", "090"))
    assert (tmp_path / "new" / "sheet.png").stat().st_size > 1000
    assert sheet.shape == (16 + 2 * 64, 44 + 2 * (4 * 64 + 4))
    with pytest.raises(ValueError, match="unknown view '91'"):
        contact_sheet(tmp_path / "sheet.png", views=("91",))
