"""Checks of what a data set is asked to be; every message says what would be right."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

from opengait.registry import nearest
from opengait.synthetic.camera import VIEWS
from opengait.synthetic.modalities import MODALITIES
from opengait.synthetic.motion import RecordedWalks

_CONDITIONS = {"nm": "normal", "bg": "with a bag", "cl": "in a coat"}
# CASIA-B's share of training subjects.
_TRAIN_SHARE = 74 / 124
# Fewer say nothing about a gait, and the field's preparation warns below five.
_MIN_FRAMES = 5


def whole(name: str, value: int, least: int) -> int:
    """A whole number not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least} up, found {value!r}")
    return value


def types(chosen: Sequence[str]) -> tuple[str, ...]:
    """Walking conditions such as nm-01: nm, bg or cl, and a number of two digits."""
    found = _several("types", chosen)
    for kind in found:
        if not re.fullmatch(r"(nm|bg|cl)-\d\d", kind):
            near = nearest(kind, [f"{condition}-{number:02d}" for condition in _CONDITIONS for number in range(1, 7)])
            hint = f" (did you mean '{near}'?)" if near else ""
            known = ", ".join(f"{name} = {meaning}" for name, meaning in _CONDITIONS.items())
            raise ValueError(f"unknown condition '{kind}'{hint}; a type is a condition and two digits, {known}")
    return found


def views(chosen: Sequence[str]) -> tuple[str, ...]:
    """Camera angles among VIEWS."""
    found = _several("views", chosen)
    for view in found:
        if view not in VIEWS:
            near = nearest(view, VIEWS)
            hint = f" (did you mean '{near}'?)" if near else ""
            raise ValueError(f"unknown view '{view}'{hint}; known: {', '.join(VIEWS)}")
    return found


def modalities(chosen: Sequence[str]) -> tuple[str, ...]:
    """One of the sets of MODALITIES, in any order."""
    found = _several("modalities", chosen)
    for known in MODALITIES:
        if sorted(found) == sorted(known):
            return known
    names = sorted({name for known in MODALITIES for name in known})
    for name in found:
        near = nearest(name, names) if name not in names else None
        if name not in names:
            hint = f" (did you mean '{near}'?)" if near else ""
            raise ValueError(f"unknown modality '{name}'{hint}; known: {', '.join(names)}")
    sets = "; ".join(f"{' + '.join(known)} ({meaning})" for known, meaning in MODALITIES.items())
    raise ValueError(f"modalities {' + '.join(found)} do not go together; choose one of: {sets}")


def _several(name: str, chosen: Sequence[str]) -> tuple[str, ...]:
    if isinstance(chosen, str):
        raise ValueError(f"{name} must be a list of names, found the text '{chosen}'; write ['{chosen}']")
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{name} must name at least one, each once; found {list(chosen)}")
    return tuple(chosen)


def frame_range(frames: tuple[int, int]) -> tuple[int, int]:
    """Fewest and most frames of a sequence."""
    least, most = frames
    if whole("frames", least, _MIN_FRAMES) > whole("frames", most, _MIN_FRAMES):
        raise ValueError(f"frames are the fewest and the most of a sequence, found {least} and {most}; swap them")
    return least, most


def strength(value: float) -> float:
    """Strength of segmentation faults."""
    if not (math.isfinite(value) and 0 <= value <= 3):
        raise ValueError(f"strength must lie between 0 (clean) and 3 (hardly a person left), found {value}")
    return float(value)


def subject_names(subjects: int | None, motion: RecordedWalks | None) -> list[str]:
    """001, 002, ... or the people of the motion file."""
    if motion is not None:
        people = motion.subjects
        if subjects is not None and whole("subjects", subjects, 1) > len(people):
            raise ValueError(f"the motion file has walks of {len(people)} people, {subjects} subjects were asked for")
        return people[:subjects]
    if subjects is None:
        raise ValueError("say how many subjects to make; only with a motion file is the number known")
    digits = max(3, len(str(whole("subjects", subjects, 1))))
    return [f"{number:0{digits}d}" for number in range(1, subjects + 1)]


def train_count(train_subjects: int | None, subjects: int, motion: RecordedWalks | None) -> int:
    """How many of the subjects are for training."""
    if motion is not None:
        if train_subjects:
            raise ValueError("people of a motion file are all test subjects: leave train_subjects out")
        return 0
    if train_subjects is None:
        return round(subjects * _TRAIN_SHARE)
    if whole("train_subjects", train_subjects, 0) > subjects:
        raise ValueError(f"train_subjects ({train_subjects}) is more than subjects ({subjects})")
    return train_subjects


def worker_count(workers: int | None, tasks: int) -> int:
    """Processes to use."""
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(whole("workers", workers, 1), tasks)
