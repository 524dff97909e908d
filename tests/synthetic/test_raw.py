"""Look-alikes of raw distributions: names, sizes, formats and archives as the owners ship them, faults as announced."""

from __future__ import annotations

import io
import json
import pickle
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from opengait.prepare import normalize_silhouette
from opengait.synthetic.raw import LAYOUTS, RawReport, faults, write
from opengait.synthetic.raw.faults import Fault
from opengait.synthetic.raw.write import find_layout

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
SMALL: dict[str, dict[str, Any]] = {
    "CASIA-B": {"types": ["nm-01", "nm-05", "bg-01"], "views": ["000", "090"]},
    "CASIA-B*": {"types": ["nm-01", "cl-01"], "views": ["000", "090"]},
    "OUMVLP": {"views": ["000", "195", "270"]},
}
# Every file of a look-alike fits one of these.
NAMES = {
    "CASIA-B": [r"(\d{3})/((nm|bg|cl)-\d\d)/(\d{3})/\1-\2-\4-\d{3}\.png"],
    "CASIA-B*": [r"\d{3}/(nm|bg|cl)-\d\d/(\d{3})/\2-(aligned-sils|ratios|rgbs|sils)\.pkl"],
    "OUMVLP": [r"Silhouette_(0[0-9][05]|1[89][05]|2[0-7][05])-0[01]/\d{5}/\d{4}\.png"],
    "GREW": [
        r"(train|test/gallery)/\d{5}/\w{8}/\d{5}(\.png|_2d_pose\.txt|_3d_pose\.txt)",
        r"test/probe/\w{8}/\d{5}(\.png|_2d_pose\.txt|_3d_pose\.txt)",
        r"((train|test/gallery)/\d{5}|test/probe)/\w{8}_gei\.png",
    ],
    "HID2022": [r"(train|gallery)/\d{4}/\d\d/\d{4}\.png", r"probe/\d{5}/\d{4}\.png"],
    "HID2023": [r"gallery/\d{5}/(\d\d)/\1\.pkl", r"probe_phase[12]/(\d{5})/\1\.pkl"],
    "Gait3D": [
        r"2D_Silhouettes/\d{4}/camid\d+_videoid\d/seq\d/human_crop_f\d{5}\.png",
        r"3D_SMPLs/\d{4}/camid\d+_videoid\d/seq\d/human_crop_f\d{5}\.npz",
        r"Gait3D\.json",
    ],
}
SIZES = {"CASIA-B": (240, 320), "OUMVLP": (980, 1280), "GREW": (64, 64), "HID2022": (128, 128)}
SHIPPED = ("CASIA-B", "CASIA-B*", "OUMVLP", "GREW", "HID2022", "HID2023")


def small(dataset: str, out: Path, **options: Any) -> RawReport:
    return write(dataset, out, 4, **{**SMALL.get(dataset, {}), **options})


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RawReport]:
    folder = tmp_path_factory.mktemp("raw")
    return {dataset: small(dataset, folder / str(number)) for number, dataset in enumerate(LAYOUTS)}


def content(root: Path) -> dict[str, bytes | None]:
    """Path -> bytes; None for an empty folder."""
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {
        name: path.read_bytes() if path.is_file() else None
        for name, path in found.items()
        if path.is_file() or not any(path.iterdir())
    }


