"""What is wrong in a raw look-alike, on purpose: the kinds of fault that real downloads show."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

# Faults of one frame.
BLANK = "blank frame"
SPECK = "speck in place of a person"
CUT_OFF = "person cut off by the left border"
DAMAGED = "damaged image"
EMPTY_FILE = "empty image file"
# Faults of one sequence.
SHORT = "short sequence"
ALL_BLANK = "sequence of blank frames"
EMPTY = "empty sequence"
ABSENT = "absent sequence"
# Faults of pickles.
CUT_PICKLE = "pickle cut short"
FOREIGN_PICKLE = "pickle that asks for code to be run"
MISSING_PICKLE = "one pickle of the sequence missing"
UNEQUAL = "pickles of unequal length"
# Faults of SMPL estimates.
NO_SMPL = "frame without SMPL"
NO_SILHOUETTE = "SMPL without silhouette"
TWO_PEOPLE = "SMPL of two people"
CUT_SMPL = "SMPL file cut short"
FOREIGN_SMPL = "SMPL file that asks for code to be run"
NO_SMPL_FOLDER = "sequence without SMPL"

OF_SILHOUETTES = (BLANK, SPECK, CUT_OFF, DAMAGED, EMPTY_FILE, SHORT, ALL_BLANK, EMPTY, ABSENT)
# Sets of frames that are normalised already are taken as they are, blank ones too.
OF_NORMALISED = (DAMAGED, EMPTY_FILE, SHORT, EMPTY, ABSENT)
# After these nothing is left of the sequence.
FATAL = {ALL_BLANK, EMPTY, ABSENT, CUT_PICKLE, FOREIGN_PICKLE, MISSING_PICKLE, UNEQUAL, NO_SMPL_FOLDER}
# The field's preparation warns below five frames.
SHORT_FRAMES = 3
# Fewer than about 40 white pixels are no person.
_SPECK = 3
# Columns seen of a person whose centre is column 0 once its height is 64.
_COLUMNS_SEEN = 2


@dataclass(frozen=True)
class Fault:
    """One fault that was put in."""

    kind: str
    path: str
    """file or folder in the raw tree, from its top"""
    sequence: str
    """subject/type/view as the training layout names it"""


def encode(image: np.ndarray) -> bytes:
    """A grey image, uint8 [h, w], as a PNG file.

    Its rows go in as they are: trying out filters for each, as general encoders do, takes most of their time and gains
    nothing on silhouettes.
    """
    height, width = image.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each with a leading 0: no filter
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def spoiled_image(kind: str, content: bytes) -> bytes:
    """A PNG file with a fault of one frame."""
    if kind == DAMAGED:
        return content[: len(content) // 2]
    if kind == EMPTY_FILE:
        return b""
    image = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE))
    left, top, _, height = cv2.boundingRect(image)
    image[:] = 0
    if kind == SPECK:
        image[top : top + _SPECK, left : left + _SPECK] = 255
    elif kind == CUT_OFF:
        # As tall as the person was: a narrow strip at the border.
        image[top : top + height, :_COLUMNS_SEEN] = 255
    elif kind != BLANK:
        raise ValueError(f"'{kind}' is no fault of a frame")
    return encode(image)


class Foreign:
    """Pickled, this asks for a function to be called: what no data file may do. Its call would raise an error."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("a data file was able to call a function",)
