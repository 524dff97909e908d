"""Eleven perspective cameras around the walker, 000 in front to 180 behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

HEIGHT, WIDTH = 240, 320
VIEWS = tuple(f"{angle:03d}" for angle in range(0, 181, 18))


class Cameras(NamedTuple):
    """One camera a view: position [v, 3], unit axes right, up, forward [v, 3, 3], focal length in pixels [v]."""

    position: np.ndarray
    axes: np.ndarray
    focal: np.ndarray


@dataclass(frozen=True)
class CameraSpread:
    """How far a sequence's cameras stray from their places; everything is drawn per sequence."""

    height: tuple[float, float] = (0.95, 1.5)
    """metres above the floor"""
    distance: tuple[float, float] = (4.0, 6.0)
    """metres from the walker"""
    person: tuple[float, float] = (105.0, 155.0)
    """pixels that a person of 1.7 m fills at that distance"""
    yaw: float = 3.0
    """degrees, standard deviation, shared by the rig's cameras (a walker who goes askew)"""
    own_yaw: float = 1.5
    """degrees, standard deviation, each camera's own"""
    roll: float = 1.0
    """degrees, standard deviation"""


def draw_cameras(views: tuple[str, ...], rng: np.random.Generator, spread: CameraSpread | None = None) -> Cameras:
    """The cameras of one sequence, one for each view, all aimed at the walker's middle."""
    spread = spread or CameraSpread()
    count = len(VIEWS)
    # Drawn for all eleven, so that a view looks the same whichever others are asked for.
    yaw = np.radians(np.clip(rng.normal(0, spread.yaw), -9, 9) + rng.normal(0, spread.own_yaw, count))
    height = rng.uniform(*spread.height) + rng.normal(0, 0.08, count)
    distance = rng.uniform(*spread.distance) * np.exp(rng.normal(0, 0.04, count))
    focal = rng.uniform(*spread.person) / 1.7 * distance * np.exp(rng.normal(0, 0.04, count))
    roll = np.radians(rng.normal(0, spread.roll, count))
    aim = np.stack([rng.normal(0, 0.06, count), 0.87 + rng.normal(0, 0.05, count), rng.normal(0, 0.06, count)], -1)
    chosen = [VIEWS.index(view) for view in views]
    angle = np.radians([float(view) for view in VIEWS]) + yaw
    position = np.stack([np.sin(angle) * distance, height, np.cos(angle) * distance], -1)
    forward = aim - position
    forward /= np.sqrt((forward**2).sum(-1, keepdims=True))
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.sqrt((right**2).sum(-1, keepdims=True))
    up = np.cross(right, forward)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    axes = np.stack([cos * right + sin * up, cos * up - sin * right, forward], 1)
    return Cameras(
        position[chosen].astype(np.float32), axes[chosen].astype(np.float32), focal[chosen].astype(np.float32)
    )
