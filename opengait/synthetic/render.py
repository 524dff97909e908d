"""Surface and cameras -> raw binary frames: the hull of each linked pair of ellipsoids, drawn as a convex polygon."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from opengait.synthetic.camera import HEIGHT, WIDTH, Cameras
from opengait.synthetic.surface import Surface

CORNERS = 16
# Polygon corners are handed over in eighths of a pixel.
SHIFT = 3


def outlines(surface: Surface, cameras: Cameras) -> np.ndarray:
    """Corners of every link's outline, int32 [v, s, links, CORNERS, 2] in eighths of a pixel.

    The outline of a hull is found by its support points: in each of CORNERS image directions the farther point of the
    two ellipsoids. Within one ellipsoid perspective is taken as constant.
    """
    points, reach = _support_points(surface, cameras)
    one, two = (np.array(ends) for ends in zip(*surface.links, strict=True))
    farther = (reach[:, :, one] >= reach[:, :, two])[..., None]
    return np.where(farther, points[:, :, one], points[:, :, two])


def _support_points(surface: Surface, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Each ellipsoid's farthest image point in each direction [v, s, e, k, 2], and how far that is [v, s, e, k]."""
    centres, axes = surface.centres, surface.axes
    # Plain sums instead of matrix products: their rounding must not depend on the number of BLAS threads.
    offset = centres[None] - cameras.position[:, None, None]
    local = [_dot(offset, cameras.axes[:, None, None, row]) for row in range(3)]
    scale = cameras.focal[:, None, None] / local[2]
    right, up = (_stretch(axes, cameras.axes[:, row]) for row in (0, 1))
    angle = 2 * np.pi * np.arange(CORNERS, dtype=np.float32) / CORNERS
    cos, sin = np.cos(angle), np.sin(angle)
    # For direction u the farthest point of an ellipsoid with half axes a_i is sum a_i (a_i . u) / |(a_i . u)|; in the
    # image only three products of the half axes' projections are needed.
    rr, ru, uu = (_dot(a, b)[..., None] for a, b in ((right, right), (right, up), (up, up)))
    across, along = rr * cos + ru * sin, ru * cos + uu * sin
    size = np.sqrt(np.maximum(across * cos + along * sin, 1e-12))
    scale = scale[..., None]
    x = (local[0][..., None] + across / size) * scale
    y = (local[1][..., None] + along / size) * scale
    reach = x * cos + y * sin
    pixels = np.stack([x + (WIDTH - 1) / 2, (HEIGHT - 1) / 2 - y], -1) * (1 << SHIFT)
    return np.rint(pixels).astype(np.int32), reach


def _dot(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return one[..., 0] * two[..., 0] + one[..., 1] * two[..., 1] + one[..., 2] * two[..., 2]


def _stretch(axes: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Half axes [s, e, 3, 3] along directions [v, 3] -> [v, s, e, 3]."""
    return _dot(axes[None], direction[:, None, None, None])


def draw(polygons: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> Iterator[np.ndarray]:
    """One view's outlines [s, links, CORNERS, 2] -> frames uint8 [height, width], 0 or 255.

    The same buffer is handed out again and again: copy a frame to keep it.
    """
    image = np.empty((height, width), np.uint8)
    for links in polygons:
        image.fill(0)
        for corners in links:
            cv2.fillConvexPoly(image, corners, 255, lineType=cv2.LINE_8, shift=SHIFT)
        yield image
