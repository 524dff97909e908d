"""GREW: silhouettes that are normalised to 64x64 already."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import ClassVar

import numpy as np

from opengait.prepare.dataset import LeftOut, Plan, Published, RawDataset, Sequence
from opengait.prepare.folders import RawFolder
from opengait.prepare.images import of_shape

_TRAIN = re.compile(r"(?:^|/)train/(\d{5})/([^/]+)$")
_GALLERY = re.compile(r"(?:^|/)gallery/(\d{5})/([^/]+)$")
_PROBE = re.compile(r"(?:^|/)probe/([^/]+)$")
_SIZE = 64
_GALLERY_TYPES = ("01", "02")
_UNUSED = {"distractor": "distractors, which no protocol uses", "val": "validation, which no protocol uses"}


class Grew(RawDataset):
    """`train/<id>/<video>`, `test/gallery/<id>/<video>` and `test/probe/<video>`, each with `<frame>.png` and poses.

    The owners ship encrypted zips, in each a tgz, in it one tgz a subject. Training subjects become `<id>train` of type
    00; the two gallery videos of a test subject, sorted by name, types 01 and 02; probes the pseudo-subject `probe` of
    type 03. The view is the video's name. Frames are kept as they come.
    """

    name = "GREW"
    expected = (
        "train/<id>/<video>/<frame>.png (train/00001/4XPn5Z28/00001.png), test/gallery/<id>/<video>/<frame>.png and "
        "test/probe/<video>/<frame>.png, or train.zip and test.zip with --password"
    )
    beside = re.compile(r"(?:^|/)(?:train/\d{5}|gallery/\d{5}|probe)$")
    default_size = None
    pseudo_subjects = ("probe",)
    published: ClassVar[tuple[Published, ...]] = (
        Published("train", "subjects", 20_000),
        Published("train", "sequences", 102_887, owners=True),
        Published("gallery", "subjects", 6_000),
        Published("gallery", "sequences", 12_000, owners=True),
        Published("probe", "sequences", 12_000, owners=True),
        Published("total", "frames", 14_000_000, owners=True, approximate=True),
    )

    def identify(self, path: str) -> Sequence | None:
        if found := _TRAIN.search(path):
            return Sequence(f"{found[1]}train", "00", found[2])
        if found := _GALLERY.search(path):
            return Sequence(found[1], _GALLERY_TYPES[0], found[2])  # `plan` numbers them
        found = _PROBE.search(path)
        return Sequence("probe", "03", found[1]) if found else None

    def ignored(self, path: str) -> str | None:
        name = path.rpartition("/")[2].partition(".")[0]
        return _UNUSED.get(name)

    def plan(self, folders: Iterable[RawFolder]) -> Plan:
        plan = super().plan(folders)
        sequences, left_out = [], list(plan.left_out)
        for (_, kind), group in groupby(plan.sequences, key=lambda sequence: sequence[:2]):
            # Sequences come in the order of their names, so the numbers do not depend on the disk.
            for number, sequence in enumerate(group):
                if kind != _GALLERY_TYPES[0]:
                    sequences.append(sequence)
                elif number < len(_GALLERY_TYPES):
                    sequences.append(sequence._replace(type=_GALLERY_TYPES[number]))
                else:
                    path = sequence.sources["silhouettes"].path
                    left_out.append(LeftOut(path, "a test subject has two gallery videos"))
        return Plan(sequences, sorted(left_out))

    def frame(self, image: np.ndarray, size: int | None) -> np.ndarray:
        return of_shape(image, _SIZE, _SIZE)

    def part(self, subject: str, type: str, view: str) -> str:
        return {"00": "train", "03": "probe"}.get(type, "gallery")
