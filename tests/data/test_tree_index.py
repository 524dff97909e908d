"""The remembered index of a large tree: the same data set, not walked again, and never that of an earlier tree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickle_files import write_pickle

from opengait.data import tree, tree_index
from opengait.data.dataset import GaitDataset

Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _all_trees_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """And settled, though these have just been written."""
    monkeypatch.setattr(tree, "LARGE", 1)
    monkeypatch.setattr(tree_index, "SETTLED_NS", -(10**15))


@pytest.fixture
def not_walked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, walking and opening are errors."""

    def forbid() -> None:
        for name in ("_walk", "open"):
            monkeypatch.setattr(tree.PickleTree, name, None)

    return forbid


def picture(dataset: GaitDataset) -> Any:
    store: Any = dataset.store
    files = [
        [str(Path(path).relative_to(dataset.root)) for path in store.files(index)] for index in range(len(dataset))
    ]
    return dataset.labels, dataset.types, dataset.views, files, dataset.lengths().tolist(), dataset.fingerprint()


@pytest.mark.parametrize("chosen", [None, [2, 0]])
def test_the_second_time_nothing_is_walked_or_opened(
    make_tree: Make, not_walked: Callable[[], None], monkeypatch: pytest.MonkeyPatch, chosen: Any
) -> None:
    cfg = make_tree(modalities=3) | {"data_in_use": chosen}
    Path(cfg["dataset_partition"]).write_text(json.dumps({"TRAIN_SET": ["003", "001"], "TEST_SET": ["002"]}))
    first = {training: picture(GaitDataset(cfg, training)) for training in (True, False)}
    with monkeypatch.context() as walking:
        walking.setattr(tree, "LARGE", 10**9)
        walking.setenv("OPENGAIT_CACHE", str(Path(cfg["dataset_root"]).parent / "other"))
        assert picture(GaitDataset(cfg, training=True)) == first[True]
    not_walked()
    for training in (True, False):
        assert picture(GaitDataset(cfg, training)) == first[training]


def test_frames_are_read_as_ever(make_tree: Make) -> None:
    cfg = make_tree()
    first, again = GaitDataset(cfg, training=True), GaitDataset(cfg, training=True)
    again.lengths()
    for index in range(len(first)):
        np.testing.assert_array_equal(again.read(index)[0], first.read(index)[0])


def change_file(root: Path) -> None:
    write_pickle(root / "001/nm-01/000/0_sil.pkl", np.zeros((33, 16, 12), np.uint8))


def replace_file(root: Path) -> None:
    write_pickle(root / "new", np.zeros((5, 16, 12), np.uint8))
    (root / "new").replace(root / "001/nm-01/000/0_sil.pkl")


CHANGES: list[Callable[[Path], Any]] = [
    lambda root: shutil.rmtree(root / "002/nm-01/000"),
    lambda root: shutil.rmtree(root / "002"),
    lambda root: shutil.copytree(root / "002/nm-01", root / "002/nm-09"),
    lambda root: shutil.copytree(root / "002/nm-01/000", root / "002/nm-01/045"),
    lambda root: (root / "002/nm-01/000").rename(root / "002/nm-01/180"),
    lambda root: (root / "004/nm-02/090/0_sil.pkl").rename(root / "004/nm-02/090/1_sil.pkl"),
    change_file,
    replace_file,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_tree_is_walked_anew(
    make_tree: Make, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Any]
) -> None:
    cfg = make_tree()
    before = picture(GaitDataset(cfg, training=True))
    change(Path(cfg["dataset_root"]))
    after = picture(GaitDataset(cfg, training=True))
    assert after != before
    monkeypatch.setenv("OPENGAIT_CACHE", str(Path(cfg["dataset_root"]).parent / "other"))
    monkeypatch.setattr(tree, "LARGE", 10**9)
    assert picture(GaitDataset(cfg, training=True)) == after


def test_files_that_came_to_every_sequence_are_seen(make_tree: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of many sequences that changed may be missed; many are not."""
    monkeypatch.setattr(tree_index, "LOOKED_AT", 3)
    cfg = make_tree()
    GaitDataset(cfg, training=True).lengths()
    for folder in Path(cfg["dataset_root"]).glob("*/*/*"):
        shutil.copy(folder / "0_sil.pkl", folder / "1_more.pkl")
    assert GaitDataset(cfg, training=True).modalities == 2


def test_a_change_that_was_missed_shows_when_the_file_is_read(make_tree: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_index, "LOOKED_AT", 0)
    cfg = make_tree()
    old = GaitDataset(cfg, training=True).lengths()[0]
    change_file(Path(cfg["dataset_root"]))
    dataset = GaitDataset(cfg, training=True)
    assert dataset.lengths()[0] == old
    [said] = dataset.store.damage(lambda _: None)
    assert "have changed since the tree was indexed, between" in said
    assert f"{cfg['dataset_root']}/001/nm-01/000" in said
    with pytest.raises(ValueError, match=f"0_sil.pkl: holds 33 frames, and held {old} when they were counted"):
        dataset.read(0)
    assert GaitDataset(cfg, training=True).lengths()[0] == 33


def test_an_unchanged_tree_has_no_damage(make_tree: Make) -> None:
    cfg = make_tree()
    GaitDataset(cfg, training=True).lengths()
    through: list[int] = []
    assert not list(GaitDataset(cfg, training=True).store.damage(through.append))
    assert sum(through) == 20


def test_a_tree_that_was_just_written_is_not_remembered(make_tree: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_index, "SETTLED_NS", 10**15)
    cfg = make_tree()
    GaitDataset(cfg, training=True).lengths()
    change_file(Path(cfg["dataset_root"]))
    assert GaitDataset(cfg, training=True).lengths()[0] == 33


def test_empty_folders_are_told_of_every_time(make_tree: Make, caplog: pytest.LogCaptureFixture) -> None:
    cfg = make_tree()
    Path(cfg["dataset_root"], "002/nm-03/000").mkdir(parents=True)
    for _ in range(2):
        caplog.clear()
        GaitDataset(cfg, training=True)
        assert "1 sequence folders are empty and left out, such as" in caplog.text


def test_a_damaged_index_changes_nothing(make_tree: Make, tmp_path: Path) -> None:
    cfg = make_tree()
    expected = picture(GaitDataset(cfg, training=True))
    [stored] = (tmp_path / "cache").glob("tree-*.npz")
    content = stored.read_bytes()
    rng = np.random.default_rng(3)
    for turn in range(60):
        changed = bytearray(content if turn else b"")
        if turn > 30:
            del changed[int(rng.integers(0, len(changed))) :]
        for place in rng.integers(0, len(changed), 3) if changed else ():
            changed[place] ^= int(rng.integers(1, 256))
        stored.write_bytes(changed)
        assert picture(GaitDataset(cfg, training=True)) == expected
    stored.unlink()
    stored.mkdir()  # neither read nor written
    assert picture(GaitDataset(cfg, training=True)) == expected
