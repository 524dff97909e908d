from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from opengait.synthetic import TYPES, synthesize

SMALL = {"types": ("nm-01", "cl-01"), "views": ("000", "090"), "frames": (6, 8), "progress": False}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_layout_partition_and_report(tmp_path):
    report = synthesize(tmp_path / "set", 3, workers=1, **SMALL)
    pickles = sorted(str(path.relative_to(report.out)) for path in report.out.rglob("*.pkl"))
    expected = [
        f"{subject}/{kind}/{view}/{view}.pkl"
        for subject in ("001", "002", "003")
        for kind in ("cl-01", "nm-01")
        for view in ("000", "090")
    ]
    assert pickles == expected
    assert json.loads(report.partition.read_text()) == {"TRAIN_SET": ["001", "002"], "TEST_SET": ["003"]}
    assert (report.train, report.test) == (["001", "002"], ["003"])
    assert report.sequences == report.written == 12
    frames = [pickle.loads((report.out / name).read_bytes()) for name in pickles]
    assert sum(map(len, frames)) == report.frames
    for array in frames:
        assert array.dtype == np.uint8
        assert array.shape[1:] == (64, 64)
        assert 6 <= len(array) <= 8


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path):
    one = synthesize(tmp_path / "one", 3, seed=4, workers=1, **SMALL)
    two = synthesize(tmp_path / "two", 3, seed=4, workers=2, **SMALL)
    assert contents(one.out) == contents(two.out)
    other = synthesize(tmp_path / "other", 3, seed=5, workers=1, **SMALL)
    assert contents(one.out) != contents(other.out)


def test_a_subject_is_the_same_among_few_and_among_many(tmp_path):
    few = contents(synthesize(tmp_path / "few", 1, workers=1, **SMALL).out)
    many = contents(synthesize(tmp_path / "many", 3, workers=1, **SMALL).out)
    assert all(many[name] == content for name, content in few.items() if name.endswith(".pkl"))


def test_a_cut_off_call_goes_on_where_it_stopped(tmp_path):
    whole = contents(synthesize(tmp_path / "set", 2, workers=1, **SMALL).out)
    gone = tmp_path / "set" / "002" / "cl-01" / "090" / "090.pkl"
    kept = tmp_path / "set" / "001" / "nm-01" / "000" / "000.pkl"
    gone.unlink()
    before = kept.stat().st_mtime_ns
    again = synthesize(tmp_path / "set", 2, workers=1, **SMALL)
    assert contents(again.out) == whole
    assert kept.stat().st_mtime_ns == before
    assert again.written == 2


@pytest.mark.parametrize("replaced", [0, 3])
def test_a_call_that_is_killed_while_it_writes_leaves_no_stray_file(tmp_path, monkeypatch, replaced):
    whole = contents(synthesize(tmp_path / "whole", 1, workers=1, **SMALL).out)
    replace, left = Path.replace, iter(range(replaced))

    def killed(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesize(tmp_path / "set", 1, workers=1, **SMALL)
    assert all(path.suffix == ".pkl" for path in (tmp_path / "set").glob("*/*/*/*"))
    assert contents(synthesize(tmp_path / "set", 1, workers=1, **SMALL).out) == whole


def test_two_data_sets_do_not_mix(tmp_path):
    synthesize(tmp_path / "set", 1, workers=1, **SMALL)
    with pytest.raises(ValueError, match="seed: 0 there"):
        synthesize(tmp_path / "set", 1, seed=1, workers=1, **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="something else"):
        synthesize(tmp_path / "other", 1, workers=1, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"subjects": 0}, "subjects must be a whole number from 1"),
        ({"subjects": None}, "how many subjects"),
        ({"seed": -1}, "seed must be"),
        ({"render_seed": 1.5}, "render_seed must be"),
        ({"types": ("nm-1",)}, "unknown condition 'nm-1'.*did you mean 'nm-01'"),
        ({"types": "nm-01"}, "list of names"),
        ({"types": ()}, "at least one"),
        ({"types": ("nm-01", "nm-01")}, "each once"),
        ({"views": ("017",)}, "unknown view '017'.*did you mean '01?8|01?0"),
        ({"frames": (30, 20)}, "swap them"),
        ({"frames": (2, 20)}, "whole number from 5"),
        ({"strength": -1.0}, "between 0"),
        ({"strength": float("nan")}, "between 0"),
        ({"train_subjects": 3}, "more than subjects"),
        ({"workers": 0}, "workers must be"),
        ({"motion": "nowhere.npz"}, "no such file"),
    ],
)
def test_mistakes_are_errors_with_advice_before_anything_is_written(tmp_path, arguments, says):
    call = {"subjects": 2, "workers": 1, **SMALL, **arguments}
    with pytest.raises(ValueError, match=says):
        synthesize(tmp_path / "set", **call)
    assert not (tmp_path / "set").exists()


def test_the_standard_set_is_that_of_casia_b():
    assert len(TYPES) == 10
    assert [kind[:2] for kind in TYPES] == ["nm"] * 6 + ["bg"] * 2 + ["cl"] * 2