def unpacked(tree: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """Archives unpacked where they lie, those within them too."""
    result: dict[str, bytes | None] = {}
    for path, data in tree.items():
        if data is None or not path.endswith((".zip", ".tgz", ".tar", ".tar.gz")):
            result[path] = data
            continue
        members: dict[str, bytes | None] = {}
        if path.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as zipped:
                members = {
                    info.filename.rstrip("/"): None if info.is_dir() else zipped.read(info)
                    for info in zipped.infolist()
                }
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    file = archive.extractfile(member)
                    members[member.name] = None if file is None else file.read()
        folder = path.rpartition("/")[0]
        result.update(unpacked({f"{folder}/{name}".lstrip("/"): item for name, item in members.items()}))
    return result


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_every_file_is_named_as_in_the_distribution(looks, dataset):
    for name, data in content(looks[dataset].out).items():
        assert data is None or any(re.fullmatch(pattern, name) for pattern in NAMES[dataset]), name


@pytest.mark.parametrize("dataset", sorted(SIZES.keys() & LAYOUTS))
def test_images_are_grey_and_of_the_native_size(looks, dataset):
    report = looks[dataset]
    spoiled = {fault.path for fault in report.faults if fault.kind in (faults.DAMAGED, faults.EMPTY_FILE)}
    shapes = Counter(
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape
        for path in sorted(report.out.rglob("*.png"))
        if path.relative_to(report.out).as_posix() not in spoiled
    )
    assert list(shapes) == [SIZES[dataset]]


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_each_kind_of_fault_is_put_in_once_in_a_sequence_of_its_own(looks, dataset):
    report = looks[dataset]
    assert sorted(fault.kind for fault in report.faults) == sorted(find_layout(dataset).faults)
    assert len({fault.sequence for fault in report.faults}) == len(report.faults)
    for fault in report.faults:
        there = (report.out / fault.path).exists()
        gone = (faults.ABSENT, faults.MISSING_PICKLE, faults.NO_SMPL, faults.NO_SILHOUETTE, faults.NO_SMPL_FOLDER)
        assert there == (fault.kind not in gone), fault


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_a_look_alike_without_faults_keeps_every_frame(dataset, tmp_path):
    report = small(dataset, tmp_path / "raw", faults=())
    assert report.faults == ()
    assert len(report.kept) == report.sequences
    assert sum(report.kept.values()) == report.frames


@pytest.mark.parametrize("dataset", ["CASIA-B", "OUMVLP"])
def test_normalisation_drops_what_was_spoiled_and_nothing_else(looks, dataset):
    report = looks[dataset]
    kept: Counter[str] = Counter()
    for path in sorted(report.out.rglob("*.png")):
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
        if image is None or normalize_silhouette(image) is None:
            continue
        folder = path.parent.relative_to(report.out).as_posix()
        if dataset == "OUMVLP":
            view, kind, subject = re.fullmatch(r"Silhouette_(\d+)-(\d+)/(\d+)", folder).groups()
            folder = f"{subject}/{kind}/{view}"
        kept[folder] += 1
    assert dict(kept) == report.kept


def test_people_stand_at_many_places_and_distances_in_the_frame(looks):
    boxes = []
    for path in sorted(looks["CASIA-B"].out.rglob("*.png")):
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
        if image is not None and image.sum() > 255 * 1000:
            boxes.append(cv2.boundingRect(image))
    left, top, width, height = np.array(boxes).T
    assert np.ptp(left + width / 2) > 60
    assert height.min() < 0.8 * height.max()
    # All of the person is seen.
    assert min(left.min(), top.min()) > 0
    assert (left + width).max() < 320
    assert (top + height).max() < 240


@pytest.mark.parametrize("dataset", SHIPPED)
def test_subjects_are_on_both_sides_of_the_shipped_partition(looks, dataset):
    partition = json.loads((DATASETS / dataset / f"{dataset}.json").read_text())
    report = looks[dataset]
    assert set(report.train) <= set(partition["TRAIN_SET"])
    assert set(report.test) < set(partition["TEST_SET"])
    assert (len(report.train), len(report.test)) == ((0, 4) if dataset == "HID2023" else (2, 2))
    subjects = {sequence.split("/")[0] for sequence in report.kept}
    assert subjects - {"probe"} == {*report.train, *report.test}


def test_the_list_of_gait3d_names_its_subjects_and_a_probe_of_each(looks):
    report = looks["Gait3D"]
    split = json.loads((report.out / "Gait3D.json").read_text())
    assert (split["TRAIN_SET"], split["TEST_SET"]) == (report.train, report.test)
    assert [name.split("-")[0] for name in split["PROBE_SET"]] == report.test
    assert set(split["PROBE_SET"]) < {sequence.replace("/", "-") for sequence in report.kept}


def test_masks_and_colours_of_casia_b_star_have_its_shapes(looks):
    report = looks["CASIA-B*"]
    for sequence, frames in report.kept.items():
        view = sequence.split("/")[-1]
        arrays = {
            name: pickle.loads((report.out / sequence / f"{view}-{name}.pkl").read_bytes())
            for name in ("aligned-sils", "ratios", "rgbs", "sils")
        }
        shapes = {name: array.shape for name, array in arrays.items()}
        assert shapes == {
            "aligned-sils": (frames, 64, 44), "ratios": (frames,), "rgbs": (frames, 3, 128, 128),
            "sils": (frames, 128, 128),
        }  # fmt: skip


@pytest.mark.parametrize("dataset", ["CASIA-B", "GREW", "HID2022", "HID2023"])
def test_archives_hold_what_the_folders_hold(looks, dataset, tmp_path):
    packed = small(dataset, tmp_path / "raw", archives=True)
    assert {path.suffix for path in packed.out.iterdir()} <= {".zip", ".tar"}
    found = unpacked(content(packed.out))
    found = {name.removeprefix("GaitDatasetB-silh/"): data for name, data in found.items()}
    assert found == content(looks[dataset].out)
    assert (packed.kept, packed.faults) == (looks[dataset].kept, looks[dataset].faults)


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(looks, tmp_path):
    again = content(small("Gait3D", tmp_path / "again").out)
    assert again == content(looks["Gait3D"].out)
    assert content(small("Gait3D", tmp_path / "other", seed=1).out) != again
    archives = [content(small("GREW", tmp_path / name, archives=True).out) for name in ("one", "two")]
    assert archives[0] == archives[1]


def test_one_fault_can_be_asked_for(tmp_path):
    report = small("CASIA-B", tmp_path / "raw", faults=[faults.SPECK])
    assert [fault.kind for fault in report.faults] == [faults.SPECK]
    assert isinstance(report.faults[0], Fault)
    assert sum(report.kept.values()) == report.frames - 1


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("CASIA-BB", {}, ["CASIA-BB", "did you mean 'CASIA-B'", "Gait3D"]),
        ("CASIA-B", {"types": ["nm-07"]}, ["types", "nm-07", "nm-01"]),
        ("CASIA-B", {"types": "nm-01"}, ["types", "list"]),
        ("OUMVLP", {"views": ["018"]}, ["views", "018", "015"]),
        ("GREW", {"views": ["000"]}, ["views", "GREW", "leave views out"]),
        ("GREW", {"faults": [faults.BLANK]}, ["GREW", "blank frame"]),
        ("OUMVLP", {"archives": True}, ["OUMVLP", "leave archives out"]),
        ("CASIA-B", {"types": ["nm-01"], "views": ["000"]}, ["9 faults", "4", "fewer faults"]),
        ("CASIA-B", {"frames": (8, 6)}, ["8", "6"]),
    ],
)
def test_what_cannot_be_made_is_said(tmp_path, dataset, options, words):
    with pytest.raises(ValueError) as raised:
        write(dataset, tmp_path / "raw", 4, **options)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        small("CASIA-B", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
