"""Which part of the walker each pixel shows: nearer links cover those behind them."""

from __future__ import annotations

import cv2
import numpy as np

from opengait.synthetic.camera import HEIGHT, WIDTH
from opengait.synthetic.render import SHIFT
from opengait.synthetic.sequence import Scene

# A coat goes around what its panels' middles lie in: metres that it counts as nearer.
_COAT_DEPTH = 0.2

HEAD, TORSO, DRESS = 1, 2, 11
# Classes of Gait3D-Parsing; the first entry that a link's names contain says which, for left and right.
_CLASSES = {
    "bag": (TORSO, TORSO), "strap": (TORSO, TORSO), "skull": (HEAD, HEAD), "hem": (DRESS, DRESS),
    "coat_seat": (TORSO, TORSO),
    "hand": (5, 6), "wrist": (3, 4), "elbow": (3, 4), "heel": (9, 10), "ball": (9, 10), "tip": (9, 10),
    "ankle": (7, 8), "calf": (7, 8), "knee": (7, 8), "hip": (7, 8), "seat": (7, 8),
}  # fmt: skip
_BORDER = np.ones((7, 7), np.uint8)


class Parts:
    """Draws the parts of one view.

    Args:
        scene: what is seen.
        number: of the view in the scene.

    Attributes:
        names: the two ellipsoids of each link.
        depth: distance of each link's middle from the camera along its axis, metres, [s, links].
    """

    def __init__(self, scene: Scene, number: int) -> None:
        self.names = scene.surface.link_names
        self._polygons = scene.polygons[number]
        offset = scene.surface.centres - scene.cameras.position[number]
        depth = (offset * scene.cameras.axes[number, 2]).sum(-1)  # [s, ellipsoids]
        one, two = (np.array(ends) for ends in zip(*scene.surface.links, strict=True))
        worn = np.array(["coat" in names for names in self.names])
        self.depth = (depth[:, one] + depth[:, two]) / 2 - _COAT_DEPTH * worn

    def draw(self, index: int) -> np.ndarray:
        """Frame `index`: 0 for background, else the number of the link plus one, uint8 [HEIGHT, WIDTH]."""
        parts = np.zeros((HEIGHT, WIDTH), np.uint8)
        for link in np.argsort(-self.depth[index], kind="stable"):
            cv2.fillConvexPoly(parts, self._polygons[index, link], int(link) + 1, lineType=cv2.LINE_8, shift=SHIFT)
        return parts

    def classes(self, index: int, mask: np.ndarray) -> np.ndarray:
        """Gait3D-Parsing's class of each pixel that the segmenter's mask [HEIGHT, WIDTH] takes for the person, else 0:
        head 1, torso 2, arms 3 and 4, hands 5 and 6, legs 7 and 8, feet 9 and 10 (left, right), skirt of a coat 11."""
        table = np.array([0, *map(_class_of, self.names)], np.uint8)
        found = table[self.draw(index)]
        # Beyond the true outline: of the part that is near, else torso.
        found = np.where(found > 0, found, cv2.dilate(found, _BORDER))
        return np.where(mask > 0, np.where(found > 0, found, TORSO), 0).astype(np.uint8)


def _class_of(names: str) -> int:
    for part, (left, right) in _CLASSES.items():
        if part in names:
            return right if " r_" in f" {names}".replace("coat_", "") else left
    return TORSO
