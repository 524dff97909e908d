from __future__ import annotations

import errno
import fcntl
import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from look_alikes import IN_ARCHIVES, content, look_alike

from opengait.data.packed import is_packed
from opengait.data.tree_packing import pack_tree
from opengait.prepare import prepare
from opengait.prepare.dataset import DATASETS, find_dataset
from opengait.synthetic.raw import faults
from opengait.synthetic.raw.write import find_layout


def kept_frames(out: Path) -> dict[str, int]:
    """subject/type/view -> frames."""
    return {
        path.parent.relative_to(out).as_posix(): len(pickle.loads(path.read_bytes()))
        for path in out.glob("*/*/*/*.pkl")
    }


def write_images(folder: Path, count: int = 6, shape: tuple[int, int] = (120, 160), value: int = 255) -> None:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        image = np.zeros(shape, np.uint8)
        image[shape[0] // 4 : -shape[0] // 8, shape[1] // 3 + number : shape[1] // 2 + number] = value
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)


@pytest.mark.parametrize("dataset", ["CASIA-B", "HID2023"])
def test_everything_sound_is_kept_and_nothing_else(dataset, tmp_path):
    raw = look_alike(dataset)
    report = prepare(dataset, raw.out, tmp_path / "out", workers=1)
    assert kept_frames(tmp_path / "out") == raw.kept
    assert report.sequences == len(raw.kept)
    assert report.frames == sum(raw.kept.values())
    assert report.subjects == len({*raw.train, *raw.test})
    nothing_left = {fault.sequence for fault in raw.faults if fault.kind in faults.FATAL - {faults.ABSENT}}
    named = set(report.empty_sequences.examples) | {
        sequence for tally in report.left_out.values() for sequence in tally.examples
    }
    assert all(any(path.endswith(sequence) for path in named) for sequence in nothing_left)
    short = [fault.sequence for fault in raw.faults if fault.kind == faults.SHORT]
    assert report.short_sequences.examples == short


@pytest.mark.parametrize("dataset", IN_ARCHIVES)
def test_archives_give_the_same_bytes_as_folders(dataset, tmp_path):
    prepare(dataset, look_alike(dataset).out, tmp_path / "folders", workers=1)
    prepare(dataset, look_alike(dataset, archives=True).out, tmp_path / "archives", workers=1)
    assert content(tmp_path / "archives") == content(tmp_path / "folders")


