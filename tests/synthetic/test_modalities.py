"""The same walks as other data sets keep them: RGB frames, masks and ratios, SMPL vectors, unlabelled collections."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from opengait.data.dataset import GaitDataset
from opengait.synthetic import smpl, synthesize
from opengait.synthetic.body import draw_body, mean_body
from opengait.synthetic.sequence import Settings, stage
from opengait.synthetic.skeleton import JOINT

SMALL = {"types": ("nm-01", "cl-01"), "views": ("000", "090"), "frames": (6, 8), "workers": 1, "progress": False}
SETS = {
    "plain": ("silhouettes",),
    "smpl": ("smpl", "silhouettes"),
    "star": ("casiab*",),
    "crowd": ("unlabelled",),
    "parsing": ("parsing",),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {name: synthesize(folder / name, 2, modalities=modalities, **SMALL).out for name, modalities in SETS.items()}


def load(path: Path) -> np.ndarray:
    return pickle.loads(path.read_bytes())


def sequences(folder: Path) -> list[str]:
    return sorted({path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.pkl")})


def test_each_set_has_the_files_and_shapes_of_its_data_set(sets):
    for name in sequences(sets["plain"]):
        view = name.split("/")[-1]
        frames = load(sets["plain"] / name / f"{view}.pkl")
        s = len(frames)
        expected = {
            "smpl": {f"sils-{view}": ((s, 64, 64), np.uint8), f"smpls-{view}": ((s, 85), np.float32)},
            "star": {
                f"{view}-aligned-sils": ((s, 64, 44), np.uint8),
                f"{view}-ratios": ((s,), np.float64),
                f"{view}-rgbs": ((s, 3, 128, 128), np.uint8),
                f"{view}-sils": ((s, 128, 128), np.uint8),
            },
        }
        for kind, files in expected.items():
            found = {path.stem: load(path) for path in sorted((sets[kind] / name).iterdir())}
            assert list(found) == list(files)
            assert {key: (value.shape, value.dtype) for key, value in found.items()} == files


def test_silhouettes_are_the_same_walks_in_every_set(sets):
    crowd = {load(path).tobytes() for path in sets["crowd"].rglob("*.pkl")}
    for name in sequences(sets["plain"]):
        view = name.split("/")[-1]
        frames = load(sets["plain"] / name / f"{view}.pkl")
        assert np.array_equal(load(sets["smpl"] / name / f"sils-{view}.pkl"), frames)
        assert np.array_equal(load(sets["star"] / name / f"{view}-aligned-sils.pkl"), frames[:, :, 10:-10])
        assert np.ascontiguousarray(frames[:, :, 10:-10]).tobytes() in crowd


def test_masks_fill_their_square_and_unsqueeze_to_the_aligned_silhouette(sets):
    for path in sets["star"].rglob("*-sils.pkl"):
        if "aligned" in path.name:
            continue
        view = path.parent.name
        masks, ratios = load(path), load(path.with_name(f"{view}-ratios.pkl"))
        aligned = load(path.with_name(f"{view}-aligned-sils.pkl"))
        assert set(np.unique(masks)) == {0, 255}
        assert 0.15 < ratios.min() < ratios.max() < 1.2
        for mask, ratio, frame in zip(masks, ratios, aligned, strict=True):
            assert all(mask.any(axis).all() or mask.any(axis)[[0, -1]].all() for axis in (0, 1))
            area = mask.mean() / 255 * ratio * 64 * 64
            assert (frame > 127).sum() == pytest.approx(area, rel=0.1)


def test_the_person_is_coloured_unlike_what_is_behind(sets):
    """A mask made of the segmentation's noise would not part the colours."""
    apart = []
    for path in sets["star"].rglob("*-rgbs.pkl"):
        rgb, masks = load(path), load(path.with_name(path.name.replace("rgbs", "sils")))
        for image, mask in zip(rgb.astype(float), masks, strict=True):
            inner = cv2.erode(mask, np.ones((9, 9))) > 0
            outer = cv2.dilate(mask, np.ones((9, 9))) == 0
            if inner.any() and outer.sum() > 50:
                apart.append(np.abs(image[:, inner].mean(1) - image[:, outer].mean(1)).max())
        assert len(np.unique(rgb)) > 50
    assert np.median(apart) > 15


def test_parsing_maps_show_the_silhouette_with_heads_above_feet_and_left_apart_from_right(sets):
    for name in sequences(sets["parsing"]):
        view = name.split("/")[-1]
        maps = load(sets["parsing"] / name / f"{view}.pkl")
        frames = load(sets["plain"] / name / f"{view}.pkl")
        assert maps.shape == frames.shape
        assert maps.max() <= 11
        together = ((maps > 0) & (frames > 127)).sum() / ((maps > 0) | (frames > 127)).sum()
        assert together > 0.8  # edges: nearest here, cubic there
        rows, columns = np.indices(maps.shape)[1:]
        head, torso = (rows[maps == part].mean() for part in (1, 2))
        feet = rows[(maps == 9) | (maps == 10)].mean()
        assert head < torso < feet
        if view == "000":  # seen from in front, the walker's left is on the right
            left, right = (columns[np.isin(maps, parts)].mean() for parts in ((3, 5, 7, 9), (4, 6, 8, 10)))
            assert left > right + 4


def test_unlabelled_collections_say_nothing_of_who_walks_where(sets):
    names = sequences(sets["crowd"])
    assert len(names) == len(sequences(sets["plain"]))
    for name in names:
        (file,) = (sets["crowd"] / name).iterdir()
        assert file.stem == name.replace("/", "_")
        assert all(part.isdecimal() for part in name.split("/"))
        assert load(file).shape[1:] == (64, 44)
    partition = json.loads((sets["crowd"] / "partition.json").read_text())
    assert partition == {"TRAIN_SET": sorted({name.split("/")[0] for name in names}), "TEST_SET": []}


