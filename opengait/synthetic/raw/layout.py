"""What a look-alike of a raw distribution is made of: who walks where, and the files of each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from opengait.registry import nearest
from opengait.synthetic.raw import faults
from opengait.synthetic.raw.film import Walk

NORMAL_WALKS = tuple(f"nm-{number:02d}" for number in range(1, 7))


class Take(NamedTuple):
    """One sequence to be filmed.

    Attributes:
        walker: number of the synthetic subject.
        kind: condition that it walks in, such as `cl-02`.
        angle: of the camera, degrees from the walking direction.
        subject, type, view: its names in the training layout.
        folder: its place in the raw tree.
        fixed: other sequences are numbered by their place after this one, so it has to stay.
    """

    walker: int
    kind: str
    angle: float
    subject: str
    type: str
    view: str
    folder: str
    fixed: bool = False

    @property
    def sequence(self) -> str:
        return f"{self.subject}/{self.type}/{self.view}"


@dataclass
class Recording:
    """The files of one sequence.

    Attributes:
        files: path from the top of the raw tree -> content.
        frames: the paths that belong to each frame, its image first; none where a file holds all frames.
        kept: frames that preparation should keep.
    """

    files: dict[str, bytes]
    frames: list[tuple[str, ...]]
    kept: int = field(init=False)

    def __post_init__(self) -> None:
        self.kept = len(self.frames)

    @property
    def found(self) -> int:
        """Frames that a preparation comes across."""
        if not self.frames:
            return self.kept
        return sum(any(path in self.files for path in paths) for paths in self.frames)


class Cast(NamedTuple):
    """Subjects by their names in the training layout, walkers numbered through both lists; the rest as asked for."""

    train: list[str]
    test: list[str]
    types: tuple[str, ...]
    views: tuple[str, ...]
    seed: int


class Layout:
    """A raw distribution: subclasses say how it names and stores its sequences."""

    name: ClassVar[str]
    faults: ClassVar[tuple[str, ...]] = faults.OF_SILHOUETTES
    types: ClassVar[tuple[str, ...]] = ()
    """All types there are; none where they cannot be chosen."""
    views: ClassVar[tuple[str, ...]] = ()
    ships_archives: ClassVar[bool] = False
    """Whether the owners' archives can be written here."""

    def subjects(self, count: int) -> tuple[list[str], list[str]]:
        """Names of training and test subjects, on both sides of the data set's own partition."""
        raise NotImplementedError

    def takes(self, cast: Cast) -> list[Take]:
        """All sequences, in the order of subjects."""
        raise NotImplementedError

    def record(self, take: Take, walk: Walk) -> Recording:
        """The files of a sequence."""
        raise NotImplementedError

    def folders(self, take: Take) -> tuple[str, ...]:
        """The raw folders of a sequence, which are there when it is empty."""
        return (take.folder,)

    def extras(self, cast: Cast, takes: Sequence[Take]) -> dict[str, bytes]:
        """Files of the distribution beside its sequences, such as lists."""
        return {}

    def spoil(self, kind: str, take: Take, recording: Recording) -> str:
        """Puts a fault into the recording; the path that it hit."""
        if kind in (faults.EMPTY, faults.ABSENT):
            recording.files.clear()
            recording.kept = 0
            return take.folder
        if kind == faults.SHORT:
            for paths in recording.frames[faults.SHORT_FRAMES :]:
                for path in paths:
                    del recording.files[path]
            del recording.frames[faults.SHORT_FRAMES :]
            recording.kept = len(recording.frames)
            return take.folder
        if kind == faults.ALL_BLANK:
            for image, *_ in recording.frames:
                recording.files[image] = faults.spoiled_image(faults.BLANK, recording.files[image])
            recording.kept = 0
            return take.folder
        image = recording.frames[len(recording.frames) // 2][0]
        recording.files[image] = faults.spoiled_image(kind, recording.files[image])
        recording.kept -= 1
        return image

    def archived(self, tree: dict[str, bytes | None]) -> dict[str, bytes]:
        """The tree in the archives that the owners ship, for those that have `ships_archives`."""
        raise NotImplementedError


def images(folder: str, names: Sequence[str], pictures: Sequence[np.ndarray]) -> Recording:
    """A sequence of one image a frame."""
    paths = [f"{folder}/{name}" for name in names]
    files = {path: faults.encode(picture) for path, picture in zip(paths, pictures, strict=True)}
    return Recording(files, [(path,) for path in paths])


def chosen(what: str, asked: Sequence[str] | None, known: tuple[str, ...], dataset: str) -> tuple[str, ...]:
    """The types or views asked for; all where none were.

    Raises:
        ValueError: an unknown one, or the data set's cannot be chosen.
    """
    if asked is None:
        return known
    if not known:
        raise ValueError(f"{what} of {dataset} cannot be chosen: every sequence has its own; leave {what} out")
    if isinstance(asked, str) or not asked:
        raise ValueError(f"{what} must be a list that names at least one, found {asked!r}")
    for name in asked:
        if name not in known:
            near = nearest(str(name), known)
            hint = f" (did you mean '{near}'?)" if near else ""
            raise ValueError(f"{what}: {dataset} has no '{name}'{hint}; known: {', '.join(known)}")
    return tuple(name for name in known if name in asked)
