"""The packed store: what a tree holds comes back from it, as the same batches; nothing damaged is read in silence."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickle_files import write_pickle

from opengait.data.dataset import GaitDataset
from opengait.data.loader import test_loader as loader_for_tests
from opengait.data.loader import train_loader
from opengait.data.packed import PackedStore
from opengait.data.packed_index import PackedIndex
from opengait.data.store import Selection
from opengait.data.tree_packing import pack_tree

Make = Callable[..., dict[str, Any]]


def pack(cfg: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Packs a tree; the data_cfg of the store."""
    report = pack_tree(cfg["dataset_root"], progress=False, **options)
    return cfg | {"dataset_root": str(report.out)}


def opened(cfg: dict[str, Any]) -> PackedStore:
    index = PackedIndex(cfg["dataset_root"])
    return PackedStore(index, index.subjects, Selection(None))


def batches(cfg: dict[str, Any], sampler_cfg: dict[str, Any], training: bool, workers: int = 0) -> Iterator[Any]:
    dataset = GaitDataset(cfg, training)
    if training:
        return iter(train_loader(dataset, sampler_cfg, seed=3, end_iteration=4, num_workers=workers))
    return iter(loader_for_tests(dataset, sampler_cfg, frames_per_batch=20, num_workers=workers))


SAMPLERS = [
    ({"type": "TripletSampler", "batch_size": [3, 2], "sample_type": "fixed_unordered", "frames_num_fixed": 6}, True),
    (
        {"type": "TripletSampler", "batch_size": [3, 2], "batch_shuffle": True, "sample_type": "unfixed_ordered",
         "frames_num_min": 3, "frames_num_max": 9, "frames_skip_num": 2},
        True,
    ),
    ({"type": "InferenceSampler", "sample_type": "all_ordered"}, False),
    (
        {"type": "InferenceSampler", "sample_type": "unfixed_unordered", "frames_num_min": 3, "frames_num_max": 9},
        False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sampler_cfg", "training"), SAMPLERS)
@pytest.mark.parametrize("chosen", [None, [2, 0], [False, True], [-1]])
def test_batches_are_those_of_the_tree(
    make_tree: Make, sampler_cfg: dict[str, Any], training: bool, chosen: Any
) -> None:
    cfg = make_tree(modalities=3) | {"data_in_use": chosen}
    packed = pack(cfg)
    pairs = 0
    for one, other in zip(batches(cfg, sampler_cfg, training), batches(packed, sampler_cfg, training), strict=True):
        for from_tree, from_store in zip(one.frames, other.frames, strict=True):
            assert from_tree.dtype == from_store.dtype
            assert from_tree.equal(from_store)
        assert one.labels.equal(other.labels)
        assert (one.types, one.views) == (other.types, other.views)
        assert one.indices.equal(other.indices)
        pairs += 1
    assert pairs >= 4


@pytest.mark.parametrize("keys", [{}, {"cache": True}, {"self_supervised": True}, {"dataset_name": "D-Gait"}])
def test_the_data_set_is_the_same(make_tree: Make, keys: dict[str, Any]) -> None:
    cfg = make_tree() | keys
    content = {"TRAIN_SET": ["003", "001", "404"], "TEST_SET": ["002", "006"]}
    Path(cfg["dataset_partition"]).write_text(json.dumps(content))  # an order of its own
    packed = pack(cfg)
    for training in (True, False):
        tree, store = GaitDataset(cfg, training), GaitDataset(packed, training)
        assert store.fingerprint() == tree.fingerprint()
        np.testing.assert_array_equal(store.lengths(), tree.lengths())
        for name in ("labels", "types", "views", "label_set", "type_set", "view_set", "sequences_of", "modalities"):
            assert getattr(store, name) == getattr(tree, name), name
        for index in range(len(tree)):
            assert store.name(index) == tree.name(index)
            np.testing.assert_array_equal(store.read(index)[0], tree.read(index)[0])
            store.read(index)[0][:] = 0  # the caller's own copy


def test_workers_give_the_same_batches(make_tree: Make) -> None:
    packed = pack(make_tree())
    sampler_cfg, training = SAMPLERS[0]
    alone = [batch.frames[0] for batch in batches(packed, sampler_cfg, training)]
    for one, other in zip(alone, batches(packed, sampler_cfg, training, workers=2), strict=True):
        assert one.equal(other.frames[0])


def _frames_of(store: PackedStore, pipe: Any) -> None:
    pipe.send(np.array(store.open(3)[0]))


def test_a_store_travels_to_processes_of_any_kind(make_tree: Make) -> None:
    store = opened(pack(make_tree()))
    expected = np.array(store.open(3)[0])  # mapped here already
    sent = pickle.dumps(store)
    assert len(sent) < 10_000
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_frames_of, args=(pickle.loads(sent), there))
    process.start()
    np.testing.assert_array_equal(here.recv(), expected)
    process.join()


def test_files_are_as_documented(make_tree: Make) -> None:
    """Read without our reader: what others find in the folder."""
    cfg = make_tree(modalities=3)
    root = Path(pack(cfg)["dataset_root"])
    names = ["0_sil", "1_ratio", "2_rgb"]
    assert sorted(path.name for path in root.iterdir()) == sorted(
        ["index.json", "sequences.npz", *(f"frames-{name}.bin" for name in names)]
    )
    index = json.loads((root / "index.json").read_text())
    assert index == {
        "version": 1,
        "modalities": [
            {"name": "0_sil", "dtype": "uint8", "shape": [16, 12]},
            {"name": "1_ratio", "dtype": "float64", "shape": []},
            {"name": "2_rgb", "dtype": "uint8", "shape": [3, 16, 12]},
        ],
    }
    columns = np.load(root / "sequences.npz", allow_pickle=False)
    keys = list(zip(columns["subject"], columns["type"], columns["view"], strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) == 36
    for key, offset, length, crc32 in zip(keys, columns["offset"], columns["length"], columns["crc32"], strict=True):
        folder, checksum = Path(cfg["dataset_root"], *key), 0
        for modality in index["modalities"]:
            frames = np.fromfile(root / f"frames-{modality['name']}.bin", dtype=modality["dtype"])
            part = frames.reshape(-1, *modality["shape"])[offset : offset + length]
            stored = pickle.loads((folder / f"{modality['name']}.pkl").read_bytes())
            np.testing.assert_array_equal(part, stored)
            checksum = zlib.crc32(part.tobytes(), checksum)
        assert checksum == crc32


class _Noted(np.ndarray):
    """Notes which indices are asked of it."""

    asked: list[Any]

    def __getitem__(self, key: Any) -> Any:
        self.asked.append(key)
        return np.asarray(self)[key]

    def take(self, indices: Any, axis: Any = None, **options: Any) -> Any:
        self.asked.append(indices)
        return np.asarray(self).take(indices, axis, **options)


def test_thirty_frames_of_a_sequence_are_thirty_frames(make_tree: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch asks of the mapped file is a sequence's place, and of that the frames chosen."""
    cfg = make_tree()
    dataset = GaitDataset(pack(cfg), training=True)
    asked: list[Any] = []
    open_sequence = dataset.store.open

    def noting(index: int) -> list[np.ndarray]:
        views = [frames.view(_Noted) for frames in open_sequence(index)]
        for view in views:
            view.asked = asked
        return views

    monkeypatch.setattr(dataset.store, "open", noting)
    sampler_cfg = SAMPLERS[0][0] | {"batch_size": [1, 1], "frames_num_fixed": 3}
    [batch] = train_loader(dataset, sampler_cfg, seed=0, end_iteration=1)
    [frames] = asked
    assert len(frames) == 3
    monkeypatch.undo()
    whole = dataset.open(int(batch.indices[0]))[0]
    assert not whole.flags.owndata  # a view of the file
    assert not whole.flags.writeable
    np.testing.assert_array_equal(batch.frames[0][0], whole[frames])


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["{view}"], ["silhouettes"]),
        (["{view}-aligned-sils", "{view}-ratios"], ["aligned-sils", "ratios"]),
        (["sils-{view}", "smpls-{view}"], ["sils", "smpls"]),
        (["0-depth", "x{view}"], ["modality-0", "modality-1"]),  # another name in each view
        (["silhouettes", "{view}"], ["modality-0", "modality-1"]),  # the same name twice
        (["sil honette"], ["modality-0"]),
    ],
)
def test_modalities_are_named_after_their_files(tmp_path: Path, files: list[str], names: list[str]) -> None:
    for view in ("000", "090"):
        for file in files:
            write_pickle(tmp_path / "data/001/nm" / view / (file.format(view=view) + ".pkl"), np.zeros((3, 4, 4)))
    report = pack_tree(tmp_path / "data", progress=False)
    assert sorted(report.bytes) == sorted(names)
    assert {modality.name for modality in PackedIndex(report.out).modalities} == set(names)


