"""From the bytes of an image file to a grey frame, or a reason why there is none."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

from opengait.prepare.folders import FolderReader, UnreadableFile

LARGEST_IMAGE = 1 << 26  # pixels; a small file can ask for much memory
_PNG = b"\x89PNG\r\n\x1a\n"

# Reasons for dropping a frame, as the report counts them.
EMPTY, UNREADABLE, MODE = "empty file", "unreadable image", "wrong kind of image"
BLANK, CUT_OFF, SHAPE = "fewer than about 40 white pixels", "median at the left border", "wrong size"


class DroppedFrame(NamedTuple):
    """One frame that is not in the result."""

    name: str
    reason: str
    detail: str = ""


class Unusable(Exception):
    """This file gives no frame: one of the reasons above, and optionally the detail."""


def read_image(reader: FolderReader, name: str) -> np.ndarray:
    """One image of a raw folder, uint8 [h, w].

    Raises:
        Unusable: it cannot be read, or is no grey image.
    """
    try:
        content = reader.read(name)
    except UnreadableFile as error:
        raise Unusable(UNREADABLE, str(error)) from error
    return decode_grey(content)


def decode_grey(content: bytes) -> np.ndarray:
    """The image in the bytes of a PNG, JPEG or BMP file, uint8 [h, w].

    An image stored in colour whose channels are equal is grey; any other colour image is refused, as are images of 16
    bits. A file that is cut off is refused too, where decoders would fill in the rest.

    Raises:
        Unusable: no such image.
    """
    image = _decoded(content)
    if image.dtype != np.uint8:
        raise Unusable(MODE, f"{image.dtype} values, 8 bits were expected")
    if image.ndim == 2:
        return image
    if not (image[..., 0] == image[..., 1]).all() or not (image[..., 0] == image[..., 2]).all():
        raise Unusable(MODE, "a colour image, a grey one was expected")
    return np.ascontiguousarray(image[..., 0])


def decode_colour(content: bytes) -> np.ndarray:
    """The image in the bytes of a PNG, JPEG or BMP file, uint8 [h, w, 3] in the order red, green, blue.

    Raises:
        Unusable: no such image, or a grey one.
    """
    image = _decoded(content)
    if image.dtype != np.uint8 or image.ndim != 3:
        raise Unusable(MODE, "a colour image of 8 bits was expected")
    return np.ascontiguousarray(image[..., 2::-1])


def _decoded(content: bytes) -> np.ndarray:
    import cv2

    if not content:
        raise Unusable(EMPTY)
    _check_whole(content)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise Unusable(UNREADABLE, str(error).splitlines()[0]) from error
    if image is None or image.size == 0:
        raise Unusable(UNREADABLE, "no image")
    return np.asarray(image)


def _check_whole(content: bytes) -> None:
    """Raises Unusable for a PNG or JPEG that is cut off or damaged: decoders make up what is missing."""
    if content.startswith(_PNG):
        _check_png(content)
    elif content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content[-1024:]:
        raise Unusable(UNREADABLE, "the JPEG is cut off")


def _check_png(content: bytes) -> None:
    position = len(_PNG)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            break
        if zlib.crc32(content[position + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise Unusable(UNREADABLE, "the PNG is damaged")
        if kind == b"IHDR" and length >= 8:
            width, height = struct.unpack_from(">II", content, position + 8)
            if width * height > LARGEST_IMAGE:
                raise Unusable(UNREADABLE, f"an image of {height}x{width} pixels")
        if kind == b"IEND":
            return
        position = end
    raise Unusable(UNREADABLE, "the PNG is cut off")


def normalised(image: np.ndarray, size: int) -> np.ndarray:
    """A silhouette, normalised to [size, size]; `Unusable` where it shows too little of a person."""
    from opengait.prepare.silhouette import MIN_GREY_SUM, normalize_silhouette

    frame = normalize_silhouette(image, size)
    if frame is None:
        blank = int(image.sum(dtype=np.int64)) <= MIN_GREY_SUM
        raise Unusable(BLANK if blank else CUT_OFF)
    return frame


def of_shape(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image as it is; `Unusable` where it has another shape."""
    if image.shape != (height, width):
        found = "x".join(str(number) for number in image.shape)
        raise Unusable(SHAPE, f"{found}, {height}x{width} was expected")
    return image
