"""Gait3D as it is downloaded: cropped silhouettes, an SMPL estimate of each frame, and the list of its split."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from opengait.synthetic.keys import generator
from opengait.synthetic.raw import faults
from opengait.synthetic.raw.film import Walk, crop
from opengait.synthetic.raw.layout import NORMAL_WALKS, Cast, Layout, Recording, Take

SILHOUETTES, SMPL, LIST = "2D_Silhouettes", "3D_SMPLs", "Gait3D.json"
_SUBJECTS, _CAMERAS, _SEQUENCES = 4000, 39, 4
# Of pixels around the person that a detector leaves.
_MARGIN = 6


class Gait3d(Layout):
    """`2D_Silhouettes/id/camid<c>_videoid<v>/seq<n>/*.png`, the same below `3D_SMPLs` with npz, and `Gait3D.json`.

    The list is made up for the subjects at hand: it plays the part of the one that the owners publish.
    """

    name = "Gait3D"
    faults = (
        *faults.OF_SILHOUETTES, faults.NO_SMPL, faults.NO_SILHOUETTE, faults.TWO_PEOPLE, faults.CUT_SMPL,
        faults.FOREIGN_SMPL, faults.NO_SMPL_FOLDER,
    )  # fmt: skip

    def subjects(self, count: int) -> tuple[list[str], list[str]]:
        if count > _SUBJECTS:
            raise ValueError(f"{self.name} has {_SUBJECTS} subjects, {count} were asked for")
        names = [f"{number:04d}" for number in range(count)]
        # No rule says on which side a subject is.
        train = set(generator(0, "raw split").permutation(names)[: (count + 1) // 2].tolist())
        return [name for name in names if name in train], [name for name in names if name not in train]

    def takes(self, cast: Cast) -> list[Take]:
        takes = []
        for walker, subject in enumerate([*cast.train, *cast.test]):
            rng = generator(cast.seed, "raw cameras", subject)
            cameras = rng.choice(_CAMERAS, _SEQUENCES, replace=False)
            for number, camera in enumerate(cameras):
                kind, view = f"camid{camera}_videoid{rng.integers(1, 9)}", f"seq{rng.integers(3)}"
                folder, angle = f"{SILHOUETTES}/{subject}/{kind}/{view}", float(rng.integers(360))
                # One probe of each test subject has to stay, and one that it can be found by.
                fixed = subject in cast.test and number < 2
                takes.append(Take(walker, NORMAL_WALKS[number], angle, subject, kind, view, folder, fixed))
        return takes

    def record(self, take: Take, walk: Walk) -> Recording:
        film = walk.film(take.angle)
        first = int(generator(0, "raw frame numbers", take.folder).integers(10_000, 90_000))
        files, frames = {}, []
        for index, mask in enumerate(film.masks):
            stem = f"{take.folder}/human_crop_f{first + index}"
            of_frame = {
                f"{stem}.png": faults.encode(crop(mask, _MARGIN)),
                f"{_beside(stem)}.npz": _npz([_person(film.smpl[index])]),
            }
            files.update(of_frame)
            frames.append(tuple(of_frame))
        return Recording(files, frames)

    def folders(self, take: Take) -> tuple[str, ...]:
        return take.folder, _beside(take.folder)

    def extras(self, cast: Cast, takes: Sequence[Take]) -> dict[str, bytes]:
        probes = {take.subject: take.sequence.replace("/", "-") for take in reversed(takes)}
        split = {
            "TRAIN_SET": cast.train,
            "TEST_SET": cast.test,
            "PROBE_SET": [probes[subject] for subject in cast.test],
        }
        return {LIST: json.dumps(split, indent=2).encode() + b"\n"}

    def spoil(self, kind: str, take: Take, recording: Recording) -> str:
        image, smpl = recording.frames[len(recording.frames) // 2]
        if kind == faults.NO_SMPL_FOLDER:
            for _, path in recording.frames:
                del recording.files[path]
            recording.kept = 0
            return _beside(take.folder)
        if kind in (faults.NO_SMPL, faults.NO_SILHOUETTE):
            lost = smpl if kind == faults.NO_SMPL else image
            del recording.files[lost]
            recording.kept -= 1
            return lost
        if kind not in (faults.TWO_PEOPLE, faults.CUT_SMPL, faults.FOREIGN_SMPL):
            return super().spoil(kind, take, recording)
        person = _person(np.zeros(85, np.float32))
        recording.files[smpl] = {
            faults.TWO_PEOPLE: _npz([person, person]),
            faults.CUT_SMPL: recording.files[smpl][:100],
            faults.FOREIGN_SMPL: _npz([faults.Foreign()]),
        }[kind]
        recording.kept -= 1
        return smpl


def _beside(path: str) -> str:
    """A path among the silhouettes -> the same among the SMPL estimates."""
    return SMPL + path.removeprefix(SILHOUETTES)


def _person(vector: np.ndarray) -> dict[str, np.ndarray]:
    """One person's result of an SMPL estimator."""
    return {"cam": vector[:3], "poses": vector[3:75], "betas": vector[75:]}


def _npz(people: Sequence[Any]) -> bytes:
    """`results`: an object array of one mapping a person, as estimators write it."""
    results = np.empty(len(people), dtype=object)
    results[:] = people
    buffer = io.BytesIO()
    np.savez(buffer, results=results)
    return buffer.getvalue()
