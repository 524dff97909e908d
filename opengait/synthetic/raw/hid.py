"""HID as the competitions hand it out: 2022 as normalised images, 128x128; from 2023 as pickles, test subjects only."""

from __future__ import annotations

import pickle
from typing import ClassVar

import numpy as np

from opengait.prepare import normalize_silhouette
from opengait.synthetic.keys import generator
from opengait.synthetic.raw import archives, faults
from opengait.synthetic.raw.film import Film, Walk
from opengait.synthetic.raw.layout import NORMAL_WALKS, Cast, Layout, Recording, Take, images

_TRAIN_2022, _SUBJECTS_2022, _SUBJECTS_2023 = 500, 1005, 859
_TRAIN_SEQUENCES, _GALLERY_SEQUENCES, _PROBE_SEQUENCES = 4, 2, 2
_SIZE = 128


class Hid2022(Layout):
    """`train/id/sequence/frame.png`, `gallery/id/sequence/frame.png`, `probe/sequence/frame.png`."""

    name = "HID2022"
    faults: ClassVar[tuple[str, ...]] = faults.OF_NORMALISED
    ships_archives = True
    probe_folders: ClassVar[tuple[str, ...]] = ("probe",)
    """The probes of a subject are in these in turn."""

    def subjects(self, count: int) -> tuple[list[str], list[str]]:
        train = (count + 1) // 2
        if train > _TRAIN_2022 or count - train > _SUBJECTS_2022 - _TRAIN_2022:
            raise ValueError(f"{self.name} has {_TRAIN_2022} training subjects and {_SUBJECTS_2022} in all")
        names = [f"{number:04d}" for number in range(_TRAIN_2022 - train, _TRAIN_2022 - train + count)]
        return names[:train], names[train:]

    def takes(self, cast: Cast) -> list[Take]:
        takes = []
        for walker, subject in enumerate(cast.train):
            for number in range(_TRAIN_SEQUENCES):
                takes.append(_take(cast.seed, walker, number, subject, f"{number:02d}", f"train/{subject}"))
        for place, subject in enumerate(cast.test):
            walker = len(cast.train) + place
            for number in range(_GALLERY_SEQUENCES):
                take = _take(cast.seed, walker, number, subject, f"{number:02d}", f"gallery/{subject}")
                takes.append(take._replace(fixed=number == 0))  # whom the probes are compared with
            for probe in range(_PROBE_SEQUENCES):
                name = f"{place * _PROBE_SEQUENCES + probe:05d}"
                folder = self.probe_folders[probe % len(self.probe_folders)]
                takes.append(_take(cast.seed, walker, _GALLERY_SEQUENCES + probe, "probe", name, folder))
        return takes

    def record(self, take: Take, walk: Walk) -> Recording:
        frames = _normalised(walk.film(take.angle))
        return images(take.folder, [f"{number:04d}.png" for number in range(1, len(frames) + 1)], frames)

    def archived(self, tree: dict[str, bytes | None]) -> dict[str, bytes]:
        """`train.tar`, `gallery.tar`, `probe.tar`."""
        return {f"{name}.tar": archives.tar(part) for name, part in archives.by_top_folder(tree).items()}


class Hid2023(Hid2022):
    """`gallery/id/sequence/sequence.pkl`, and the probes of two phases."""

    name = "HID2023"
    faults: ClassVar[tuple[str, ...]] = (
        faults.CUT_PICKLE, faults.FOREIGN_PICKLE, faults.EMPTY, faults.ABSENT, faults.SHORT,
    )  # fmt: skip
    probe_folders = ("probe_phase1", "probe_phase2")

    def subjects(self, count: int) -> tuple[list[str], list[str]]:
        if count > _SUBJECTS_2023:
            raise ValueError(f"{self.name} has {_SUBJECTS_2023} subjects, {count} were asked for")
        return [], [f"{number:05d}" for number in range(count)]

    def record(self, take: Take, walk: Walk) -> Recording:
        frames = np.stack(_normalised(walk.film(take.angle)))
        recording = Recording({f"{take.folder}/{take.view}.pkl": pickle.dumps(frames, protocol=4)}, [])
        recording.kept = len(frames)
        return recording

    def spoil(self, kind: str, take: Take, recording: Recording) -> str:
        ((path, content),) = recording.files.items()
        if kind == faults.SHORT:
            recording.files[path] = pickle.dumps(pickle.loads(content)[: faults.SHORT_FRAMES], protocol=4)
            recording.kept = faults.SHORT_FRAMES
            return take.folder
        if kind not in (faults.CUT_PICKLE, faults.FOREIGN_PICKLE):
            return super().spoil(kind, take, recording)
        cut = kind == faults.CUT_PICKLE
        recording.files[path] = content[: len(content) // 2] if cut else pickle.dumps(faults.Foreign(), protocol=4)
        recording.kept = 0
        return path

    def archived(self, tree: dict[str, bytes | None]) -> dict[str, bytes]:
        """`gallery.zip`, `probe_phase1.zip`, `probe_phase2.zip`."""
        return {f"{name}.zip": archives.zipped(part) for name, part in archives.by_top_folder(tree).items()}


def _take(seed: int, walker: int, number: int, subject: str, name: str, parent: str) -> Take:
    """A sequence filmed from somewhere; in the training layout, the view is its name and there is one type."""
    angle = float(generator(seed, "raw camera", walker, number).integers(360))
    return Take(walker, NORMAL_WALKS[number], angle, subject, "default", name, f"{parent}/{name}")


def _normalised(film: Film) -> list[np.ndarray]:
    frames = [normalize_silhouette(mask, _SIZE) for mask in film.masks]
    return [frame for frame in frames if frame is not None]