def point_clouds(rng: np.random.Generator, *counts: int) -> list[np.ndarray]:
    return [rng.normal(size=(count, 3)) for count in counts]


def test_point_clouds_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    sequences = {
        # One of equal numbers by chance, one frame, an empty frame, and one of equal numbers after that.
        "000": point_clouds(rng, 4, 4),
        "045": point_clouds(rng, 9),
        "090": point_clouds(rng, 7, 4, 0, 30),
        "135": point_clouds(rng, 2, 2, 2),
    }
    sequences = {view: frames for view, frames in sequences.items() if view != "045"}
    for view, frames in sequences.items():
        write_pickle(tmp_path / "data/001/nm" / view / "0-points.pkl", frames)
        write_pickle(tmp_path / "data/001/nm" / view / "1-sil.pkl", np.zeros((len(frames), 4, 4), np.uint8))
    cfg = {"dataset_root": str(tmp_path / "data")}
    store = opened(pack(cfg))
    np.testing.assert_array_equal(store.lengths(), [2, 4, 3])
    for index, expected in enumerate(sequences.values()):
        points, silhouettes = store.open(index)
        assert len(points) == len(silhouettes) == len(expected)
        for one, other in zip(points, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not list(store.damage(lambda _: None))


def test_point_clouds_are_refused_where_batches_are_made(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    write_pickle(tmp_path / "data/001/nm/000/0-points.pkl", point_clouds(rng, 7, 4))
    write_pickle(tmp_path / "data/001/nm/000/1-sil.pkl", np.zeros((2, 4, 4), np.uint8))
    (tmp_path / "partition.json").write_text(json.dumps({"TRAIN_SET": ["001"], "TEST_SET": []}))
    cfg = {"dataset_root": str(tmp_path / "data"), "dataset_partition": str(tmp_path / "partition.json")}
    for form in (cfg, pack(cfg)):
        with pytest.raises(ValueError, match=r"001/nm/000, modality 0: .*unequal numbers of points.*data_in_use"):
            GaitDataset(form, training=True).open(0)
        [silhouettes] = GaitDataset(form | {"data_in_use": [1]}, training=True).read(0)
        assert silhouettes.shape == (2, 4, 4)


def test_every_damaged_sequence_is_found(make_tree: Make) -> None:
    store = opened(pack(make_tree(modalities=2)))
    assert not list(store.damage(lambda _: None))
    file = Path(store.index.root, "frames-0_sil.bin")
    content = bytearray(file.read_bytes())
    for row in (0, 17, 35):
        content[(int(store.index.offset[row]) + 1) * 16 * 12 + 5] ^= 1
    file.write_bytes(content)
    through: list[int] = []
    found = list(opened({"dataset_root": store.index.root}).damage(through.append))
    assert sum(through) == 36
    assert [one.split("sequence ")[1].split(" is")[0] for one in found] == [
        "001/nm-01/000", "005/nm-01/090", "009/nm-02/090"
    ]  # fmt: skip


def test_damaged_offsets_of_points_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    write_pickle(tmp_path / "data/001/nm/000/points.pkl", point_clouds(rng, 7, 4, 3))
    cfg = pack({"dataset_root": str(tmp_path / "data")})
    file = Path(cfg["dataset_root"], "frames-points.offsets.bin")
    offsets = np.fromfile(file, dtype="<i8")
    offsets[1] += 1
    offsets.tofile(file)
    [said] = opened(cfg).damage(lambda _: None)
    assert "frames-points.offsets.bin: does not match" in said
    offsets[1] = 1 << 40
    offsets.tofile(file)
    with pytest.raises(ValueError, match=r"frames-points.offsets.bin: frames 0 to 2 have impossible offsets"):
        opened(cfg).open(0)


def rewrite_index(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((root / "index.json").read_text())
    change(content)
    (root / "index.json").write_text(json.dumps(content))


def rewrite_columns(root: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    with np.load(root / "sequences.npz") as found:
        columns = {name: np.array(found[name]) for name in found.files}
    change(columns)
    np.savez(root / "sequences.npz", **columns)


def move_out(root: Path, name: str) -> None:
    shutil.move(root / name, root.parent / name)
    (root / name).symlink_to(root.parent / name)


def lengthen(root: Path, count: int) -> None:
    with (root / "frames-0_sil.bin").open("ab") as file:
        file.write(bytes(count))


def set_item(columns: dict[str, np.ndarray], name: str, row: int, value: Any) -> None:
    columns[name][row] = value


BAD_STORES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda root: (root / "index.json").unlink(), "index.json: no such file"),
    (lambda root: (root / "sequences.npz").unlink(), "sequences.npz: no such file"),
    (lambda root: (root / "frames-0_sil.bin").unlink(), "frames-0_sil.bin: no such file"),
    (lambda root: (root / "index.json").write_text("{"), "index.json: not a JSON file"),
    (lambda root: (root / "index.json").write_text("[" * 100_000), "index.json: not a JSON file"),
    (lambda root: (root / "index.json").write_text("[]"), "index.json: is no index of a packed store"),
    (lambda root: rewrite_index(root, lambda index: index.update(version=2)), "index.json: version 2"),
    (lambda root: rewrite_index(root, lambda index: index.update(modalities=[])), "index.json: modalities"),
    (lambda root: rewrite_index(root, lambda i: i["modalities"][0].update(name="../x")), "is no name of a modality"),
    (lambda root: rewrite_index(root, lambda i: i["modalities"][0].update(name="a.offsets")), "is no name"),
    (lambda root: rewrite_index(root, lambda i: i["modalities"][0].update(dtype="object")), "dtype 'object'"),
    (lambda root: rewrite_index(root, lambda i: i["modalities"][0].update(shape=[16, -12])), "is not that of a frame"),
    (lambda root: rewrite_index(root, lambda i: i["modalities"][0].update(shape=[1 << 70])), "no whole number"),
    (lambda root: rewrite_index(root, lambda i: i["modalities"].append(i["modalities"][0])), "a name comes twice"),
    (lambda root: rewrite_index(root, lambda i: i["modalities"][0].update(shape=[16])), "without gap or overlap"),
    (lambda root: lengthen(root, 1), "no whole number of frames"),
    (lambda root: lengthen(root, 16 * 12), "without gap or overlap"),
    (lambda root: os.truncate(root / "frames-0_sil.bin", 16 * 12 * 20), "are no place among 20 frames"),
    (lambda root: os.truncate(root / "frames-0_sil.bin", 0), "no whole number of frames"),
    (lambda root: (root / "sequences.npz").write_bytes(b"junk"), "sequences.npz: no index"),
    (lambda root: rewrite_columns(root, lambda c: c.pop("crc32")), "the columns subject, type"),
    (lambda root: rewrite_columns(root, lambda c: c.update(length=c["length"][:-1])), "columns of one length"),
    (lambda root: rewrite_columns(root, lambda c: c.update(length=c["length"] * 1.0)), "whole numbers was expected"),
    (lambda root: rewrite_columns(root, lambda c: c.update(view=c["length"])), "text was expected"),
    (lambda root: rewrite_columns(root, lambda c: c.update(crc32=c["length"])), "column crc32 has dtype int64"),
    (
        lambda root: rewrite_columns(root, lambda c: c.update(subject=c["subject"].astype(object))),
        "whole numbers was expected",
    ),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "offset", 0, -1)), "row 0: offset -1"),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "length", 3, 0)), "row 3: "),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "length", 3, 1 << 62)), "row 3: "),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "offset", 3, 0)), "without gap or overlap"),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "subject", 0, "002")), "row 1 is not above"),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "view", 1, "000")), "row 1 is not above"),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "view", 1, "a/b")), "'a/b' is no name"),
    (lambda root: rewrite_columns(root, lambda c: set_item(c, "view", 0, "")), "'' is no name"),
    (lambda root: move_out(root, "frames-0_sil.bin"), "frames-0_sil.bin: the link leads out of the packed store"),
    (lambda root: move_out(root, "sequences.npz"), "sequences.npz: the link leads out of the packed store"),
    (lambda root: move_out(root, "index.json"), "index.json: the link leads out of the packed store"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), BAD_STORES)
