"""Recorded walks: joint positions from a file, made into walks of a given body.

What a recording says about its room goes: slope of the floor, path and heading drift. What it says about the body's
size goes too, because every bone takes the length of the body that wears the motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from opengait.synthetic.body import TOE_JOINT_DROP, Body
from opengait.synthetic.keys import generator
from opengait.synthetic.skeleton import JOINT, JOINTS, PARENTS, unit
from opengait.synthetic.walking import stand_on_ground

_ARRAYS = ("positions", "start", "length", "subject", "joint_names", "fps")
# Frames left out between the two sides of a walk that is split in time.
_GAP = 6


class Piece(NamedTuple):
    """Frames `start` to before `stop` of one recorded walk."""

    walk: int
    start: int
    stop: int


@dataclass(frozen=True)
class RecordedWalks:
    """The walks of a motion file.

    Attributes:
        positions: [s, 21, 3] of each walk, in metres, X left, Y up, Z forward.
        people: who walks, of each walk.
        names: name of each walk.
        fps: frames a second.
    """

    positions: tuple[np.ndarray, ...]
    people: tuple[str, ...]
    names: tuple[str, ...]
    fps: float

    @property
    def subjects(self) -> list[str]:
        """The people, sorted."""
        return sorted(set(self.people))

    def sides(self, subject: str) -> tuple[list[Piece], list[Piece]]:
        """The pieces for gallery and probe: different walks where there are several, else the two ends of the one.

        Raises:
            ValueError: no such person.
        """
        walks = [index for index, name in enumerate(self.people) if name == subject]
        if not walks:
            raise ValueError(f"no recorded walk of '{subject}'; there are {', '.join(self.subjects)}")
        if len(walks) > 1:
            pieces = [Piece(walk, 0, len(self.positions[walk])) for walk in walks]
            return pieces[0::2], pieces[1::2]
        length = len(self.positions[walks[0]])
        middle = length // 2
        return [Piece(walks[0], 0, middle - _GAP // 2)], [Piece(walks[0], middle + _GAP - _GAP // 2, length)]

    def choose(
        self, subject: str, types: tuple[str, ...], kind: str, frames: int, rng: np.random.Generator, seed: int
    ) -> Piece:
        """A piece of `frames` frames (or all there are) for one sequence; nm-01..04 are gallery, all others probe.

        The walks of a side are dealt in turn to the side's sequences, from a random first one.
        """
        gallery, probe = self.sides(subject)
        in_gallery = is_gallery(kind)
        side = gallery if in_gallery else probe
        turn = [other for other in types if is_gallery(other) == in_gallery].index(kind)
        first = int(generator(seed, "deal", subject, str(in_gallery)).integers(len(side)))
        piece = side[(first + turn) % len(side)]
        length = min(frames, piece.stop - piece.start)
        start = piece.start + int(rng.integers(piece.stop - piece.start - length + 1))
        return Piece(piece.walk, start, start + length)


def is_gallery(kind: str) -> bool:
    """Whether the CASIA-B protocol puts sequences of this type in the gallery."""
    return kind in ("nm-01", "nm-02", "nm-03", "nm-04")


def load_motion(path: str | Path) -> RecordedWalks:
    """Reads a motion file: an npz without objects.

    It holds `positions` [frames of all walks, 21, 3], `start`, `length` and `subject` of each walk, `joint_names` [21]
    and `fps`; `trial` names the walks if it is there. Axes: Y up, walking towards +Z, the subject's left is +X.

    Raises:
        ValueError: not such a file; the message says what is missing or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"motion file {path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"motion file {path}: not an npz of plain arrays ({error})") from error
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"motion file {path}: lacks {', '.join(missing)}; it must hold {', '.join(_ARRAYS)}")
    _check(path, arrays)
    walks = [
        np.asarray(arrays["positions"][start : start + length], float)
        for start, length in zip(arrays["start"], arrays["length"], strict=True)
    ]
    people = tuple(str(name) for name in arrays["subject"])
    names = tuple(str(name) for name in arrays.get("trial", np.arange(len(walks))))
    return RecordedWalks(tuple(walks), people, names, float(arrays["fps"]))


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    positions = arrays["positions"]
    if positions.ndim != 3 or positions.shape[1:] != (len(JOINTS), 3) or positions.dtype.kind != "f":
        raise ValueError(
            f"motion file {path}: positions must be floats [frames, {len(JOINTS)}, 3], "
            f"found {positions.dtype} {list(positions.shape)}"
        )
    names = tuple(str(name) for name in arrays["joint_names"])
    if names != JOINTS:
        raise ValueError(
            f"motion file {path}: joints must be {', '.join(JOINTS)} in this order, found {', '.join(names)}"
        )
    counts = {name: len(np.atleast_1d(arrays[name])) for name in ("start", "length", "subject")}
    if len(set(counts.values())) > 1 or not counts["start"]:
        raise ValueError(f"motion file {path}: start, length and subject must have one entry a walk, found {counts}")
    ends = arrays["start"] + arrays["length"]
    if arrays["start"].min() < 0 or ends.max() > len(positions):
        raise ValueError(f"motion file {path}: a walk ends at frame {ends.max()}, but there are only {len(positions)}")
    if arrays["length"].min() < 30:
        raise ValueError(f"motion file {path}: a walk has {arrays['length'].min()} frames; at least 30 are needed")
    if not np.isfinite(positions).all():
        raise ValueError(f"motion file {path}: positions hold values that are not finite")
    if float(arrays["fps"]) <= 0:
        raise ValueError(f"motion file {path}: fps must be positive, found {float(arrays['fps'])}")


def worn_by(body: Body, recorded: np.ndarray) -> np.ndarray:
    """A recorded piece [s, 21, 3] as the walk of a body, on the spot and on level ground."""
    length = bone_lengths(body)
    joints = np.zeros_like(recorded)
    time = np.linspace(-1, 1, len(recorded))
    for axis in (0, 2):
        # The path goes, sway and the pelvis' hurry and delay within a stride stay.
        track = recorded[:, 0, axis]
        joints[:, 0, axis] = track - np.polynomial.Polynomial.fit(time, track, 2)(time)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            bone = unit(recorded[:, joint] - recorded[:, parent])
            joints[:, joint] = joints[:, parent] + length[joint] * bone
    stand_on_ground(joints, body)
    return joints


def bone_lengths(body: Body) -> np.ndarray:
    """Distance of each joint from its parent for a body, [21]; 0 for the pelvis."""
    collar = float(np.hypot(body.shoulder_offset, 0.075))
    sole = float(np.hypot(body.foot, TOE_JOINT_DROP * body.ankle_height))
    arm = {"shoulder": collar, "elbow": body.upper_arm, "wrist": body.forearm, "hand": body.hand}
    leg = {"hip": body.hip_offset, "knee": body.thigh, "ankle": body.shank, "toe": sole}
    middle = {"chest": body.lower_trunk, "neck": body.upper_trunk, "head": body.neck, "head_top": body.head}
    lengths = np.zeros(len(JOINTS))
    for name, joint in JOINT.items():
        lengths[joint] = {**arm, **leg, **middle, "pelvis": 0.0}[name.removeprefix("l_").removeprefix("r_")]
    return lengths