@pytest.mark.parametrize("archives", [False, True])
def test_the_number_of_workers_changes_nothing(archives, tmp_path):
    raw = look_alike("CASIA-B", archives).out
    alone = prepare("CASIA-B", raw, tmp_path / "one", workers=1)
    together = prepare("CASIA-B", raw, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert alone.to_json() == together.to_json()


@pytest.mark.parametrize("dataset", ["CASIA-B", "Gait3D"])
def test_packed_store_is_the_packed_tree(dataset, tmp_path):
    raw = look_alike(dataset).out
    tree = prepare(dataset, raw, tmp_path / "tree", workers=1)
    pack_tree(tmp_path / "tree", tmp_path / "by-hand", progress=False)
    store = prepare(dataset, raw, tmp_path / "store", packed=True, workers=1)
    assert is_packed(tmp_path / "store")
    by_hand, written = content(tmp_path / "by-hand"), content(tmp_path / "store")
    assert {name: written[name] for name in by_hand} == by_hand
    assert store.to_json() == {**tree.to_json(), "packed": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by-hand", "store", "tree"]

    again = prepare(dataset, raw, tmp_path / "store", packed=True, workers=1)
    assert (again.written, again.kept) == (0, store.written)
    assert again.to_json() == store.to_json()
    assert content(tmp_path / "store") == written


def test_frames_are_those_of_the_common_script(shared, tmp_path):
    golden = np.load(shared("golden/pretreat/pretreat.npz"))
    folder = tmp_path / "raw/001/nm-01/000"
    folder.mkdir(parents=True)
    for number, frame in enumerate(golden["in/a"]):
        cv2.imwrite(str(folder / f"001-nm-01-000-{number:03d}.png"), frame)
    (folder / "gei.png").write_bytes((folder / "001-nm-01-000-000.png").read_bytes())  # no frame of a walk
    report = prepare("CASIA-B", tmp_path / "raw", tmp_path / "out", workers=1)
    found = pickle.loads((tmp_path / "out/001/nm-01/000/000.pkl").read_bytes())
    assert found.dtype == np.uint8
    assert found.shape == golden["out/a_64"].shape
    # One grey level is what OpenCV releases differ by in the bicubic resize.
    assert np.abs(found.astype(int) - golden["out/a_64"].astype(int)).max() <= 1
    assert report.frames + sum(tally.count for tally in report.dropped_frames.values()) == len(golden["in/a"])


def test_broken_images_cost_one_frame_each_and_are_named(tmp_path):
    folder = tmp_path / "raw/001/nm-01/000"
    write_images(folder, 9)
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(b"")
    (folder / "002.png").write_bytes(whole[: len(whole) // 2])
    (folder / "003.png").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    (folder / "004.png").write_bytes(b"no image at all")
    cv2.imwrite(str(folder / "005.png"), np.full((120, 160), 40_000, np.uint16))
    cv2.imwrite(str(folder / "006.png"), np.arange(120 * 160 * 3).astype(np.uint8).reshape(120, 160, 3))
    (folder / "007.png").unlink()
    (folder / "007.png").symlink_to(tmp_path / "nowhere")
    image = cv2.imread(str(folder / "008.png"))
    assert image.ndim == 3
    cv2.imwrite(str(folder / "008.png"), image)  # stored in colour, but grey
    report = prepare("CASIA-B", tmp_path / "raw", tmp_path / "out", workers=1)
    assert report.frames == 2
    assert {reason: tally.count for reason, tally in report.dropped_frames.items()} == {
        "empty file": 1,
        "unreadable image": 4,
        "wrong kind of image": 2,
    }
    examples = report.dropped_frames["unreadable image"].examples
    assert [example.split(":")[0] for example in examples] == [f"001/nm-01/000/{n:03d}.png" for n in (2, 3, 4, 7)]
    assert any("unreadable image: 4" in line for line in report.lines())
    assert json.loads((tmp_path / "out/prepare-report.json").read_text()) == json.loads(json.dumps(report.to_json()))


def test_a_second_call_only_does_what_has_changed(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_images(raw / "001/nm-01/000")
    write_images(raw / "001/nm-01/018")
    first = prepare("CASIA-B", raw, out, workers=1)
    before = content(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.pkl")}
    second = prepare("CASIA-B", raw, out, workers=1)
    assert (first.written, second.written, second.kept) == (2, 0, 2)
    assert content(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.pkl")} == times

    (raw / "001/nm-01/000/002.png").unlink()
    (out / "001/nm-01/018/018.pkl").write_bytes(b"cut off")
    write_images(raw / "002/nm-01/000")
    third = prepare("CASIA-B", raw, out, workers=1)
    assert (third.written, third.kept) == (3, 0)
    prepare("CASIA-B", raw, tmp_path / "afresh", workers=1)
    assert content(out) == content(tmp_path / "afresh")

    shutil.rmtree(raw / "002")
    fourth = prepare("CASIA-B", raw, out, workers=1)
    assert fourth.not_in_raw.examples == ["002/nm-01/000"]
    assert fourth.sequences == 3

    for path in (raw / "001/nm-01/000").iterdir():  # nothing is left of a sequence that had been written
        path.write_bytes(b"")
    fifth = prepare("CASIA-B", raw, out, workers=1)
    assert fifth.empty_sequences.examples == ["001/nm-01/000"]
    assert not (out / "001/nm-01/000").exists()


def test_what_is_found_beside_what_is_published(tmp_path):
    write_images(tmp_path / "raw/074/nm-01/000")
    write_images(tmp_path / "raw/075/nm-01/000")
    write_images(tmp_path / "raw/075/nm-01/018", 3)
    report = prepare("CASIA-B", tmp_path / "raw", tmp_path / "out", workers=1)
    found = {(row.part, row.what): (row.found, row.published) for row in report.comparisons}
    assert found["total", "subjects"] == (2, 124)
    assert found["train", "sequences"] == (1, 8140)
    assert found["test", "sequences"] == (2, 5500)
    lines = list(report.lines())
    assert "total sequences: 3 of nominally 13,640" in lines
    assert any("fewer than 5 frames, written: 1 (075/nm-01/018)" in line for line in lines)


def test_another_layout_is_refused_with_what_was_expected_and_what_it_may_be(tmp_path):
    raw = look_alike("OUMVLP").out
    with pytest.raises(ValueError) as refused:
        prepare("CASIA-B", raw, tmp_path / "out", workers=1)
    said = str(refused.value)
    assert "expected: <id>/<type>/<view>" in said
    assert "found: " in said
    assert "Silhouette_000-00/00001" in said
    assert "looks like OUMVLP" in said
    assert not (tmp_path / "out").exists()
    prepare("OUMVLP", raw, tmp_path / "out", workers=1)


def test_folders_of_the_same_names_with_other_files_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)no sequence of CASIA-B\n.*000-aligned-sils\.pkl.*looks like CASIA-B\*"):
        prepare("CASIA-B", look_alike("CASIA-B*").out, tmp_path / "out", workers=1)
    with pytest.raises(ValueError, match=r"(?s)no sequence of CASIA-B\*\n.*-001\.png.*looks like CASIA-B "):
        prepare("CASIA-B*", look_alike("CASIA-B", archives=True).out, tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "prepare.json").exists()


def test_names_of_data_sets(tmp_path):
    with pytest.raises(ValueError, match=r"'GREWW' \(did you mean 'GREW'\?\); known: CASIA-B"):
        prepare("GREWW", tmp_path, tmp_path / "out")
    write_images(tmp_path / "raw/001/nm-01/000")
    assert prepare("casia_b", tmp_path / "raw", tmp_path / "out", workers=1).dataset == "CASIA-B"
    assert find_dataset("CASIA-B-star").name == find_layout("CASIA-B-star").name == "CASIA-B*"
    for name in DATASETS:
        assert find_layout(name.lower()).name == name
    with pytest.raises(ValueError, match=r"no raw look-alike of 'GREWW' \(did you mean 'GREW'\?\)"):
        find_layout("GREWW")


def test_wrong_arguments_are_refused(tmp_path):
    raw = tmp_path / "raw"
    write_images(raw / "001/nm-01/000")
    for arguments, says in (
        ({"size": 63}, "even number"),
        ({"workers": 0}, "workers must be"),
        ({"raw": tmp_path / "none"}, "no such folder"),
        ({"raw": next(raw.rglob("*.png"))}, "is a file; the folder of the download was expected"),
        ({"out": raw / "out"}, "lie in one another"),
        ({"out": tmp_path}, "lie in one another"),
        ({"dataset": "GREW", "size": 64}, "normalised"),
    ):
        given = {"dataset": "CASIA-B", "raw": raw, "out": tmp_path / "out", "workers": 1, **arguments}
        with pytest.raises(ValueError, match=says):
            prepare(**given)
        assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_images(raw / "001/nm-01/000")
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for packed in (False, True):
        with pytest.raises(ValueError, match="holds"):
            prepare("CASIA-B", raw, out, packed=packed, workers=1)
    assert content(tmp_path / "out") == {"notes.txt": b"mine"}
    (out / "notes.txt").unlink()
    prepare("CASIA-B", raw, out, workers=1)
    for arguments in ({"size": 128}, {"packed": True}):
        with pytest.raises(ValueError, match="was prepared otherwise"):
            prepare("CASIA-B", raw, out, workers=1, **arguments)
    prepare("CASIA-B", raw, tmp_path / "store", packed=True, workers=1)
    with pytest.raises(ValueError, match="was prepared otherwise"):
        prepare("CASIA-B", raw, tmp_path / "store", workers=1)


def test_a_full_disk_is_told_and_the_next_call_goes_on(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    for number in range(1, 25):  # more than are prepared at once
        write_images(raw / f"{number:03d}/nm-01/000")
    prepare("CASIA-B", raw, tmp_path / "whole", workers=1, progress=False)
    write_bytes, room = Path.write_bytes, iter(range(20))

    def write(path: Path, content: bytes) -> int:
        if next(room, None) is None:
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match=r"out: No space left on device; make room and give the same command again"):
        prepare("CASIA-B", raw, tmp_path / "out", workers=1, progress=False)
    assert not list((tmp_path / "out").glob(".opengait-unfinished-*"))
    monkeypatch.undo()
    report = prepare("CASIA-B", raw, tmp_path / "out", workers=1, progress=False)
    assert (report.written, report.kept) == (8, 16)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_two_calls_do_not_write_one_folder(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_images(raw / "001/nm-01/000")
    prepare("CASIA-B", raw, out, workers=1)
    before = content(out)
    with (out / "prepare.json").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process"):
            prepare("CASIA-B", raw, out, workers=1)
    assert content(out) == before
    prepare("CASIA-B", raw, out, workers=1)


def test_gallery_videos_of_grew_are_numbered_by_name(tmp_path):
    for video in ("zz", "Aa", "mm"):
        write_images(tmp_path / f"raw/test/gallery/00007/{video}", shape=(64, 64))
    write_images(tmp_path / "raw/test/probe/video7", shape=(64, 64))
    write_images(tmp_path / "raw/test/probe/odd", shape=(64, 60))
    write_images(tmp_path / "raw/distractor/00001/vv", shape=(64, 64))
    report = prepare("GREW", tmp_path / "raw", tmp_path / "out", workers=1)
    assert set(kept_frames(tmp_path / "out")) == {"00007/01/Aa", "00007/02/mm", "probe/03/video7"}
    assert report.left_out["a test subject has two gallery videos"].examples == ["test/gallery/00007/zz"]
    assert any("distractor" in reason for reason in report.left_out)
    assert report.dropped_frames["wrong size"].count == 6
    assert report.subjects == 1
    first = pickle.loads((tmp_path / "out/00007/01/Aa/Aa.pkl").read_bytes())[0]
    raw = cv2.imread(str(tmp_path / "raw/test/gallery/00007/Aa/001.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(first, raw)


def test_hid_probes_are_named_by_their_view(tmp_path):
    write_images(tmp_path / "raw/gallery/00003/s1", shape=(64, 64))
    write_images(tmp_path / "raw/probe_phase1/p1", shape=(64, 64))
    write_images(tmp_path / "raw/probe_phase2/p2/default", shape=(64, 64))
    (tmp_path / "raw/probe_phase2/p2/default/007.png").write_bytes(
        cv2.imencode(".png", np.zeros((32, 64), np.uint8))[1].tobytes()
    )
    report = prepare("HID2023", tmp_path / "raw", tmp_path / "out", workers=1)
    assert kept_frames(tmp_path / "out") == {
        "00003/default/s1": 6,
        "probe/default/p1": 6,
        "probe/default/p2": 6,
    }
    assert report.dropped_frames["wrong size"].examples == ["probe/default/p2/007.png: 32x64, 64x64 was expected"]


@pytest.mark.parametrize("default", ["", "/default"])
def test_gallery_and_probes_of_hid_may_be_merged_into_one_folder(tmp_path, default):
    for sequence in ("00003/s1", "00004/s1", "probe/p1"):
        write_images(tmp_path / f"raw/{sequence}{default}", shape=(64, 64))
    write_images(tmp_path / "raw/003/s1", shape=(64, 64))
    report = prepare("HID2023", tmp_path / "raw", tmp_path / "out", workers=1)
    assert set(kept_frames(tmp_path / "out")) == {"00003/default/s1", "00004/default/s1", "probe/default/p1"}
    assert (report.subjects, report.left_out["not part of the layout"].examples) == (2, ["003/s1"])


def test_the_two_phases_of_hid_probes_may_lie_in_one_folder_and_names_in_capitals(tmp_path):
    write_images(tmp_path / "raw/HID2023_Gallery/00003/s1", shape=(64, 64))
    write_images(tmp_path / "raw/Probe/phase1/p1", shape=(64, 64))
    write_images(tmp_path / "raw/Probe/Phase_2/p2", shape=(64, 64))
    prepare("HID2023", tmp_path / "raw", tmp_path / "out", workers=1)
    assert set(kept_frames(tmp_path / "out")) == {"00003/default/s1", "probe/default/p1", "probe/default/p2"}
