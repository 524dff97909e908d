"""Writing packed stores: the same bytes in any order and after any stop; nothing is overwritten by mistake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickle_files import write_pickle

from opengait.data.packed_index import PackedIndex
from opengait.data.packing import PackedWriter
from opengait.data.tree_packing import pack_tree

Make = Callable[..., dict[str, Any]]
Sequences = dict[tuple[str, str, str], list[np.ndarray]]


def some_sequences(count: int = 12) -> Sequences:
    rng = np.random.default_rng(2)
    sequences: Sequences = {}
    for number in range(count):
        length = int(rng.integers(1, 6))
        key = (f"{number % 3}", f"nm-{number // 3}", "000")
        sequences[key] = [rng.integers(0, 256, (length, 4, 3), dtype=np.uint8), rng.normal(size=(length, 2))]
    return sequences


def write(out: Path, sequences: Sequences, order: Any = None, **options: Any) -> Path:
    keys = list(sequences)
    with PackedWriter(out, ["sil", "pose"], **options) as writer:
        for number in range(len(keys)) if order is None else order:
            writer.add(*keys[number], sequences[keys[number]])
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as error:
        write(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    sequences = some_sequences()
    first = content(write(tmp_path / "first", sequences))
    rng = np.random.default_rng(0)
    for turn in range(3):
        assert content(write(tmp_path / f"other{turn}", sequences, rng.permutation(len(sequences)))) == first
    assert sorted(os.listdir(tmp_path)) == ["first", "other0", "other1", "other2"]


def test_point_clouds_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    # Equal numbers of points in the first ones, which look like arrays of frames until one is not.
    clouds = {str(view): [rng.normal(size=(points, 3)) for points in counts]
              for view, counts in enumerate([(4, 4), (4,), (5, 1, 0), (2, 2)])}  # fmt: skip
    stores = []
    for number, order in enumerate(["2013", "0123", "1203"]):
        with PackedWriter(tmp_path / str(number), ["points"]) as writer:
            for view in order:
                writer.add("1", "nm", view, [clouds[view]])
        stores.append(content(tmp_path / str(number)))
    assert stores[0] == stores[1] == stores[2]


def test_arrays_are_stored_in_one_byte_order_and_layout(tmp_path: Path) -> None:
    frames = np.arange(24.0).reshape(2, 3, 4)
    for name, array in (("plain", frames), ("big", frames.astype(">f8")), ("columns", np.asfortranarray(frames))):
        with PackedWriter(tmp_path / name, ["x"]) as writer:
            writer.add("1", "nm", "0", [array])
    assert content(tmp_path / "plain") == content(tmp_path / "big") == content(tmp_path / "columns")


@pytest.mark.parametrize("stop_after", [0, 1, 5, 11])
def test_a_stopped_writer_is_taken_up(tmp_path: Path, stop_after: int) -> None:
    sequences = some_sequences()
    expected = content(write(tmp_path / "whole", sequences))
    keys = list(sequences)
    unfinished = {key: sequences[key] for key in keys[:stop_after]} | {("x", "y", "z"): []}  # ends in an error
    refused(tmp_path / "out", unfinished, source="a")
    assert not (tmp_path / "out").exists()
    with PackedWriter(tmp_path / "out", ["sil", "pose"], source="a") as writer:
        assert writer.done == set(keys[:stop_after])
        for key in keys:
            if key not in writer.done:
                writer.add(*key, sequences[key])
    assert content(tmp_path / "out") == expected
    assert sorted(os.listdir(tmp_path)) == ["out", "whole"]


@pytest.mark.parametrize("source", ["b", None])
def test_what_another_source_left_is_not_taken_up(tmp_path: Path, source: str | None) -> None:
    sequences = some_sequences()
    writer = PackedWriter(tmp_path / "out", ["sil", "pose"], source="a")
    writer.add("x", "y", "z", sequences[next(iter(sequences))])
    writer.stop()
    with PackedWriter(tmp_path / "out", ["sil", "pose"], source=source) as writer:
        assert not writer.done
        writer.add("1", "nm", "0", sequences[next(iter(sequences))])
    assert PackedIndex(tmp_path / "out").subjects == ["1"]


@pytest.mark.parametrize("harm", ["frames", "frames cut", "frames absent", "journal", "journal cut", "journal line"])
def test_what_a_stopped_writer_left_is_checked(tmp_path: Path, harm: str) -> None:
    sequences = some_sequences()
    expected = content(write(tmp_path / "whole", sequences))
    keys = list(sequences)
    writer = PackedWriter(tmp_path / "out", ["sil", "pose"], source="a")
    for key in keys[:8]:
        writer.add(*key, sequences[key])
    writer.stop()
    file = tmp_path / ".out.packing" / ("frames-sil.bin" if harm.startswith("frames") else "journal")
    before = file.read_bytes()
    if harm == "frames absent":
        file.unlink()
    elif harm.endswith("cut"):
        file.write_bytes(before[: len(before) * 2 // 3])
    elif harm == "journal line":
        file.write_bytes(before + b'["1", "nm-9", "000", 99, 1]\n["1", "nm')
    else:
        file.write_bytes(before[:60] + b"#" + before[61:])
    with PackedWriter(tmp_path / "out", ["sil", "pose"], source="a") as writer:
        assert len(writer.done) < 8 or harm == "journal line"
        for key in keys:
            if key not in writer.done:
                writer.add(*key, sequences[key])
    assert content(tmp_path / "out") == expected


KILLED = """
import os, signal, sys
import opengait.data.packing as packing
from opengait.data.tree_packing import pack_tree
moments = int(sys.argv[3])
def count(name):
    original = getattr(packing.os if name in ("rename", "replace", "fsync") else packing.PackedWriter, name)
    def counted(*arguments, **options):
        global moments
        moments -= 1
        if moments < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(packing.os if name in ("rename", "replace", "fsync") else packing.PackedWriter, name, counted)
