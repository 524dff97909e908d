"""The notes of each data set, `datasets/<NAME>/README.md`: their commands are as they would be typed, and lead on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise

import pytest

from opengait import load_config
from opengait.config import shipped
from opengait.config.partition_rule import subjects_of
from opengait.data.partition import LISTED
from opengait.prepare.dataset import DATASETS

FOLDER = shipped.find("datasets")
assert FOLDER is not None
NOTES = sorted(path.parent.name for path in FOLDER.glob("*/README.md"))
CONFIGS = sorted(path for path in (FOLDER.parent / "configs").rglob("*.yaml") if path.name != "default.yaml")


def commands(name: str) -> Iterator[list[str]]:
    """Words of every command of the program that the notes show."""
    for line in (FOLDER / name / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("opengait "):
            yield shlex.split(line)


def options(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for option, value in pairwise(words):
        if option.startswith("--"):
            found.setdefault(option, []).append(value)
    return found


@pytest.mark.parametrize("name", NOTES)
def test_every_config_shown_loads_with_its_overrides(name: str) -> None:
    for _, verb, target, *rest in commands(name):
        if verb != "prepare":
            overrides = options(rest)["--set"]
            root = load_config(target, overrides).data_cfg.dataset_root
            assert f"data_cfg.dataset_root={root}" in overrides


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_that_can_be_prepared_is_shown_from_download_to_result(name: str) -> None:
    shown = list(commands(name))
    (prepare,) = [words for words in shown if words[1] == "prepare"]
    assert prepare[2] == name
    assert set(options(prepare)) == {"--raw", "--out"}
    (out,) = options(prepare)["--out"]
    for verb in ("train", "test") if name != "HID2023" else ("test",):  # which has no training set
        assert any(words[1] == verb and f"data_cfg.dataset_root={out}" in words for words in shown), verb


@pytest.mark.parametrize("name", DATASETS)
def test_notes_say_how_long_preparing_takes(name: str) -> None:
    assert "of one processor" in " ".join((FOLDER / name / "README.md").read_text(encoding="utf-8").split())


def test_notes_on_grew_show_the_local_validation_on_subjects_that_were_not_trained_on() -> None:
    train, test = (words for words in commands("GREW") if any("dataset_partition=" in word for word in words))
    assert "evaluator_cfg.eval_func=GREW_validation" in test
    runs = [load_config(words[2], options(words)["--set"]) for words in (train, test)]
    assert runs[0].trainer_cfg.save_name == runs[1].evaluator_cfg.save_name
    trained, tested = (run.data_cfg.dataset_partition for run in runs)
    assert trained == tested
    assert (len(subjects_of(tested.train)), len(subjects_of(tested.test))) == (19_000, 1_000)


def test_every_partition_that_a_config_names_is_shipped_or_explained() -> None:
    for path in CONFIGS:
        named = load_config(path).data_cfg.dataset_partition
        folder, _, file = re.sub(r"^\./datasets/", "", named).partition("/")
        if not named.startswith("./datasets/"):
            continue  # generated data has its own beside it
        assert file == f"{folder}.json", path
        assert folder in NOTES, path
        assert (FOLDER / folder / file).is_file() or folder in LISTED, path
