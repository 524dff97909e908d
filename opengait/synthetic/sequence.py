"""One sequence: a walk under a condition, seen from all its views at once."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from opengait.prepare import normalize_silhouette
from opengait.synthetic.body import Body, draw_body, mean_body
from opengait.synthetic.camera import Cameras, draw_cameras
from opengait.synthetic.clothing import carry, draw_bag, draw_coat, hang_bag, restrain, wear_coat
from opengait.synthetic.faults import SegmentationFaults
from opengait.synthetic.gait import draw_gait, mean_gait
from opengait.synthetic.keys import generator
from opengait.synthetic.motion import RecordedWalks, worn_by
from opengait.synthetic.render import draw, outlines
from opengait.synthetic.surface import Surface, dress
from opengait.synthetic.walking import walk, walk_phase

FPS = 25.0
SILHOUETTES = ("silhouettes",)
# The rig of cameras rolls along with the walker; this much of the way (metres, either side) is seen as motion.
_TRAVEL = 0.8


@dataclass(frozen=True)
class Settings:
    """What a data set is made of; every number of it follows from these."""

    seed: int
    render_seed: int
    types: tuple[str, ...]
    views: tuple[str, ...]
    frames: tuple[int, int]
    strength: float
    own_body: bool
    own_gait: bool
    size: int = 64
    motion: RecordedWalks | None = None
    modalities: tuple[str, ...] = SILHOUETTES

    def described(self) -> dict[str, Any]:
        """The settings in plain JSON types; recorded walks by a checksum, modalities where they are not the default."""
        left_out = {"motion"} | ({"modalities"} if self.modalities == SILHOUETTES else set())
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        walks = self.motion.positions if self.motion else None
        return {**plain, "motion": walks and zlib.crc32(b"".join(walk.tobytes() for walk in walks))}


class Sequence(NamedTuple):
    """Frames of each view, uint8 [s, size, size], and the recorded piece they show as (walk, start, stop), if any."""

    views: dict[str, np.ndarray]
    source: tuple[str, int, int] | None


def subject_body(settings: Settings, subject: int) -> Body:
    """The body of a subject: own, or the population mean."""
    return draw_body(settings.seed, subject) if settings.own_body else mean_body()


def subject_gait(settings: Settings, subject: int) -> dict[str, float]:
    """The gait of a subject: own, or the population mean."""
    return draw_gait(settings.seed, subject) if settings.own_gait else mean_gait()


def render_sequence(settings: Settings, subject: int, kind: str) -> Sequence:
    """Renders one sequence.

    Args:
        settings: of the data set.
        subject: number of the subject, from 0; in recorded walks, its place in the sorted list of people.
        kind: the sequence's type, such as `cl-02`.
    """
    scene = stage(settings, subject, kind)
    views = {
        view: stacked([shot.frame for shot in shots(scene, number, settings.size)], (settings.size, settings.size))
        for number, view in enumerate(settings.views)
    }
    return Sequence(views, scene.source)


def sequence_facts(settings: Settings, subject: int, kind: str) -> dict[str, np.ndarray]:
    """What is known of a sequence beside its frames, a row of numbers for each view.

    Length, where in the stride it starts, mean width and height of the raw box in pixels, camera height,
    distance and focal length, strengths and counts of the segmentation faults. No subject should be told apart by them.
    """
    scene = stage(settings, subject, kind)
    corners = scene.polygons.reshape(*scene.polygons.shape[:2], -1, 2) / 8.0
    box = corners.max(2) - corners.min(2)
    start = 2 * np.pi * scene.start
    whole = [box.shape[1], np.cos(start), np.sin(start)]
    return {
        view: np.array(
            [
                *whole,
                *box[index].mean(0),
                scene.cameras.position[index, 1],
                np.hypot(*scene.cameras.position[index, ::2]),
                scene.cameras.focal[index],
                *scene.faults[index].summary(),
            ]
        )
        for index, view in enumerate(settings.views)
    }


class Scene(NamedTuple):
    """A sequence ready to be drawn.

    Attributes:
        polygons: outlines [v, s, links, corners, 2].
        cameras, faults: one a view.
        start: where in the stride it starts, in [0, 1).
        source: the recorded piece, if any.
        body: the subject's, without clothes.
        joints: [s, 21, 3], under bag or coat.
        surface: what was outlined.
    """

    polygons: np.ndarray
    cameras: Cameras
    faults: list[SegmentationFaults]
    start: float
    source: tuple[str, int, int] | None
    body: Body
    joints: np.ndarray
    surface: Surface


def stage(settings: Settings, subject: int, kind: str) -> Scene:
    """Everything of a sequence but its pixels; arguments as of `render_sequence`."""
    rng = generator(settings.seed, "sequence", settings.render_seed, subject, kind)
    frames = int(rng.integers(settings.frames[0], settings.frames[1] + 1))
    body = subject_body(settings, subject)
    joints, start, source = _walk(settings, subject, kind, body, frames, rng)
    joints, surface = _condition(joints, body, kind, rng)
    cameras = draw_cameras(settings.views, rng)
    faults = [
        SegmentationFaults(
            generator(settings.seed, "faults", settings.render_seed, subject, kind, view),
            len(joints),
            settings.strength,
        )
        for view in settings.views
    ]
    return Scene(outlines(surface, cameras), cameras, faults, start, source, body, joints, surface)


def _walk(
    settings: Settings, subject: int, kind: str, body: Body, frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, float, tuple[str, int, int] | None]:
    """Joints [s, 21, 3], where in the stride they start, and the recorded piece they come from."""
    source = None
    fps = FPS
    start = 0.0
    if settings.motion is None:
        gait = subject_gait(settings, subject)
        phase = walk_phase(gait["cadence"], frames, FPS, 0.03, rng)
        start = float(phase[0])
        joints = walk(body, gait, phase, rng)
    else:
        motion = settings.motion
        piece = motion.choose(motion.subjects[subject], settings.types, kind, frames, rng, settings.seed)
        joints = worn_by(body, motion.positions[piece.walk][piece.start : piece.stop])
        source = (motion.names[piece.walk], piece.start, piece.stop)
        fps = motion.fps
    path = np.arange(len(joints)) * (1.2 / fps)
    path -= path.mean()
    path *= min(1.0, _TRAVEL / max(path[-1], 1e-6))
    joints[..., 2] += path[:, None]
    return joints, start, source


def _condition(joints: np.ndarray, body: Body, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, Surface]:
    """Joints [s, 21, 3] and surface of the walker in the sequence's clothes, with bag or coat."""
    clothed = body.widened(torso=float(np.exp(rng.normal(0.03, 0.05))), limbs=float(np.exp(rng.normal(0.04, 0.06))))
    hair = float(rng.uniform(0.0, 0.018))
    bag = draw_bag(rng) if kind.startswith("bg") else None
    if bag is not None:
        joints = carry(joints, bag)
    coat = draw_coat(rng) if kind.startswith("cl") else None
    if coat is not None:
        joints = restrain(joints, coat)
    surface = dress(joints, clothed, hair)
    if coat is not None:
        wear_coat(surface, joints, clothed, coat)
    if bag is not None:
        hang_bag(surface, joints, clothed, bag)
    return joints, surface


class Shot(NamedTuple):
    """One frame that shows enough: its place in the walk, the segmenter's mask [HEIGHT, WIDTH] (a buffer that the next
    shot overwrites), and the normalised silhouette [size, size]."""

    place: int
    mask: np.ndarray
    frame: np.ndarray


def shots(scene: Scene, number: int, size: int) -> Iterator[Shot]:
    """The frames of the scene's view of that number; those that show too little are left out."""
    faults = scene.faults[number]
    for index, image in enumerate(draw(scene.polygons[number])):
        faults.apply(image, index)
        frame = normalize_silhouette(image, size)
        if frame is not None:
            yield Shot(index, image, frame)


def stacked(frames: list[np.ndarray], shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """Frames [s, *shape], also where there is none."""
    return np.stack(frames) if frames else np.zeros((0, *shape), dtype)
