"""The partition, a file or a rule: which subjects train and which are tested."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opengait.config.partition_rule import check_apart, subjects_of
from opengait.data.errors import DataError

log = logging.getLogger(__name__)

KEY = "data_cfg.dataset_partition"
RULE = ("train", "test")
# Splits that are lists and no rule; the lists come with the data, and none is shipped here.
LISTED = {
    "Gait3D": "3000 training and 1000 test subjects and, as PROBE_SET, 1000 probe sequences",
    "SUSTech1K": "250 training and 800 test subjects",
    "CCGR-MINI": "571 training and 400 test subjects and, as GALLERY_SET, 795 gallery sequences",
    "FreeGait": "500 training and 695 test subjects and, as PROBE_SET, 3571 probe sequences",
}


@dataclass(frozen=True)
class Partition:
    """Subject ids in file order; where a test set lists them, the probe and gallery sequences as `id-type-view`.

    Attributes:
        source: what messages call it: the file, or the config's key where it is a rule.
    """

    source: str
    train: list[str]
    test: list[str]
    probe: list[str] | None = None
    gallery: list[str] | None = None


def find_partition(path: str | os.PathLike[str]) -> Path:
    """The file itself, or the shipped copy where a relative path is not found from the working directory.

    Raises:
        DataError: there is neither.
    """
    given = Path(path)
    if given.is_file():
        return given
    if not given.is_absolute():
        from opengait.config import shipped

        found = shipped.find(os.fspath(path))
        if found is not None:
            return found
    kind = "is a folder, not a partition file" if given.is_dir() else "no such partition file"
    where = f"({KEY}; relative paths start at {Path.cwd()})"
    raise DataError(f"{path}: {kind} {where}{'' if given.is_dir() else _where_lists_come_from(given)}")


def _where_lists_come_from(path: Path) -> str:
    """What to do where the file is the split of a data set that is known, and not shipped."""
    names = {name.lower(): name for name in LISTED}
    found = names.get(path.stem.lower().replace("_", "-"))
    if found is None:
        return ""
    return (
        f". The split of {found} is a list that its owners give out with the data ({LISTED[found]}), so it is not "
        f"shipped: put that list, JSON with TRAIN_SET and TEST_SET, at {path}, or name its place in {KEY}. "
        f"See datasets/{found}/README.md"
    )


def read_partition(given: str | os.PathLike[str] | Mapping[str, Any]) -> Partition:
    """The subjects of a partition file or of a rule.

    Args:
        given: a JSON file `{"TRAIN_SET": [ids], "TEST_SET": [ids]}` with the optional lists `PROBE_SET` and
            `GALLERY_SET`; or a rule such as `{"train": "001-074", "test": "075-124"}`, see
            `opengait.config.partition_rule.subjects_of`.

    Raises:
        DataError: no such file, not JSON, a list missing, an id that is no plain folder name, a subject in both sets,
            a rule that cannot be read.
    """
    return _from_rule(given) if isinstance(given, Mapping) else _from_file(given)


def _from_rule(rule: Mapping[str, Any]) -> Partition:
    unknown = [key for key in rule if key not in RULE]
    if unknown or not rule:
        raise DataError(f"{KEY}: a rule has the keys train and test, found {', '.join(map(repr, rule)) or 'none'}")
    try:
        train, test = (subjects_of(rule.get(key, [])) for key in RULE)
        check_apart(train, test)
    except ValueError as error:
        raise DataError(f"{KEY}: {error}") from error
    return Partition(KEY, train, test)


def _from_file(path: str | os.PathLike[str]) -> Partition:
    file = find_partition(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: a JSON object with TRAIN_SET and TEST_SET was expected, found a {_kind(content)}")
    train, test = (_subjects(file, content, key) for key in ("TRAIN_SET", "TEST_SET"))
    both = sorted(set(train) & set(test))
    if both:
        raise DataError(f"{file}: {_some(both)} in TRAIN_SET and TEST_SET; a tested subject must never be trained on")
    probe, gallery = (_strings(file, content, key) if key in content else None for key in ("PROBE_SET", "GALLERY_SET"))
    return Partition(str(file), train, test, probe, gallery)


def _strings(file: Path, content: dict, key: str) -> list[str]:
    found = content[key]
    if not isinstance(found, list):
        raise DataError(f"{file}: {key}: a list of strings was expected, found a {_kind(found)}")
    for item in found:
        if not isinstance(item, str):
            raise DataError(f"{file}: {key}: ids are strings; found {item!r}, write it as {json.dumps(str(item))}")
    return found


def _subjects(file: Path, content: dict, key: str) -> list[str]:
    if key not in content:
        raise DataError(f"{file}: no list {key}; found {_some(sorted(content)) if content else 'an empty object'}")
    ids = _strings(file, content, key)
    for subject in ids:
        if subject in ("", ".", "..") or any(mark in subject for mark in "/\\\0"):
            raise DataError(f"{file}: {key}: {subject!r} is not the name of a folder in the dataset root")
    once = list(dict.fromkeys(ids))
    if len(once) < len(ids):
        log.warning("%s: %s lists %d ids more than once; each counts once", file, key, len(ids) - len(once))
    return once


def _kind(value: object) -> str:
    return {dict: "mapping", list: "list", str: "string", type(None): "null"}.get(type(value), type(value).__name__)


def _some(names: list[str], limit: int = 3) -> str:
    """A few names in quotes and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
