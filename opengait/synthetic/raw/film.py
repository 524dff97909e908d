"""A walker filmed by a camera that stands still, at the image size of a data set: frames before any normalisation."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from opengait.synthetic.camera import HEIGHT, WIDTH, Cameras
from opengait.synthetic.faults import SegmentationFaults
from opengait.synthetic.keys import generator
from opengait.synthetic.render import SHIFT, draw, outlines
from opengait.synthetic.sequence import Scene, Settings, stage
from opengait.synthetic.skeleton import JOINT
from opengait.synthetic.smpl import smpl_vectors

# So far (metres) before or behind the middle of the camera's field a piece of a walk may lie.
_ASTRAY = 1.0
# Where COCO's 17 key points are on the walker, whose face has none of its own.
_COCO = ("head",) * 5 + tuple(
    f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in "lr"
)
_FRONT = ("000",)


class Walk:
    """One walk of a walker, to be filmed from any side.

    Args:
        seed: of the walkers.
        walker: number of the subject, from 0.
        kind: walking condition and number, such as `cl-02`.
        frames: fewest and most frames.
    """

    def __init__(self, seed: int, walker: int, kind: str, frames: tuple[int, int]) -> None:
        self._key = (seed, walker, kind)
        self.settings = Settings(seed, 0, (kind,), _FRONT, frames, strength=1.0, own_body=True, own_gait=True)
        self._scene: Scene = stage(self.settings, walker, kind)

    def film(self, angle: float, height: int = HEIGHT, width: int = WIDTH) -> Film:
        """What a camera sees that stands `angle` degrees from the walking direction; 0 is in front.

        The image is a whole multiple of 320x240, with rows or columns added at the borders.
        """
        seed, walker, kind = self._key
        place = f"{angle:g}"
        rng = generator(seed, "raw film", walker, kind, place)
        cameras = _turned(self._scene.cameras, np.radians(angle), float(rng.uniform(-_ASTRAY, _ASTRAY)))
        polygons = outlines(self._scene.surface, cameras)[0]
        frames = len(polygons)
        faults = SegmentationFaults(generator(seed, "raw faults", walker, kind, place), frames, strength=1.0)
        masks = []
        for index, image in enumerate(draw(_enlarged(polygons, height, width), height, width)):
            faults.apply(image, index)
            masks.append(image.copy())
        smpl = smpl_vectors(
            self._scene.joints, self._scene.body, cameras, 0, generator(seed, "raw smpl", walker, kind, place)
        )
        return Film(masks, smpl, _keypoints(self._scene.joints, cameras, rng), self._scene.joints)


class Film(NamedTuple):
    """A filmed walk.

    Attributes:
        masks: of each frame, uint8 [h, w], 0 or 255.
        smpl: float32 [s, 85], camera 3, pose 72, shape 10.
        keypoints: [s, 17, 3] COCO's points in pixels of a 320x240 image, and a confidence.
        joints: [s, 21, 3], metres.
    """

    masks: list[np.ndarray]
    smpl: np.ndarray
    keypoints: np.ndarray
    joints: np.ndarray


def crop(mask: np.ndarray, margin: int) -> np.ndarray:
    """The person's box with a margin on each side as far as the image goes, as a detector cuts it out."""
    left, top, width, height = cv2.boundingRect(mask)
    rows = slice(max(top - margin, 0), top + height + margin)
    return np.ascontiguousarray(mask[rows, max(left - margin, 0) : left + width + margin])


def _turned(cameras: Cameras, angle: float, astray: float) -> Cameras:
    """The first camera, turned about the walker's place, before which the walk lies `astray` metres off."""
    cos, sin = np.cos(angle), np.sin(angle)
    about = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])  # acts on row vectors
    position = cameras.position[:1] @ about
    # The camera stands back instead of the walker going on: the same picture.
    position[:, 2] -= astray
    return Cameras(
        position.astype(np.float32), (cameras.axes[:1] @ about).astype(np.float32), cameras.focal[:1].astype(np.float32)
    )


def _enlarged(polygons: np.ndarray, height: int, width: int) -> np.ndarray:
    """Outlines [s, links, corners, 2] of a 320x240 image for one of another size, centred in it."""
    times = min(height // HEIGHT, width // WIDTH)
    unit = 1 << SHIFT
    borders = np.array([width - times * WIDTH, height - times * HEIGHT]) * unit // 2
    return polygons * times + (times - 1) * unit // 2 + borders


def _keypoints(joints: np.ndarray, cameras: Cameras, rng: np.random.Generator) -> np.ndarray:
    points = joints[:, [JOINT[name] for name in _COCO]] - cameras.position[0]
    right, up, forward = cameras.axes[0]
    scale = cameras.focal[0] / (points @ forward)
    x, y = (WIDTH - 1) / 2 + points @ right * scale, (HEIGHT - 1) / 2 - points @ up * scale
    return np.stack([x, y, rng.uniform(0.7, 0.98, x.shape)], -1)
