"""CASIA-B as it is downloaded: silhouettes in full frames, 320x240; and CASIA-B* as its owners hand it out."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from opengait.synthetic.camera import VIEWS
from opengait.synthetic.modalities import SQUARES, file_names, render_files
from opengait.synthetic.raw import archives, faults
from opengait.synthetic.raw.film import Walk
from opengait.synthetic.raw.layout import Cast, Layout, Recording, Take, images
from opengait.synthetic.synthesize import TYPES

_LAST_TRAIN, _SUBJECTS = 74, 124
_TOP = "GaitDatasetB-silh"


class CasiaB(Layout):
    """`id/type/view/id-type-view-frame.png`."""

    name = "CASIA-B"
    ships_archives: ClassVar[bool] = True
    types = TYPES
    views = VIEWS

    def subjects(self, count: int) -> tuple[list[str], list[str]]:
        train = (count + 1) // 2
        if train > _LAST_TRAIN or count - train > _SUBJECTS - _LAST_TRAIN:
            raise ValueError(f"{self.name} has {_SUBJECTS} subjects; {count} would not fall half on each side of 074")
        numbers = range(_LAST_TRAIN - train + 1, _LAST_TRAIN + count - train + 1)
        names = [f"{number:03d}" for number in numbers]
        return names[:train], names[train:]

    def takes(self, cast: Cast) -> list[Take]:
        return [
            Take(walker, kind, float(view), subject, kind, view, f"{subject}/{kind}/{view}")
            for walker, subject in enumerate([*cast.train, *cast.test])
            for kind in cast.types
            for view in cast.views
        ]

    def record(self, take: Take, walk: Walk) -> Recording:
        masks = walk.film(take.angle).masks
        stem = take.folder.replace("/", "-")
        return images(take.folder, [f"{stem}-{number:03d}.png" for number in range(1, len(masks) + 1)], masks)

    def archived(self, tree: dict[str, bytes | None]) -> dict[str, bytes]:
        subjects = archives.by_top_folder(tree)
        inner = {f"{_TOP}/{name}.tar.gz": archives.tar(files, "gz") for name, files in subjects.items()}
        return {f"{_TOP}.zip": archives.zipped(inner)}


class CasiaBStar(CasiaB):
    """`id/type/view/` with four pickles: aligned silhouettes, ratios, RGB frames, masks."""

    name = "CASIA-B*"
    ships_archives: ClassVar[bool] = False
    faults: ClassVar[tuple[str, ...]] = (
        faults.CUT_PICKLE, faults.FOREIGN_PICKLE, faults.MISSING_PICKLE, faults.UNEQUAL, faults.EMPTY, faults.ABSENT,
        faults.SHORT,
    )  # fmt: skip

    def record(self, take: Take, walk: Walk) -> Recording:
        settings = replace(walk.settings, views=(take.view,), modalities=SQUARES)
        arrays = render_files(settings, take.walker, take.kind).views[take.view]
        names = file_names(SQUARES, Path(take.folder))
        recording = Recording({}, [])
        for name, array in zip(names, arrays, strict=True):
            recording.files[f"{take.folder}/{name}"] = pickle.dumps(array, protocol=4)
        recording.kept = len(arrays[0])
        return recording

    def spoil(self, kind: str, take: Take, recording: Recording) -> str:
        if kind in (faults.EMPTY, faults.ABSENT):
            return super().spoil(kind, take, recording)
        if kind == faults.SHORT:
            for path, content in recording.files.items():
                recording.files[path] = pickle.dumps(pickle.loads(content)[: faults.SHORT_FRAMES], protocol=4)
            recording.kept = faults.SHORT_FRAMES
            return take.folder
        path = f"{take.folder}/{take.view}-rgbs.pkl"
        recording.kept = 0
        if kind == faults.MISSING_PICKLE:
            del recording.files[path]
        elif kind == faults.CUT_PICKLE:
            recording.files[path] = recording.files[path][: len(recording.files[path]) // 2]
        elif kind == faults.FOREIGN_PICKLE:
            recording.files[path] = pickle.dumps(faults.Foreign(), protocol=4)
        elif kind == faults.UNEQUAL:
            recording.files[path] = pickle.dumps(pickle.loads(recording.files[path])[:-1], protocol=4)
        return path
