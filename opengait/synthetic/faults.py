"""Faults of a person segmenter: ragged border, holes, lost feet, specks and a jittering box; they last a few frames."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

_FIELDS, _MARGIN = 8, 6
# The grain of the border noise is in pixels of a box about this large.
_NOISE_HEIGHT, _NOISE_WIDTH = 140, 80


class _Event(NamedTuple):
    """One fault from frame `start` to before `stop`; `where` and `size` are fractions of the person's box."""

    start: int
    stop: int
    where: tuple[float, float]
    size: tuple[float, float]


class SegmentationFaults:
    """The faults of one view of one sequence, drawn once and applied frame by frame.

    Args:
        rng: the view's own generator.
        frames: frames in the sequence.
        strength: 0 for a clean segmentation, 1 for a fair amount, 2 for a poor one.
    """

    def __init__(self, rng: np.random.Generator, frames: int, strength: float) -> None:
        self.strength = strength
        self._ragged = strength * rng.uniform(0.2, 0.7)
        self._bias = strength * float(np.clip(rng.normal(0, 16), -40, 40))
        self._reach = int(rng.choice((3, 5, 7)))
        grain = float(rng.uniform(4.0, 11.0))
        shape = (_FIELDS, int(_NOISE_HEIGHT / grain), int(_NOISE_WIDTH / grain))
        self._noise = np.clip(rng.normal(128, 48, shape), 0, 255).astype(np.uint8)
        self._drift = float(rng.uniform(0.1, 0.5))
        self._holes = self._draw(rng, frames, 0.8, (0.15, 0.85), (0.08, 0.95), (0.02, 0.11), (0.01, 0.05))
        self._lost_feet = self._draw(rng, frames, 0.5, (0, 1), (0, 1), (0, 0), (0.015, 0.07))
        self._specks = self._draw(rng, frames, 0.4, (0.3, 0.7), (-0.07, -0.01), (0.02, 0.06), (0.006, 0.015))
        # What the person box of each frame cuts off at top and bottom, as fractions of the height.
        jitter = rng.normal(0, 1, (2, frames + 2))
        self._box = strength * 0.025 * np.maximum(jitter[:, :-2] + jitter[:, 1:-1] + jitter[:, 2:], 0) / np.sqrt(3)
        self._shadow = self._draw(rng, frames, 0.4, (0.1, 0.9), (0.995, 1.03), (0.10, 0.40), (0.006, 0.02))

    def _draw(self, rng: np.random.Generator, frames: int, rate: float, *ranges: tuple[float, float]) -> list[_Event]:
        """`rate` events for every 25 frames at strength 1."""
        events = []
        for _ in range(rng.poisson(self.strength * rate * frames / 25)):
            start = int(rng.integers(-6, frames))
            x, y, width, height = (float(rng.uniform(*limits)) for limits in ranges)
            events.append(_Event(start, start + int(rng.integers(3, 14)), (x, y), (width, height)))
        return events

    def apply(self, image: np.ndarray, frame: int) -> None:
        """Spoils one frame (uint8 [h, w], 0 or 255) in place."""
        if self.strength == 0:
            return
        left, top, width, height = cv2.boundingRect(image)
        if not height:
            return
        self._spoil_border(image, frame, left, top, width, height)
        for events, value in ((self._holes, 0), (self._specks, 255), (self._shadow, 255)):
            for event in events:
                if event.start <= frame < event.stop:
                    centre = (int(left + event.where[0] * width), int(top + event.where[1] * height))
                    axes = (max(1, int(event.size[0] * width)), max(1, int(event.size[1] * height)))
                    cv2.ellipse(image, centre, axes, 0, 0, 360, value, -1)
        above, below = (int(cut * height) for cut in self._box[:, frame])
        image[: top + above] = 0
        image[top + height - below :] = 0
        for event in self._lost_feet:
            if event.start <= frame < event.stop:
                image[int(top + height * (1 - event.size[1])) :] = 0

    def summary(self) -> list[float]:
        """Strengths and counts of the faults, as numbers."""
        events = (self._holes, self._lost_feet, self._specks, self._shadow)
        return [self._ragged, self._bias, self._reach, self._drift, *(float(len(found)) for found in events)]

    def _spoil_border(self, image: np.ndarray, frame: int, left: int, top: int, width: int, height: int) -> None:
        bottom, right = top + height + _MARGIN, left + width + _MARGIN
        part = image[max(top - _MARGIN, 0) : bottom, max(left - _MARGIN, 0) : right]
        place = frame * self._drift
        one, two = self._noise[int(place) % _FIELDS], self._noise[(int(place) + 1) % _FIELDS]
        field = cv2.addWeighted(one, 1 - place % 1, two, place % 1, 0)
        noise = cv2.resize(field, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
        soft = cv2.blur(part, (self._reach, self._reach), borderType=cv2.BORDER_CONSTANT)
        spoiled = cv2.addWeighted(soft, 0.5, noise, 0.5 * self._ragged, 64 - 64 * self._ragged + 0.5 * self._bias)
        # 0.5 keeps both sides of the threshold within uint8.
        spoiled = cv2.threshold(spoiled, 127, 255, cv2.THRESH_BINARY)[1]
        part[:] = cv2.bitwise_and(spoiled, cv2.threshold(soft, 0, 255, cv2.THRESH_BINARY)[1])
