"""What a raw distribution is to the preparation: which folders are which sequences, and what becomes of their files.

A data set is a subclass of `RawDataset` in a file of its own, named in `DATASETS`. Mostly `identify` alone is written:

    class CasiaB(RawDataset):
        name = "CASIA-B"
        expected = "<id>/<type>/<view>/<frame>.png, such as 001/nm-01/090/001-nm-01-090-001.png"
        published = (Published("total", "subjects", 124), ...)

        def identify(self, path: str) -> Sequence | None: ...

Folders come as if every archive were unpacked where it lies, so a distribution is recognised the same whether it is
unpacked or not. Several folders of one sequence (silhouettes here, SMPL there) are told apart by `Sequence.source`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, NamedTuple

import numpy as np

from opengait.prepare.folders import FolderReader, OpenFolders, RawFolder
from opengait.prepare.images import DroppedFrame, Unusable, normalised, read_image
from opengait.registry import nearest

# Name -> where its class lies; imported when it is named.
DATASETS = {
    "CASIA-B": "opengait.prepare.casia_b:CasiaB",
    "CASIA-B*": "opengait.prepare.casia_b_star:CasiaBStar",
    "OUMVLP": "opengait.prepare.oumvlp:Oumvlp",
    "GREW": "opengait.prepare.grew:Grew",
    "HID2022": "opengait.prepare.hid:Hid2022",
    "HID2023": "opengait.prepare.hid:Hid2023",
    "Gait3D": "opengait.prepare.gait3d:Gait3D",
}

_LOOKED_AT = 50  # sequences that tell whether a folder is of a data set


class Sequence(NamedTuple):
    """A sequence of the training layout, `subject/type/view`, and which of its sources a raw folder is."""

    subject: str
    type: str
    view: str
    source: str = "silhouettes"

    @property
    def folder(self) -> str:
        return f"{self.subject}/{self.type}/{self.view}"


class Planned(NamedTuple):
    """One sequence to be prepared, from one raw folder a source."""

    subject: str
    type: str
    view: str
    sources: dict[str, RawFolder]

    @property
    def folder(self) -> str:
        return f"{self.subject}/{self.type}/{self.view}"


class LeftOut(NamedTuple):
    """A raw folder that is not prepared, and why."""

    path: str
    reason: str


class Plan(NamedTuple):
    """Sequences in the order of their names, and the folders left out."""

    sequences: list[Planned]
    left_out: list[LeftOut]


class Prepared(NamedTuple):
    """What became of one sequence."""

    arrays: dict[str, np.ndarray]
    """file name -> array, first axis time and equal for all; empty where no frame is left"""
    found: int
    """frames in the raw folder"""
    dropped: list[DroppedFrame]


@dataclass(frozen=True)
class Published:
    """A count that the owners or the reference's lists give."""

    part: str
    """"total", or a part that `RawDataset.part` names"""
    what: str
    """subjects, sequences or frames"""
    count: int
    nominal: bool = False
    """what it would be with nothing missing; the real set has gaps"""
    owners: bool = False
    """from the owners' page or paper, not counted on the reference's lists"""
    approximate: bool = False


