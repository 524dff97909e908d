"""The walker in colours before a background: clothes, skin and hair, lit from above, as an RGB camera sees them."""

from __future__ import annotations

import cv2
import numpy as np

from opengait.synthetic.camera import HEIGHT, WIDTH
from opengait.synthetic.parts import Parts
from opengait.synthetic.sequence import Scene

# The first entry that a link's names contain says what it is made of.
_MATERIALS = {
    "bag": "bag", "strap": "bag", "coat": "coat", "neck skull_base": "skin", "jaw": "skin", "skull": "hair",
    "hand": "skin", "tip": "shoes", "ball": "shoes", "heel": "shoes", "wrist": "forearm", "ankle": "trousers",
    "calf": "trousers", "knee": "trousers", "hip": "trousers", "seat": "trousers",
}  # fmt: skip
_CLOTHES = ("bag", "coat", "shoes", "trousers", "shirt")
_SKIN_DARK, _SKIN_LIGHT = np.array([70.0, 45.0, 35.0]), np.array([235.0, 195.0, 170.0])
_SHORT_SLEEVES = 0.4
_LIGHT_RADIUS = 9
_GRAIN = 3.0  # of the sensor, in grey levels


class Painter:
    """Paints the frames of one view.

    Args:
        scene: what is seen.
        number: of the view in the scene.
        wardrobe: draws the colours of clothes, skin and hair; the same for all views of a sequence.
        scenery: draws what differs between views: background, light, grain.
    """

    def __init__(self, scene: Scene, number: int, wardrobe: np.random.Generator, scenery: np.random.Generator) -> None:
        colours = _draw_wardrobe(wardrobe)
        self._parts = Parts(scene, number)
        self._colours = np.stack([colours[_material(names)] for names in self._parts.names])
        self._brightness = float(scenery.uniform(0.75, 1.1))
        self._background = _draw_background(scenery)
        # The cameras roll along with the walker, so what is behind passes by.
        angle = np.arctan2(scene.cameras.position[number, 0], scene.cameras.position[number, 2])
        self._pan = 2.5 * float(np.sin(angle))
        self._noise = scenery

    def paint(self, index: int, box: tuple[slice, slice]) -> np.ndarray:
        """RGB of the rows and columns of `box` in frame `index`, uint8 [h, w, 3]; call it in order of the frames."""
        depth = self._parts.depth[index]
        parts = np.ascontiguousarray(self._parts.draw(index)[box])
        person = (parts > 0).astype(np.float32)
        # Round limbs are darker towards their edges, and what is farther away gets less light.
        light = 0.55 + 0.45 * cv2.blur(person, (_LIGHT_RADIUS, _LIGHT_RADIUS), borderType=cv2.BORDER_CONSTANT)
        near = 1 - 0.5 * np.clip(depth - depth.mean(), -0.4, 0.4)
        table = np.concatenate([np.zeros((1, 3)), self._colours * near[:, None]]).astype(np.float32)
        columns = (np.arange(WIDTH) + round(index * self._pan)) % self._background.shape[1]
        behind = self._background[box[0]][:, columns[box[1]]]
        picture = behind * (1 - person[..., None]) + table[parts] * (person * light)[..., None]
        picture = picture * self._brightness + self._noise.normal(0, _GRAIN, picture.shape)
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _material(names: str) -> str:
    return next((material for part, material in _MATERIALS.items() if part in names), "shirt")


def _draw_wardrobe(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """RGB of each material, 0..255."""
    colours = {}
    for name in _CLOTHES:
        grey, tint = rng.uniform(25, 225), rng.normal(0, 40, 3)
        colours[name] = np.clip(grey + tint - tint.mean(), 8, 248)
    tone = rng.uniform()
    colours["skin"] = _SKIN_DARK + tone * (_SKIN_LIGHT - _SKIN_DARK)
    colours["hair"] = rng.uniform(0.08, 0.75) * np.array([200.0, 165.0, 120.0])
    colours["forearm"] = colours["skin"] if rng.uniform() < _SHORT_SLEEVES else colours["shirt"]
    return colours


def _draw_background(rng: np.random.Generator) -> np.ndarray:
    """A wall with large and small patches above a floor, float32 [HEIGHT, 2 WIDTH, 3]; left and right ends meet."""
    picture = np.zeros((HEIGHT, 2 * WIDTH, 3), np.float32)
    picture += (rng.uniform(50, 210) + rng.normal(0, 15, 3)).astype(np.float32)
    for grain, contrast in ((40, 18), (10, 8)):
        patches = rng.normal(0, contrast, (HEIGHT // grain, 2 * WIDTH // grain, 3)).astype(np.float32)
        patches[:, -1] = patches[:, 0]
        picture += cv2.resize(patches, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    floor = int(HEIGHT * rng.uniform(0.6, 0.8))
    picture[floor:] = 0.5 * picture[floor:] + (0.5 * rng.uniform(40, 200) + rng.normal(0, 8, 3)).astype(np.float32)
    return np.clip(picture, 0, 255)
