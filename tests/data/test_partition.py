"""Partition files: what is read, and what each mistake says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from opengait.data.partition import read_partition


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_order_of_the_file_is_kept(tmp_path: Path) -> None:
    file = write(tmp_path / "p.json", {"TRAIN_SET": ["b", "a"], "TEST_SET": ["10", "9"], "PROBE_SET": ["9-nm-000"]})
    partition = read_partition(file)
    assert (partition.train, partition.test) == (["b", "a"], ["10", "9"])
    assert (partition.probe, partition.gallery) == (["9-nm-000"], None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not a JSON file"),
        ("[" * 100000, "not a JSON file"),
        ([1], "a JSON object with TRAIN_SET and TEST_SET was expected, found a list"),
        ({"TEST_SET": []}, "no list TRAIN_SET; found 'TEST_SET'"),
        ({"TRAIN_SET": []}, "no list TEST_SET"),
        ({}, "an empty object"),
        ({"TRAIN_SET": "001", "TEST_SET": []}, "a list of strings was expected, found a string"),
        ({"TRAIN_SET": [1], "TEST_SET": []}, 'found 1, write it as "1"'),
        ({"TRAIN_SET": ["../x"], "TEST_SET": []}, "'../x' is not the name of a folder"),
        ({"TRAIN_SET": [".."], "TEST_SET": []}, "'..' is not the name of a folder"),
        ({"TRAIN_SET": [], "TEST_SET": ["/etc"]}, "'/etc' is not the name of a folder"),
        ({"TRAIN_SET": [""], "TEST_SET": []}, "'' is not the name of a folder"),
        ({"TRAIN_SET": ["a\0b"], "TEST_SET": []}, "is not the name of a folder"),
        ({"TRAIN_SET": ["a", "b"], "TEST_SET": ["b"]}, "'b' in TRAIN_SET and TEST_SET"),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, content: Any, said: str) -> None:
    file = write(tmp_path / "p.json", content)
    with pytest.raises(ValueError) as error:
        read_partition(file)
    assert str(error.value).startswith(str(file))
    assert said in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such partition file"):
        read_partition(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="is a folder"):
        read_partition(tmp_path)
    with pytest.raises(ValueError, match="not a JSON file"):
        read_partition(binary_file(tmp_path))


def binary_file(folder: Path) -> Path:
    (folder / "p.json").write_bytes(b"\xff\xfe\x00")
    return folder / "p.json"


def test_shipped_copy_stands_in_for_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(read_partition("./datasets/CASIA-B/CASIA-B.json").train) == 74


def test_an_id_listed_twice_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        partition = read_partition(write(tmp_path / "p.json", {"TRAIN_SET": ["a", "a"], "TEST_SET": []}))
    assert partition.train == ["a"]
    assert "more than once" in caplog.text
