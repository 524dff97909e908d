"""The folder tree as a data set: order, selection, lengths, and what each mistake says."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickle_files import write_pickle

from opengait.data.dataset import GaitDataset

Make = Callable[..., dict[str, Any]]


def folder_of(cfg: dict[str, Any], relative: str = "001/nm-01/000") -> Path:
    return Path(cfg["dataset_root"]) / relative


def refused(cfg: dict[str, Any], training: bool = True) -> str:
    """The message of the error that building or reading the data set gives."""
    with pytest.raises(ValueError) as error:
        GaitDataset(cfg, training).lengths()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_records_follow_the_partition_and_sorted_folders(make_tree: Make) -> None:
    cfg = make_tree()
    Path(cfg["dataset_partition"]).write_text(json.dumps({"TRAIN_SET": ["003", "001"], "TEST_SET": ["002"]}))
    dataset = GaitDataset(cfg, training=True)
    assert list(zip(dataset.labels, dataset.types, dataset.views, strict=True)) == [
        (subject, kind, view) for subject in ("003", "001") for kind in ("nm-01", "nm-02") for view in ("000", "090")
    ]
    assert dataset.label_set == ["001", "003"]
    assert dataset.sequences_of == {"003": [0, 1, 2, 3], "001": [4, 5, 6, 7]}
    np.testing.assert_array_equal(dataset.class_index, [1] * 4 + [0] * 4)
    assert GaitDataset(cfg, training=False).label_set == ["002"]


def test_class_order_is_that_of_strings(make_tree: Make) -> None:
    cfg = make_tree(train=2)
    for old, new in (("001", "10"), ("002", "2")):
        folder_of(cfg, old).rename(folder_of(cfg, new))
    Path(cfg["dataset_partition"]).write_text(json.dumps({"TRAIN_SET": ["2", "10"], "TEST_SET": []}))
    assert GaitDataset(cfg, training=True).label_set == ["10", "2"]


@pytest.mark.parametrize("cache", [False, True])
def test_reading_gives_the_file_and_any_of_its_frames(make_tree: Make, cache: bool) -> None:
    cfg = make_tree(modalities=3) | {"cache": cache}
    dataset = GaitDataset(cfg, training=True)
    for index in (0, 3):
        stored = [pickle.loads(Path(path).read_bytes()) for path in dataset.store.files(index)]
        frames = np.array([4, 0, 0, 2])
        for expected, whole, part in zip(stored, dataset.read(index), dataset.read(index, frames), strict=True):
            np.testing.assert_array_equal(whole, expected)
            np.testing.assert_array_equal(part, expected[frames])
            assert whole.dtype == expected.dtype
            whole[:] = 0  # the caller's own copy
        np.testing.assert_array_equal(dataset.read(index)[0], stored[0])


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["0_sil", "1_ratio", "2_rgb"]),
        ([True, False, True], ["0_sil", "2_rgb"]),
        ([False, True], ["1_ratio"]),
        ([2, 0], ["2_rgb", "0_sil"]),
        ([-1], ["2_rgb"]),
    ],
)
def test_data_in_use_selects_and_orders(make_tree: Make, chosen: Any, names: list[str]) -> None:
    dataset = GaitDataset(make_tree(modalities=3) | {"data_in_use": chosen}, training=True)
    for index in range(len(dataset)):
        assert [Path(path).stem for path in dataset.store.files(index)] == names
    assert dataset.modalities == len(names)


@pytest.mark.parametrize("chosen", [[], [False, False], "all", [0, True], [1.0], [5], [-4], [True] * 4])
def test_impossible_data_in_use(make_tree: Make, chosen: Any) -> None:
    assert "data_in_use" in refused(make_tree(modalities=3) | {"data_in_use": chosen})


def test_lengths_are_found_once_and_kept_between_runs(make_tree: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make_tree()
    dataset = GaitDataset(cfg, training=True)
    expected = [len(dataset.read(index)[0]) for index in range(len(dataset))]
    np.testing.assert_array_equal(dataset.lengths(), expected)
    again = GaitDataset(cfg, training=True)
    monkeypatch.setattr(again.store, "open", None)  # nothing is opened the second time
    np.testing.assert_array_equal(again.lengths(), expected)


def test_a_changed_file_is_counted_anew(make_tree: Make) -> None:
    cfg = make_tree()
    GaitDataset(cfg, training=True).lengths()
    write_pickle(folder_of(cfg) / "0_sil.pkl", np.zeros((33, 16, 12), np.uint8))
    assert GaitDataset(cfg, training=True).lengths()[0] == 33


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_or_unwritable_cache_changes_nothing(
    make_tree: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    cfg = make_tree()
    if damage is None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("OPENGAIT_CACHE", str(tmp_path / "file" / "below"))
    first = GaitDataset(cfg, training=True).lengths()
    if damage is not None:
        [stored] = (tmp_path / "cache").iterdir()
        stored.write_bytes(damage)
    np.testing.assert_array_equal(GaitDataset(cfg, training=True).lengths(), first)


def test_fingerprint_tells_data_apart_and_not_places(make_tree: Make, tmp_path: Path) -> None:
    cfg = make_tree()
    first = GaitDataset(cfg, training=True).fingerprint()
    assert first["subjects"] == 5
    assert first["sequences"] == 20
    moved = shutil.copytree(cfg["dataset_root"], tmp_path / "elsewhere")
    assert GaitDataset(cfg | {"dataset_root": str(moved)}, training=True).fingerprint() == first
    write_pickle(moved / "001/nm-01/000/0_sil.pkl", np.zeros((50, 16, 12), np.uint8))
    assert GaitDataset(cfg | {"dataset_root": str(moved)}, training=True).fingerprint()["digest"] != first["digest"]
    json.dumps(first)


def test_what_does_not_match_the_partition_is_counted(make_tree: Make, caplog: pytest.LogCaptureFixture) -> None:
    cfg = make_tree()
    content = {"TRAIN_SET": ["001", "002", "998", "999"], "TEST_SET": ["006"]}
    Path(cfg["dataset_partition"]).write_text(json.dumps(content))
    folder_of(cfg, "002/nm-03/000").mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        assert GaitDataset(cfg, training=True).label_set == ["001", "002"]
    text = caplog.text
    assert "2 of 4 subjects in TRAIN_SET are not in" in text
    assert "998, 999" in text
    assert "6 folders in" in text
    assert "1 sequence folders are empty" in text


def test_a_rule_and_a_file_of_the_same_subjects_give_the_same_data(make_tree: Make) -> None:
    cfg = make_tree()
    rule = {"train": "001-005", "test": ["006-008", "009"]}
    for training in (True, False):
        by_file, by_rule = GaitDataset(cfg, training), GaitDataset(cfg | {"dataset_partition": rule}, training)
        assert by_rule.fingerprint() == by_file.fingerprint()
        assert by_rule.labels == by_file.labels
    said = refused(cfg | {"dataset_partition": {"train": "101-110", "test": "006"}})
    assert "none of the 10 subjects in TRAIN_SET of data_cfg.dataset_partition (101, 102, 103, ...)" in said
    said = refused(cfg | {"dataset_partition": {"test": "006"}})
    assert said == "data_cfg.dataset_partition: TRAIN_SET names no subject"


def test_self_supervised_training_makes_every_sequence_a_class(make_tree: Make) -> None:
    cfg = make_tree() | {"self_supervised": True}
    assert GaitDataset(cfg, training=True).labels[0] == "001-nm-01-000"
    assert len(GaitDataset(cfg, training=True).label_set) == 20
    assert GaitDataset(cfg, training=False).label_set == ["006", "007", "008", "009"]


def test_nothing_found_says_where_and_what(make_tree: Make, tmp_path: Path) -> None:
    cfg = make_tree()
    said = refused(cfg | {"dataset_root": "your_path"})
    assert "your_path: no such folder" in said
    assert "dataset_root" in said
    assert "is a file" in refused(cfg | {"dataset_root": cfg["dataset_partition"]})
    (tmp_path / "other" / "someone").mkdir(parents=True)
    said = refused(cfg | {"dataset_root": str(tmp_path / "other")})
    assert "none of the 5 subjects in TRAIN_SET" in said
    assert "found 1 folders (someone)" in said
    (tmp_path / "other" / "001").mkdir()
    (tmp_path / "other" / "001" / "0.pkl").touch()
    assert "no sequence found for TRAIN_SET" in refused(cfg | {"dataset_root": str(tmp_path / "other")})


BAD_FILES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "notes.txt").touch(), "notes.txt: is not a .pkl file"),
    (lambda folder: (folder / "deeper.pkl").mkdir(), "deeper.pkl: is a folder"),
    (lambda folder: write_pickle(folder / "1.pkl", np.zeros(3)), "holds 1 modalities"),
    (lambda folder: (folder / "0_sil.pkl").write_bytes(b""), "0_sil.pkl: the file is empty"),
    (lambda folder: (folder / "0_sil.pkl").write_bytes(b"junk"), "0_sil.pkl: "),
    (lambda folder: write_pickle(folder / "0_sil.pkl", np.zeros((0, 64, 64))), "0_sil.pkl: holds no frames"),
    (lambda folder: write_pickle(folder / "0_sil.pkl", np.float64(1)), "an array with time as its first axis"),
    (lambda folder: write_pickle(folder / "0_sil.pkl", {"a": 1}), "found dict"),
    (lambda folder: write_pickle(folder / "0_sil.pkl", ["a", "b"]), "an array of numbers was expected"),
    (lambda folder: write_pickle(folder / "0_sil.pkl", [np.zeros(2), np.zeros(3)]), "the frames differ in shape"),
    (lambda folder: write_pickle(folder / "0_sil.pkl", np.array([None])), "0_sil.pkl: arrays of numbers"),
]


@pytest.mark.parametrize(("damage", "said"), BAD_FILES)
def test_bad_files_are_named(make_tree: Make, damage: Callable[[Path], Any], said: str) -> None:
    cfg = make_tree()
    damage(folder_of(cfg))
    assert said in refused(cfg)


def test_modalities_of_unequal_length_are_named(make_tree: Make) -> None:
    cfg = make_tree(modalities=2)
    write_pickle(folder_of(cfg) / "1_ratio.pkl", np.zeros(99))
    said = refused(cfg)
    assert "001/nm-01/000/1_ratio.pkl: holds 99 frames" in said
    assert "0_sil.pkl beside it" in said


def test_lists_of_equal_frames_are_arrays(make_tree: Make) -> None:
    cfg = make_tree()
    write_pickle(folder_of(cfg) / "0_sil.pkl", [np.full((16, 12), n, np.uint8) for n in range(4)])
    [frames] = GaitDataset(cfg, training=True).read(0)
    assert frames.shape == (4, 16, 12)
    assert frames.dtype == np.uint8


def test_lists_that_name_themselves_often_are_refused(make_tree: Make) -> None:
    cfg = make_tree()
    nested: Any = [0]
    for _ in range(25):
        nested = [nested, nested]
    write_pickle(folder_of(cfg) / "0_sil.pkl", nested)
    assert "hold more than the file" in refused(cfg)


@pytest.mark.parametrize("relative", ["001", "001/nm-01", "001/nm-01/000", "001/nm-01/000/0_sil.pkl"])
def test_links_out_of_the_root_are_refused(make_tree: Make, tmp_path: Path, relative: str) -> None:
    cfg = make_tree()
    inside, outside = folder_of(cfg, relative), tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    assert "leads out of the dataset root" in refused(cfg)


def test_links_within_the_root_and_of_the_root_are_fine(make_tree: Make, tmp_path: Path) -> None:
    cfg = make_tree()
    folder_of(cfg, "001/nm-03").symlink_to(folder_of(cfg, "001/nm-02"))
    os.symlink(cfg["dataset_root"], tmp_path / "link")
    assert len(GaitDataset(cfg | {"dataset_root": str(tmp_path / "link")}, training=True)) == 22
