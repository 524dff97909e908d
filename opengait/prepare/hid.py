"""The HID competitions: normalised silhouettes, kept as they come; the probes are one pseudo-subject."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from opengait.data import pickles
from opengait.data.errors import DataError
from opengait.prepare.dataset import Planned, Prepared, Published, RawDataset, Sequence
from opengait.prepare.folders import FolderReader, UnreadableFile
from opengait.prepare.images import SHAPE, UNREADABLE, DroppedFrame, Unusable, of_shape, read_image

_TYPE = "default"


class Hid(RawDataset):
    """`train/<id>/<sequence>`, `gallery/<id>/<sequence>` and `probe/<sequence>`, in folders or tar and zip files.

    Every sequence becomes `<id>/default/<sequence>`, a probe `probe/default/<sequence>`: the submission file names a
    probe by its view, so the view is the sequence's name. (The reference implementation has type and view the other way
    round, and its rows would all begin with `default`.) Gallery and probes in one folder, `<id>/<sequence>` beside
    `probe/<sequence>`, are taken too.
    """

    suffixes = (".png", ".jpg", ".jpeg", ".bmp")
    default_size = None
    pseudo_subjects = ("probe",)
    digits: ClassVar[int]
    """of a subject's number"""
    size: ClassVar[int | None] = None
    """height and width of frames; None where only those of one sequence have to be equal"""

    def identify(self, path: str) -> Sequence | None:
        # Left out is the level that trees in the reference's layout have; there, `probe` is one of the subjects.
        *above, view = [part for part in path.split("/") if part != _TYPE] or [""]
        if not above:
            return None
        phase = len(above) > 1 and "phase" in above[-1].lower()
        if "probe" in above[-1].lower() or (phase and "probe" in above[-2].lower()):
            return Sequence("probe", _TYPE, view)
        return Sequence(above[-1], _TYPE, view) if re.fullmatch(rf"\d{{{self.digits}}}", above[-1]) else None

    def prepare(self, sequence: Planned, sources: Mapping[str, FolderReader], size: int | None) -> Prepared:
        reader = sources["silhouettes"]
        ready = _pickles(reader)
        if ready:
            return self._ready_made(sequence, reader, ready)
        names = self.frame_names(reader)
        images: dict[str, np.ndarray] = {}
        dropped = []
        for name in names:
            try:
                images[name] = read_image(reader, name)
            except Unusable as reason:
                dropped.append(DroppedFrame(name, *reason.args))
        frames, unequal = _of_one_shape(images, self.size)
        arrays = {f"{sequence.view}.pkl": np.stack(frames)} if frames else {}
        return Prepared(arrays, len(names), sorted(dropped + unequal))

    def holds_frames(self, reader: FolderReader) -> bool:
        return bool(_pickles(reader)) or super().holds_frames(reader)

    def _ready_made(self, sequence: Planned, reader: FolderReader, names: list[str]) -> Prepared:
        """A sequence that comes as a pickle already. More than one cannot be told apart, and none is taken."""
        try:
            if len(names) > 1:
                raise Unusable(UNREADABLE, f"one of {len(names)} pickles in the folder")
            frames = pickles.parse(reader.read(names[0]), names[0])
            if not isinstance(frames, np.ndarray) or frames.ndim != 3 or frames.dtype != np.uint8 or not frames.size:
                found = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
                raise Unusable(SHAPE, f"{found}, uint8 [frames, height, width] was expected")
            if self.size is not None:
                of_shape(frames[0], self.size, self.size)
        except (DataError, UnreadableFile) as error:
            return Prepared(
                {}, len(names), [DroppedFrame(names[0], UNREADABLE, str(error).removeprefix(f"{names[0]}: "))]
            )
        except Unusable as reason:
            return Prepared({}, len(names), [DroppedFrame(names[0], *reason.args)])
        return Prepared({f"{sequence.view}.pkl": np.ascontiguousarray(frames)}, len(frames), [])


class Hid2022(Hid):
    """Of CASIA-E: train 0000-0499, gallery 0500-1004, frames of 128x128."""

    name = "HID2022"
    expected = (
        "train/<id>/<sequence>/<frame>.png (train/0000/00/0001.png), gallery/<id>/<sequence>/<frame>.png and "
        "probe/<sequence>/<frame>.png with ids of four digits, or train.tar and the archives of gallery and probe"
    )
    digits = 4
    size = 128
    published: ClassVar[tuple[Published, ...]] = (
        Published("train", "subjects", 500),
        Published("train", "sequences", 5_000, nominal=True, owners=True),
        Published("gallery", "subjects", 505),
        Published("total", "sequences", 10_050, nominal=True, owners=True),
    )

    def part(self, subject: str, type: str, view: str) -> str:
        if subject == "probe":
            return "probe"
        return "train" if subject < "0500" else "gallery"


class Hid2023(Hid):
    """SUSTech-Competition, 2023 and later: no training set, gallery 00000-00858, probes in one or two phases.

    Sequences come as images, or as pickles that are taken as they are.
    """

    name = "HID2023"
    expected = (
        "gallery/<id>/<sequence>/<frame>.png or .../<sequence>.pkl with ids of five digits (gallery/00000/00/0001.png) "
        "and probe/<sequence>/..., or the archives of gallery and probe"
    )
    digits = 5
    published: ClassVar[tuple[Published, ...]] = (Published("gallery", "subjects", 859),)

    def part(self, subject: str, type: str, view: str) -> str:
        return "probe" if subject == "probe" else "gallery"


def _pickles(reader: FolderReader) -> list[str]:
    return [name for name in reader.names() if name.endswith(".pkl") and not name.startswith(".")]


def _of_one_shape(images: Mapping[str, np.ndarray], size: int | None) -> tuple[list[np.ndarray], list[DroppedFrame]]:
    """The images of the size wanted, or of the most frequent one; and the others."""
    if not images:
        return [], []
    counts = Counter(image.shape for image in images.values())
    shape = max(counts, key=lambda shape: (counts[shape], shape)) if size is None else (size, size)
    frames, dropped = [], []
    for name, image in images.items():
        try:
            frames.append(of_shape(image, *shape))
        except Unusable as reason:
            dropped.append(DroppedFrame(name, *reason.args))
    return frames, dropped