class RawDataset:
    """One raw distribution. Subclasses name themselves and say which folder is which sequence."""

    name: ClassVar[str]
    expected: ClassVar[str]
    """the layout, for the message where nothing of it is found"""
    published: ClassVar[tuple[Published, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ("silhouettes",)
    """what every sequence needs a folder of"""
    suffixes: ClassVar[tuple[str, ...]] = (".png",)
    """of the frames; other files in a folder are left alone"""
    default_size: ClassVar[int | None] = 64
    """height and width of normalised frames; None where frames are kept as they come and no size can be asked for"""
    beside: ClassVar[re.Pattern[str] | None] = None
    """folders whose own files are no sequence, and not worth a word"""
    pseudo_subjects: ClassVar[tuple[str, ...]] = ()
    """names in the subject level that are no person, such as `probe`"""

    def identify(self, path: str) -> Sequence | None:
        """The sequence that a raw folder holds, by its place in the tree; None where it is none of this data set."""
        raise NotImplementedError

    def ignored(self, path: str) -> str | None:
        """Why a folder or an archive of that name is not even looked into; None where it is."""
        return None

    def part(self, subject: str, type: str, view: str) -> str | None:
        """The part of the data set, as published counts name it (train, test, gallery, probe)."""
        return None

    def plan(self, folders: Iterable[RawFolder]) -> Plan:
        """Every sequence with its sources; the order is that of the names, whatever the order on disk."""
        found: dict[tuple[str, str, str], dict[str, RawFolder]] = {}
        left_out: list[LeftOut] = []
        for folder in sorted(folders, key=_disk_first):
            sequence = self.identify(folder.path)
            if sequence is None:
                if folder.path and folder.files and not (self.beside and self.beside.search(folder.path)):
                    left_out.append(LeftOut(folder.path, "not part of the layout"))
                continue
            sources = found.setdefault(sequence[:3], {})
            if sequence.source in sources:
                left_out.append(LeftOut(folder.path, f"{sequence.folder} was found before"))
            else:
                sources[sequence.source] = folder
        return self._complete(found, left_out)

    def _complete(self, found: dict[tuple[str, str, str], dict[str, RawFolder]], left_out: list[LeftOut]) -> Plan:
        sequences = []
        for names, sources in sorted(found.items()):
            missing = [source for source in self.sources if source not in sources]
            if missing:
                reason = f"the sequence has no {' and no '.join(missing)}"
                left_out += [LeftOut(folder.path, reason) for folder in sources.values()]
            else:
                sequences.append(Planned(*names, sources))
        return Plan(sequences, sorted(left_out))

    def prepare(self, sequence: Planned, sources: Mapping[str, FolderReader], size: int | None) -> Prepared:
        """Reads one sequence; by default, its silhouettes in the order of their names, normalised.

        A file that is no usable frame is dropped and named; nothing that a file holds raises an error.
        """
        frames, dropped = [], []
        reader = sources["silhouettes"]
        names = self.frame_names(reader)
        for name in names:
            try:
                frames.append(self.frame(read_image(reader, name), size))
            except Unusable as reason:
                dropped.append(DroppedFrame(name, *reason.args))
        arrays = {f"{sequence.view}.pkl": np.stack(frames)} if frames else {}
        return Prepared(arrays, len(names), dropped)

    def frame(self, image: np.ndarray, size: int | None) -> np.ndarray:
        """One frame of the result, of one shape throughout; `Unusable` drops it."""
        return normalised(image, size or 64)

    def holds_frames(self, reader: FolderReader) -> bool:
        """Whether there is anything in the folder of a sequence that this data set has."""
        return bool(self.frame_names(reader))

    def frame_names(self, reader: FolderReader) -> list[str]:
        """Files of the folder that are frames, sorted as text. Gait energy images are none."""
        return [
            name
            for name in reader.names()
            if name.lower().endswith(self.suffixes) and not name.startswith(".") and "gei.png" not in name
        ]


def _disk_first(folder: RawFolder) -> tuple[bool, str, str]:
    """Where a folder is there unpacked and in its archive too, the unpacked one is read."""
    return bool(folder.archive), folder.path, folder.archive


def find_dataset(name: str) -> RawDataset:
    """The data set of that name; capitals, hyphens and the like are not looked at.

    Raises:
        ValueError: no such data set; the message gives the nearest name and all of them.
    """
    known = {plain_name(dataset): dataset for dataset in DATASETS}
    if plain_name(str(name)) not in known:
        near = nearest(str(name), DATASETS)
        hint = f" (did you mean '{near}'?)" if near else ""
        raise ValueError(f"no preparation for a data set '{name}'{hint}; known: {', '.join(DATASETS)}")
    module, _, class_name = DATASETS[known[plain_name(str(name))]].partition(":")
    dataset: RawDataset = getattr(importlib.import_module(module), class_name)()
    return dataset


def plain_name(name: str) -> str:
    """A data set's name as it is compared: CASIA-B*, casia_b_star and CASIA-B-star are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("*", "star"))


def check_recognised(dataset: RawDataset, plan: Plan, folders: list[RawFolder], raw: str, password: str | None) -> None:
    """Raises ValueError where nothing of the data set is in the folder, with what is there and what it may be."""
    if _fits(dataset, plan, password):
        return
    fitting = {}
    for other in DATASETS:
        candidate = find_dataset(other)
        other_plan = candidate.plan(folders)
        if candidate.name != dataset.name and _fits(candidate, other_plan, password):
            fitting[other] = len(other_plan.sequences)
    best = max(fitting, key=lambda other: fitting[other], default=None)
    hint = f"\n  This looks like {best} ({fitting[best]} sequences)." if best else ""
    shown = [_described(folder, password) for folder in [folder for folder in folders if folder.files][:3]]
    what = f"{len(folders)} folders, such as {'; '.join(shown)}" if shown else "no folder with files in it"
    raise ValueError(f"{raw}: no sequence of {dataset.name}\n  expected: {dataset.expected}\n  found: {what}{hint}")


def _fits(dataset: RawDataset, plan: Plan, password: str | None) -> bool:
    """Whether some of the first sequences have frames: other data sets may name their folders alike."""
    filled = (sequence for sequence in plan.sequences if sequence.sources["silhouettes"].files)
    with OpenFolders(password) as opened:
        return any(
            dataset.holds_frames(opened.open(sequence.sources["silhouettes"]))
            for sequence in islice(filled, _LOOKED_AT)
        )


def _described(folder: RawFolder, password: str | None) -> str:
    with OpenFolders(password) as opened:
        return f"{folder.path or '.'} ({', '.join(opened.open(folder).names()[:2])}, {folder.files} files)"