def test_bad_stores_are_named(make_tree: Make, damage: Callable[[Path], Any], said: str) -> None:
    cfg = pack(make_tree())
    damage(Path(cfg["dataset_root"]))
    with pytest.raises(ValueError) as error:
        GaitDataset(cfg, training=True)
    assert said in str(error.value)
    assert cfg["dataset_root"] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_changes_under_the_store_is_named(make_tree: Make) -> None:
    cfg = pack(make_tree())
    dataset = GaitDataset(cfg, training=True)
    os.truncate(Path(cfg["dataset_root"], "frames-0_sil.bin"), 16 * 12)
    with pytest.raises(ValueError, match=r"frames-0_sil\.bin: has changed since"):
        dataset.read(0)


@pytest.mark.parametrize("name", ["index.json", "sequences.npz"])
def test_random_changes_end_in_one_clear_message_or_the_same_frames(make_tree: Make, name: str) -> None:
    cfg = pack(make_tree(modalities=2))
    path = Path(cfg["dataset_root"], name)
    content = path.read_bytes()
    rng = np.random.default_rng(11)
    said = []
    for _ in range(150):
        changed = bytearray(content)
        for place in rng.integers(0, len(changed), rng.integers(1, 4)):
            changed[place] = rng.integers(0, 256)
        if rng.random() < 0.2:
            del changed[int(rng.integers(0, len(changed))) :]
        path.write_bytes(changed)
        try:
            dataset = GaitDataset(cfg, training=True)
            for index in range(len(dataset)):
                dataset.read(index)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 75
    assert all(cfg["dataset_root"] in message for message in said)
