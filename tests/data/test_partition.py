"""Partition files: what is read, and what each mistake says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from opengait.config import shipped
from opengait.config.partition_rule import MAX_SUBJECTS, subjects_of
from opengait.data.partition import LISTED, read_partition


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


@pytest.mark.parametrize(
    ("rule", "first", "last", "count"),
    [
        ("001-074", "001", "074", 74),
        ("201-1014", "201", "1014", 814),
        ("00001-10305:2", "00001", "10305", 5153),
        ("00002-10306:2, 10307", "00002", "10307", 5154),
        (["00002-10306:2", "10307"], "00002", "10307", 5154),
        ("00001train-20000train", "00001train", "20000train", 20000),
        ("id9b - id11b", "id9b", "id11b", 3),
        ("a1b1-a1b3", "a1b1", "a1b3", 3),
        ("00001-06000,probe", "00001", "probe", 6001),
        ("anna, ben", "anna", "ben", 2),
        ("007-007", "007", "007", 1),
        ("1-10:20", "1", "1", 1),
        ("1-3, 2-4", "1", "4", 4),
    ],
)
def test_a_rule_names_subjects(rule: str | list[str], first: str, last: str, count: int) -> None:
    found = subjects_of(rule)
    assert (found[0], found[-1], len(found)) == (first, last, count)
    assert len(set(found)) == count


@pytest.mark.parametrize("rule", ["", [], " ", [""]])
def test_an_empty_rule_names_nobody(rule: str | list[str]) -> None:
    assert subjects_of(rule) == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("001-", "'001-' is neither an id nor a range"),
        ("-074", "neither an id nor a range"),
        ("001-074-090", "need a partition file"),
        ("001,,003", "'' is neither"),
        ("001:2", "neither"),
        ("001-010:0", "a whole number from 1, found '0'"),
        ("001-010:x", "found 'x'"),
        ("074-001", "runs backwards"),
        ("01-100, 001-9", "differ in their padding"),
        ("anna-ben", "'anna' holds no number"),
        ("001-010train", "differ in more than their last number"),
        ("a1-b3", "differ in more than their last number"),
        ("../001-../003", "not the name of a folder"),
        ("..", "not the name of a folder"),
        (f"1-{MAX_SUBJECTS + 1}", "more than 1000000 subjects"),
        (7, "the number 7; put ids in quotes"),
        ([True], "found True"),
        ({"from": "1"}, "found {'from': '1'}"),
    ],
)
def test_mistakes_of_a_rule_name_the_part(rule: Any, said: str) -> None:
    with pytest.raises(ValueError) as error:
        read_partition({"train": rule})
    assert str(error.value).startswith("data_cfg.dataset_partition: ")
    assert said in str(error.value)


def test_a_rule_of_unknown_keys_and_one_that_tests_the_trained_are_refused() -> None:
    with pytest.raises(ValueError, match="has the keys train and test, found 'tran'"):
        read_partition({"tran": "001"})
    with pytest.raises(ValueError, match="'003', '004', '005' and 2 more under train and under test"):
        read_partition({"train": "001-007", "test": "003-009"})


# The rule of every list that is shipped; the counts are those of the published lists.
RULES = {
    "CASIA-B": ("001-074", "075-124", 74, 50),
    "CASIA-B*": ("001-074", "075-124", 74, 50),
    "CASIA-E": ("001-200", "201-1014", 200, 814),
    "CCPG": ("000-099", "100-199", 100, 100),
    "GREW": ("00001train-20000train", "00001-06000, probe", 20000, 6001),
    "GaitLU-1M": ("000-099", "", 100, 0),
    "HID2022": ("0000-0499", "0500-1004, probe", 500, 506),
    "HID2023": ("", "00000-00858, probe", 0, 860),
    "OUMVLP": ("00001-10305:2", "00002-10306:2, 10307", 5153, 5154),
}


def test_shipped_lists_follow_their_rules() -> None:
    folder = shipped.find("datasets")
    assert folder is not None
    assert sorted(file.stem for file in folder.rglob("*.json")) == sorted(RULES)
    for name, (train, test, training, tested) in RULES.items():
        found = read_partition(f"./datasets/{name}/{name}.json")
        by_rule = read_partition({"train": train, "test": test})
        assert (found.train, found.test) == (by_rule.train, by_rule.test), name
        assert (len(found.train), len(found.test)) == (training, tested), name


@pytest.mark.parametrize("name", LISTED)
def test_a_list_that_only_its_owners_give_out_is_asked_for_by_name(name: str) -> None:
    path = f"./datasets/{name}/{name}.json"
    with pytest.raises(ValueError) as error:
        read_partition(path)
    said = str(error.value)
    assert said.startswith(f"datasets/{name}/{name}.json: no such partition file") or said.startswith(path)
    assert f"put that list, JSON with TRAIN_SET and TEST_SET, at datasets/{name}/{name}.json" in said
    readme = shipped.find(f"datasets/{name}/README.md")
    assert readme is not None
    assert LISTED[name].split()[0] in readme.read_text().replace(",", "")