for name in ("rename", "replace", "fsync", "_remember", "_write_index"):
    count(name)
pack_tree(sys.argv[1], sys.argv[2], progress=False, workers=1)
"""


def test_killed_at_any_moment_nothing_opens_and_the_next_gives_the_same_bytes(make_tree: Make, tmp_path: Path) -> None:
    root = make_tree(train=1, test=1, modalities=2)["dataset_root"]
    expected = content(pack_tree(root, tmp_path / "whole", progress=False).out)
    out = tmp_path / "out"
    # 8 sequences, 2 moves, 2 files and then the index with its own, the move into place.
    for moment in (0, 3, 7, 9, 11, 13, 15):
        process = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), root, out, str(moment)], check=False)
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
    assert content(pack_tree(root, out, progress=False).out) == expected
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_changed_tree_is_packed_anew(make_tree: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree()["dataset_root"]
    original = PackedWriter.add

    def stopping(self: PackedWriter, *arguments: Any) -> None:
        if len(self.done) == 5:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(PackedWriter, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        pack_tree(root, tmp_path / "out", progress=False)
    monkeypatch.undo()
    write_pickle(Path(root, "001/nm-01/000/0_sil.pkl"), np.ones((40, 16, 12), np.uint8))
    assert PackedIndex(pack_tree(root, tmp_path / "out", progress=False).out).length[0] == 40


def test_two_writers_of_one_store_are_refused(tmp_path: Path) -> None:
    sequences = some_sequences()
    writer = PackedWriter(tmp_path / "out", ["sil", "pose"])
    assert "another process is writing" in refused(tmp_path / "out", sequences)
    writer.stop()
    write(tmp_path / "out", sequences)


def test_only_a_packed_store_is_replaced_and_only_by_force(tmp_path: Path) -> None:
    sequences = some_sequences()
    out = tmp_path / "out"
    out.mkdir()
    write(out, sequences)  # an empty folder is free
    before = content(out)
    assert "holds a packed store already" in refused(out, sequences)
    del sequences["0", "nm-0", "000"]
    write(out, sequences, force=True)
    assert content(out) != before
    (out / "notes.txt").touch()
    assert "holds notes.txt beside" in refused(out, sequences, force=True)
    (tmp_path / "other" / "things").mkdir(parents=True)
    assert "is no packed store" in refused(tmp_path / "other", sequences, force=True)
    (tmp_path / "file").touch()
    assert "is a file" in refused(tmp_path / "file", sequences, force=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "other", "out"]


SIL, POSE = np.zeros((2, 4, 3), np.uint8), np.zeros((2, 2))
BAD_SEQUENCES: list[tuple[tuple[str, str, str], list[Any], str]] = [
    (("0", "nm-0", "000"), [SIL, POSE], "0/nm-0/000 comes twice"),
    (("1", "..", "0"), [SIL, POSE], "names of folders"),
    (("1", "a/b", "0"), [SIL, POSE], "names of folders"),
    (("1", "nm", "0"), [SIL], "has 1 modalities; 2 were expected"),
    (("1", "nm", "0"), [SIL, POSE[:1]], "hold 2, 1 frames"),
    (("1", "nm", "0"), [SIL[:0], POSE[:0]], "hold 0, 0 frames"),
    (("1", "nm", "0"), [SIL[:, :3], POSE], "modality sil: frames of shape [3, 3], those before have [4, 3]"),
    (("1", "nm", "0"), [SIL.astype(np.int8), POSE], "modality sil: frames of dtype int8, those before have uint8"),
    (("1", "nm", "0"), [SIL, POSE.astype(complex)], "dtype complex128; expected one of"),
    (("1", "nm", "0"), [[SIL[0], SIL[1, :2]], POSE], "only point clouds"),
]


@pytest.mark.parametrize(("key", "arrays", "said"), BAD_SEQUENCES)
def test_a_sequence_unlike_the_others_is_named_and_not_written(
    tmp_path: Path, key: tuple[str, str, str], arrays: list[Any], said: str
) -> None:
    sequences = some_sequences()
    expected = content(write(tmp_path / "whole", sequences))
    with PackedWriter(tmp_path / "out", ["sil", "pose"]) as writer:
        for number, (good, frames) in enumerate(sequences.items()):
            writer.add(*good, frames)
            if number == 4:
                with pytest.raises(ValueError) as error:
                    writer.add(*key, arrays)
                assert said in str(error.value)
                assert "/".join(key) in str(error.value)
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("names", [[], ["a", "A"], ["a/b"], [""], [".hidden"], ["a.offsets"], ["a" * 101]])
def test_names_that_make_no_file_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match="modal"):
        PackedWriter(tmp_path / "out", names)
    assert not list(tmp_path.iterdir())


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sequence to pack"):
        PackedWriter(tmp_path / "out", ["sil"]).close()
    assert not list(tmp_path.iterdir())


def test_packing_names_the_folder_that_does_not_fit(make_tree: Make, tmp_path: Path) -> None:
    cfg = make_tree()
    write_pickle(Path(cfg["dataset_root"], "003/nm-01/090/0_sil.pkl"), np.zeros((3, 16, 11), np.uint8))
    with pytest.raises(ValueError, match=r"data/003/nm-01/090: .*shape \[16, 11\], those before have \[16, 12\]"):
        pack_tree(cfg["dataset_root"], progress=False)
    assert not Path(cfg["dataset_root"] + "-packed").exists()


def test_packing_a_selection(make_tree: Make, tmp_path: Path) -> None:
    root = make_tree(modalities=3)["dataset_root"]
    report = pack_tree(root, tmp_path / "out", data_in_use=[2, 0], progress=False)
    assert [modality.name for modality in PackedIndex(report.out).modalities] == ["2_rgb", "0_sil"]
    assert (report.subjects, report.sequences) == (9, 36)
    assert report.bytes == {"2_rgb": report.frames * 3 * 16 * 12, "0_sil": report.frames * 16 * 12}


def test_packing_says_what_it_cannot_pack(make_tree: Make, tmp_path: Path) -> None:
    root = make_tree()["dataset_root"]
    for arguments, said in (
        ((tmp_path / "absent",), "no such folder"),
        ((root, Path(root) / "packed"), "is inside the tree"),
        ((root, root), "is inside the tree"),
    ):
        with pytest.raises(ValueError, match=said):
            pack_tree(*arguments, progress=False)
    out = pack_tree(root, progress=False).out
    with pytest.raises(ValueError, match="is a packed store already"):
        pack_tree(out, progress=False)
    (tmp_path / "empty" / "001").mkdir(parents=True)
    with pytest.raises(ValueError, match="no sequence found"):
        pack_tree(tmp_path / "empty", progress=False)
