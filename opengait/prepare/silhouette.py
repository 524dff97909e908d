"""Silhouette normalisation: a raw frame with one person -> a square frame with the person's height and centre fixed."""

from __future__ import annotations

import cv2
import numpy as np

# Grey sum at which a frame is dropped: about 40 white pixels, too few for a person (the reference's number).
MIN_GREY_SUM = 10_000


def normalize_silhouette(image: np.ndarray, size: int = 64) -> np.ndarray | None:
    """Cuts the person's rows out, scales them to `size` and centres the columns on the body's median.

    The steps are those of the field's common preparation script, its faults included, so that frames prepared here and
    there are equal: every non-zero pixel counts for the row crop, the bicubic resize leaves grey values, and a frame
    whose median is column 0 (a person cut off by the left border) is dropped.

    Args:
        image: [h, w], uint8 with 0 for background and 255 for the person; bool is scaled to that.
        size: height and width of the result in pixels, even.

    Returns:
        uint8 [size, size], or None where the frame shows too little to be a person or its median is column 0.

    Raises:
        ValueError: an image of other shape or type, or an odd size.
    """
    _check(image, size)
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    return _normalised(image, image, size, cv2.INTER_CUBIC)


def normalize_parsing(classes: np.ndarray, size: int = 64) -> np.ndarray | None:
    """The same for a map of body parts: rows and centre are those of the person, classes are never mixed.

    Args:
        classes: [h, w], uint8 with 0 for background and the number of a class elsewhere.
        size: height and width of the result in pixels, even.

    Returns:
        uint8 [size, size], or None as `normalize_silhouette`.

    Raises:
        ValueError: a map of other shape or type, or an odd size.
    """
    _check(classes, size)
    return _normalised(classes, (classes > 0).astype(np.uint8) * 255, size, cv2.INTER_NEAREST)


def _normalised(image: np.ndarray, mask: np.ndarray, size: int, interpolation: int) -> np.ndarray | None:
    """The image, cut and centred by the mask, both [h, w]; where they are one, that is a silhouette."""
    row_sums = cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    if int(row_sums.sum(dtype=np.int64)) <= MIN_GREY_SUM:
        return None
    rows = np.flatnonzero(row_sums)
    person = slice(rows[0], rows[-1] + 1)
    width = int(size * image.shape[1] / (rows[-1] + 1 - rows[0]))
    if width == 0:
        return None
    body = cv2.resize(image[person], (width, size), interpolation=interpolation)
    shown = body if mask is image else cv2.resize(mask[person], (width, size), interpolation=interpolation)
    centre = _median_column(shown)
    if centre == 0:
        return None
    half = size // 2
    left, right = centre - half, centre + half
    if left <= 0 or right >= width:
        body = cv2.copyMakeBorder(body, 0, 0, half, half, cv2.BORDER_CONSTANT, value=0)
        left, right = left + half, right + half
    return np.ascontiguousarray(body[:, left:right])


def _median_column(body: np.ndarray) -> int:
    """First column where the cumulative grey sum exceeds half of the total; 0 where there is none."""
    cumulative = np.cumsum(cv2.reduce(body, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0], dtype=np.int64)
    return int(np.searchsorted(cumulative * 2, cumulative[-1], side="right")) % len(cumulative)


def _check(image: np.ndarray, size: int) -> None:
    if not isinstance(size, (int, np.integer)) or size <= 0 or size % 2:
        raise ValueError(
            f"size must be even and positive, found {size!r}: the person is centred between the two middle columns"
        )
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"a silhouette is an array [h, w], found {type(image).__name__}; cv2.imread gives None for a file that it "
            "cannot read"
        )
    if image.ndim != 2:
        raise ValueError(
            f"a silhouette is one grey image [h, w], found shape {tuple(image.shape)}; make colour images grey first"
        )
    if image.dtype not in (np.uint8, bool):
        raise ValueError(
            f"a silhouette is uint8 with 0 for background and 255 for the person (or bool), found {image.dtype}; "
            "scale it to 0..255 and convert it to uint8"
        )
    if image.size == 0:
        raise ValueError(f"the silhouette is empty: shape {tuple(image.shape)}")
