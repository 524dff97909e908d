"""Gait3D: cropped silhouettes, and where they were downloaded too, an SMPL estimate of each frame."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from opengait.data.errors import DataError, UnsafePickleError
from opengait.prepare.dataset import LeftOut, Plan, Planned, Prepared, Published, RawDataset, Sequence
from opengait.prepare.folders import FolderReader, RawFolder, UnreadableFile
from opengait.prepare.images import DroppedFrame, Unusable, read_image
from opengait.prepare.npz import read_npz

# Reasons for dropping a frame, as the report counts them.
NO_SMPL, NO_SILHOUETTE = "no SMPL estimate of the frame", "no silhouette of the frame"
UNREADABLE, UNSAFE = "unreadable SMPL estimate", "SMPL estimate that asks for code to be run"
PEOPLE, VALUES = "SMPL estimate not of one person", "wrong numbers in the SMPL estimate"

_FOLDER = re.compile(r"(?:^|/)(\d{4})/(camid\d+_videoid\d+)/(seq\d+)$")
_SMPL_TREE = re.compile(r"smpl", re.IGNORECASE)
# What the owners ship beside the two: other forms of the same sequences.
_OTHER_TREES = re.compile(r"pose|mesh|parsing", re.IGNORECASE)
_NPZ = ".npz"
# Camera, pose and shape by the names that estimators give them, with how many numbers they are.
_PARTS = ((("cam",), 3), (("poses", "pose", "thetas"), 72), (("betas", "shape"), 10))


class Gait3D(RawDataset):
    """`id/camid<c>_videoid<v>/seq<n>/*.png` and, in a tree with SMPL in its name, the same with `*.npz`.

    With both trees a sequence becomes `sils-seq<n>.pkl` and `smpls-seq<n>.pkl` (float32 [s, 85]: camera 3, pose 72,
    shape 10) of the frames that both have; frames are told by their names. Silhouettes alone become `seq<n>.pkl`. Who
    trains and who is tested is a list that the owners publish, which `data_cfg.dataset_partition` names.
    """

    name = "Gait3D"
    expected = (
        "2D_Silhouettes/<id>/camid<c>_videoid<v>/seq<n>/<frame>.png, and 3D_SMPLs/ alike with <frame>.npz (optional)"
    )
    sources: ClassVar[tuple[str, ...]] = ("silhouettes", "smpl")
    beside = re.compile(r"^[^/]*$")  # the list of the split, for one
    published: ClassVar[tuple[Published, ...]] = (
        Published("total", "subjects", 4_000),
        Published("total", "sequences", 25_309, owners=True),
        Published("total", "frames", 3_280_000, owners=True, approximate=True),
    )

    def identify(self, path: str) -> Sequence | None:
        found = _FOLDER.search(path)
        if found is None:
            return None
        subject, camera, number = found.groups()
        tree = path[: found.start()]
        if _SMPL_TREE.search(tree):
            return Sequence(subject, camera, number, "smpl")
        return None if _OTHER_TREES.search(tree) else Sequence(subject, camera, number)

    def _complete(self, found: dict[tuple[str, str, str], dict[str, RawFolder]], left_out: list[LeftOut]) -> Plan:
        """Without any SMPL estimate in the download, silhouettes do."""
        if self.sources != _SilhouettesAlone.sources and not any("smpl" in sources for sources in found.values()):
            return _SilhouettesAlone()._complete(found, left_out)
        return super()._complete(found, left_out)

    def prepare(self, sequence: Planned, sources: Mapping[str, FolderReader], size: int | None) -> Prepared:
        if "smpl" not in sources:
            return super().prepare(sequence, sources, size)
        silhouettes, estimates = sources["silhouettes"], sources["smpl"]
        images = {_stem(name): name for name in self.frame_names(silhouettes)}
        vectors = {_stem(name): name for name in estimates.names() if name.lower().endswith(_NPZ)}
        frames, smpl, dropped = [], [], []
        for stem in sorted({*images, *vectors}):
            name = images.get(stem, vectors.get(stem, stem))
            try:
                if stem not in vectors:
                    raise Unusable(NO_SMPL)
                if stem not in images:
                    raise Unusable(NO_SILHOUETTE)
                frame = self.frame(read_image(silhouettes, name), size)
                name = vectors[stem]
                smpl.append(read_smpl(estimates, name))
                frames.append(frame)
            except Unusable as reason:
                dropped.append(DroppedFrame(name, *reason.args))
        arrays = {}
        if frames:
            arrays[f"sils-{sequence.view}.pkl"] = np.stack(frames)
            arrays[f"smpls-{sequence.view}.pkl"] = np.stack(smpl)
        return Prepared(arrays, len({*images, *vectors}), dropped)


class _SilhouettesAlone(Gait3D):
    sources: ClassVar[tuple[str, ...]] = ("silhouettes",)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def read_smpl(reader: FolderReader, name: str) -> np.ndarray:
    """The vector of the one person in an estimate, float32 [85].

    Raises:
        Unusable: it cannot be read, asks for code to be run, or is not of one person.
    """
    try:
        content = read_npz(reader.read(name), name)
    except UnsafePickleError as error:
        raise Unusable(UNSAFE, str(error).removeprefix(f"{name}: ")) from error
    except (UnreadableFile, DataError) as error:
        raise Unusable(UNREADABLE, str(error).removeprefix(f"{name}: ")) from error
    person = _one_person(content)
    return np.concatenate([_numbers(person, names, count) for names, count in _PARTS])


def _one_person(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping that holds the numbers: the only one among the results, or the file's own arrays."""
    if "results" not in content:
        return content
    people = content["results"]
    while isinstance(people, list | tuple) and len(people) == 1:
        people = people[0]
    if isinstance(people, list | tuple):
        raise Unusable(PEOPLE, f"{len(people)} people")
    if not isinstance(people, dict):
        raise Unusable(VALUES, f"a result is a mapping, found {type(people).__name__}")
    return people


def _numbers(person: Mapping[str, Any], names: tuple[str, ...], count: int) -> np.ndarray:
    found = next((person[name] for name in names if name in person), None)
    if found is None:
        raise Unusable(VALUES, f"no '{names[0]}' among {', '.join(map(str, person))}"[:200])
    try:
        numbers = np.asarray(found, dtype=np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise Unusable(VALUES, f"'{names[0]}' holds no numbers") from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise Unusable(VALUES, f"'{names[0]}' has {len(numbers)} numbers, {count} finite ones were expected")
    return numbers
