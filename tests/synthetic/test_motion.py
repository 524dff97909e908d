from __future__ import annotations

import json

import numpy as np
import pytest

from opengait.synthetic import TYPES, synthesize
from opengait.synthetic.body import draw_body, mean_body
from opengait.synthetic.motion import bone_lengths, is_gallery, load_motion, worn_by
from opengait.synthetic.skeleton import JOINT, PARENTS

SMALL = {"views": ("090",), "frames": (20, 24), "workers": 1, "progress": False}


def check_no_shared_frames(walks, sources):
    """Gallery and probe of a person come from different walks if there are several, else from different times."""
    for person in walks.subjects:
        sides = {True: set(), False: set()}
        for kind in TYPES:
            walk, start, stop = sources[f"{person}/{kind}"]
            sides[is_gallery(kind)] |= {(walk, frame) for frame in range(start, stop)}
        assert not sides[True] & sides[False], person
        if walks.people.count(person) > 1:
            assert not {walk for walk, _ in sides[True]} & {walk for walk, _ in sides[False]}, person


def test_recorded_walks_become_a_test_set(tmp_path, motion_file):
    path = motion_file()
    report = synthesize(tmp_path / "set", motion=path, **SMALL)
    assert report.test == ["anna", "ben", "cleo"]
    assert report.train == []
    assert json.loads(report.partition.read_text())["TEST_SET"] == report.test
    assert report.sequences == 3 * len(TYPES)
    check_no_shared_frames(load_motion(path), report.sources)


def test_people_with_several_walks_show_all_of_them(tmp_path, motion_file):
    report = synthesize(tmp_path / "set", motion=motion_file(), **SMALL)
    assert {walk for name, (walk, _, _) in report.sources.items() if name.startswith("anna")} == {"0", "1", "2"}


def test_cmu_walks(shared, tmp_path):
    path = shared("mocap/cmu_walk.npz")
    walks = load_motion(path)
    assert len(walks.positions) == 30
    assert len(walks.subjects) == 7
    report = synthesize(tmp_path / "set", motion=path, **{**SMALL, "frames": (10, 12)})
    check_no_shared_frames(walks, report.sources)
    for recorded in walks.positions:
        joints = worn_by(mean_body(), recorded)
        assert np.abs(joints[:, 0, [0, 2]].mean(0)).max() < 0.01
        # Slope and path are out.
        assert abs(np.polyfit(np.arange(len(joints)), joints[:, 0, 0], 1)[0]) < 1e-6
        assert -0.05 < joints[:, JOINT["l_toe"], 1].min() < 0.08


def test_a_body_wears_a_recorded_walk_at_its_own_size(motion_file):
    recorded = load_motion(motion_file()).positions[0]
    body = draw_body(0, 3)
    joints = worn_by(body, recorded)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            length = np.linalg.norm(joints[:, joint] - joints[:, parent], axis=1)
            np.testing.assert_allclose(length, bone_lengths(body)[joint], rtol=1e-6)


def test_the_room_of_a_recording_does_not_matter(motion_file):
    recorded = load_motion(motion_file()).positions[0]
    time = np.linspace(0, 1, len(recorded))[:, None, None]
    elsewhere = recorded + time * np.array([0.4, 0.15, 3.0]) + [1.0, 0.3, 2.0]
    np.testing.assert_allclose(worn_by(mean_body(), recorded), worn_by(mean_body(), elsewhere), atol=1e-6)


def test_own_body_on_request(tmp_path, motion_file):
    common = synthesize(tmp_path / "common", motion=motion_file(), **SMALL)
    own = synthesize(tmp_path / "own", motion=motion_file(), own_body=True, **SMALL)
    name = "anna/nm-01/090/090.pkl"
    assert common.sources == own.sources
    assert (common.out / name).read_bytes() != (own.out / name).read_bytes()


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"positions": None}, "lacks positions"),
        ({"positions": np.zeros((420, 20, 3), np.float32)}, "positions must be floats"),
        ({"positions": np.full((420, 21, 3), np.nan, np.float32)}, "not finite"),
        ({"joint_names": np.array(["nose"] * 21)}, "joints must be pelvis"),
        ({"length": np.full(6, 90)}, "ends at frame 440"),
        ({"length": np.full(6, 10)}, "at least 30"),
        ({"length": np.full(5, 70)}, "one entry a walk"),
        ({"fps": np.float32(0)}, "fps must be positive"),
        ({"subject": np.array([{}] * 6, dtype=object)}, "plain arrays"),
    ],
)
def test_bad_motion_files_are_refused_with_the_reason(motion_file, replaced, says):
    with pytest.raises(ValueError, match=says):
        load_motion(motion_file(**replaced))


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "walks.npz"
    path.write_text("BVH")
    with pytest.raises(ValueError, match="not an npz"):
        load_motion(path)


def test_people_of_a_motion_file_are_counted(tmp_path, motion_file):
    path = motion_file()
    assert synthesize(tmp_path / "two", 2, motion=path, **SMALL).test == ["anna", "ben"]
    with pytest.raises(ValueError, match="walks of 3 people"):
        synthesize(tmp_path / "four", 4, motion=path, **SMALL)
    with pytest.raises(ValueError, match="all test subjects"):
        synthesize(tmp_path / "train", 3, motion=path, train_subjects=1, **SMALL)
    with pytest.raises(ValueError, match="own_gait"):
        synthesize(tmp_path / "gait", 3, motion=path, own_gait=False, **SMALL)