def test_the_data_set_reads_them_in_the_order_that_configs_count_on(sets):
    def arrays(name, data_in_use):
        data_cfg = {
            "dataset_name": "Walkers",
            "dataset_root": str(sets[name]),
            "dataset_partition": str(sets[name] / "partition.json"),
            "data_in_use": data_in_use,
        }
        return [array.shape[1:] for array in GaitDataset(data_cfg, training=True).read(0)]

    assert arrays("star", [False, True, True, True]) == [(), (3, 128, 128), (128, 128)]
    assert arrays("star", [True, False, False, False]) == [(64, 44)]
    assert arrays("smpl", [0, 1]) == [(64, 64), (85,)]


def test_bytes_do_not_depend_on_workers_and_a_cut_off_call_goes_on(sets, tmp_path):
    two = synthesize(tmp_path / "two", 2, modalities=("casiab*",), **{**SMALL, "workers": 2}).out
    next(two.rglob("*-rgbs.pkl")).unlink()
    again = synthesize(two, 2, modalities=("casiab*",), **SMALL)
    assert again.written == 2
    for path in sets["star"].rglob("*.*"):
        assert (two / path.relative_to(sets["star"])).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("modalities", "says"),
    [
        (("silhouetes",), "unknown modality 'silhouetes'.*did you mean 'silhouettes'"),
        (("smpl",), "do not go together.*silhouettes \\+ smpl"),
        (("casiab*", "smpl"), "do not go together"),
        ("casiab*", "list of names"),
        ((), "at least one"),
    ],
)
def test_sets_that_no_data_set_has_are_errors(tmp_path, modalities, says):
    with pytest.raises(ValueError, match=says):
        synthesize(tmp_path / "set", 1, modalities=modalities, **SMALL)
    assert not (tmp_path / "set").exists()


def test_an_unlabelled_collection_has_no_training_subjects_to_choose(tmp_path):
    with pytest.raises(ValueError, match="leave train_subjects out"):
        synthesize(tmp_path / "set", 2, modalities=("unlabelled",), train_subjects=1, **SMALL)
    assert not (tmp_path / "set").exists()


def test_an_unlabelled_collection_of_fewer_subjects_needs_another_folder(sets):
    with pytest.raises(ValueError, match="subjects: 2 there"):
        synthesize(sets["crowd"], 1, modalities=("unlabelled",), **SMALL)
    assert synthesize(sets["crowd"], 2, modalities=("unlabelled",), **SMALL).written == 0


def test_different_modalities_do_not_mix_in_one_folder(sets):
    with pytest.raises(ValueError, match="modalities"):
        synthesize(sets["plain"], 2, modalities=("casiab*",), **SMALL)
    with pytest.raises(ValueError, match="modalities"):
        synthesize(sets["star"], 2, **SMALL)


def rotation(vector: np.ndarray) -> np.ndarray:
    return cv2.Rodrigues(vector.astype(np.float64))[0]


def test_axis_angle_is_the_inverse_of_rodrigues():
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (200, 3))
    vectors[0] = 0
    vectors[1:4] = np.diag([np.pi, np.pi - 1e-7, 3.0])
    matrices = np.stack([rotation(vector) for vector in vectors])
    for reference in ((1, 0, 0, 0), (0, 1, 0, 0)):
        back = smpl.axis_angle(matrices, np.array(reference, float))
        np.testing.assert_allclose(np.stack([rotation(vector) for vector in back]), matrices, atol=1e-9)


def test_the_chain_of_rotations_leads_back_to_the_bones():
    """Rest bones, turned by the pose down the tree, point where the walker's do as the camera sees them."""
    settings = Settings(3, 0, ("bg-01",), ("054",), (7, 7), 1.0, True, True)
    scene = stage(settings, 0, "bg-01")
    camera = np.stack([scene.cameras.axes[0, 0], -scene.cameras.axes[0, 1], scene.cameras.axes[0, 2]]).astype(float)
    pose = smpl._pose(scene.joints, scene.body, camera)
    bones = {
        "l_hip": ("l_hip", "l_knee", (0, -1, 0)),
        "r_knee": ("r_knee", "r_ankle", (0, -1, 0)),
        "l_shoulder": ("l_shoulder", "l_elbow", (1, 0, 0)),
        "r_elbow": ("r_elbow", "r_wrist", (-1, 0, 0)),
        "head": ("head", "head_top", (0, 1, 0)),
    }
    for name, (begin, end, rest) in bones.items():
        for frame, joints in enumerate(scene.joints):
            turn, joint = np.eye(3), smpl.JOINT_NAMES.index(name)
            while joint >= 0:
                turn = rotation(pose[frame, joint]) @ turn
                joint = smpl.PARENTS[joint]
            bone = camera @ (joints[JOINT[end]] - joints[JOINT[begin]])
            np.testing.assert_allclose(turn @ np.array(rest, float), bone / np.linalg.norm(bone), atol=1e-5)


def test_shape_tells_bodies_apart_and_is_zero_for_the_mean(sets):
    np.testing.assert_allclose(smpl.body_shape(mean_body()), 0, atol=1e-12)
    assert not np.allclose(smpl.body_shape(draw_body(0, 0)), smpl.body_shape(draw_body(0, 1)), atol=0.1)
    vectors = np.concatenate([load(path) for path in sets["smpl"].rglob("smpls-*.pkl")])
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).max() < 7
