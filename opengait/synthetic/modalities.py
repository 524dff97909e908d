"""What is kept of a sequence beside, or in place of, its normalised silhouettes: the files of other data sets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from opengait.prepare import normalize_parsing
from opengait.synthetic.colour import Painter
from opengait.synthetic.keys import generator
from opengait.synthetic.parts import Parts
from opengait.synthetic.sequence import SILHOUETTES, Scene, Settings, Shot, shots, stacked, stage
from opengait.synthetic.smpl import smpl_vectors

WITH_SMPL, SQUARES, PARSING, UNLABELLED = ("silhouettes", "smpl"), ("casiab*",), ("parsing",), ("unlabelled",)
# Sets that can be asked for, and which published data set has such files.
MODALITIES = {
    SILHOUETTES: "as CASIA-B",
    WITH_SMPL: "as Gait3D",
    SQUARES: "as CASIA-B*: aligned silhouettes, ratios, RGB frames and masks",
    PARSING: "as Gait3D-Parsing: maps of body parts",
    UNLABELLED: "as GaitLU-1M",
}
SQUARE = 128
# Columns cut off each side of a frame 64 wide.
_SIDE = 10
# GaitLU-1M's top folders are 000 to 099.
_TOP_FOLDERS = 100


class Files(NamedTuple):
    """View -> arrays in the order of `file_names`, and the recorded piece shown, as (walk, start, stop), if any."""

    views: dict[str, list[np.ndarray]]
    source: tuple[str, int, int] | None


def file_names(modalities: tuple[str, ...], folder: Path) -> list[str]:
    """Files in the folder of a sequence; sorted, which is the order that `data_in_use` counts in."""
    view = folder.name
    if modalities == WITH_SMPL:
        return [f"sils-{view}.pkl", f"smpls-{view}.pkl"]
    if modalities == SQUARES:
        return [f"{view}-{name}.pkl" for name in ("aligned-sils", "ratios", "rgbs", "sils")]
    if modalities == UNLABELLED:
        return ["_".join(folder.parts[-3:]) + ".pkl"]
    return [f"{view}.pkl"]


def unlabelled_folder(settings: Settings, subject: int, kind: str, view: str) -> tuple[str, str, str]:
    """Three random numbers in place of subject, type and view; they say nothing of who walks there."""
    rng = generator(settings.seed, "unlabelled", settings.render_seed, subject, kind, view)
    return f"{rng.integers(_TOP_FOLDERS):03d}", f"{rng.integers(100_000):05d}", f"{rng.integers(1_000_000):06d}"


def render_files(settings: Settings, subject: int, kind: str) -> Files:
    """All files of a sequence.

    Args:
        settings: of the data set; `modalities` is a key of MODALITIES.
        subject: number of the subject, from 0.
        kind: the sequence's type, such as `cl-02`.
    """
    scene = stage(settings, subject, kind)
    views = {}
    for number, view in enumerate(settings.views):
        if settings.modalities == SQUARES:
            views[view] = _squares(settings, subject, kind, scene, number)
            continue
        if settings.modalities == PARSING:
            views[view] = [_parsing_maps(scene, number, settings.size)]
            continue
        seen = list(shots(scene, number, settings.size))
        frames = stacked([shot.frame for shot in seen], (settings.size, settings.size))
        views[view] = [_narrow(frames)] if settings.modalities == UNLABELLED else [frames]
        if settings.modalities == WITH_SMPL:
            rng = generator(settings.seed, "smpl", settings.render_seed, subject, kind, view)
            kept = np.array([shot.place for shot in seen], dtype=int)
            views[view].append(smpl_vectors(scene.joints, scene.body, scene.cameras, number, rng)[kept])
    return Files(views, scene.source)


def _narrow(frames: np.ndarray) -> np.ndarray:
    """[s, 64, 64] -> [s, 64, 44]"""
    return np.ascontiguousarray(frames[:, :, _SIDE:-_SIDE])


def _squares(settings: Settings, subject: int, kind: str, scene: Scene, number: int) -> list[np.ndarray]:
    """CASIA-B*'s four arrays of one view: aligned silhouettes [s, 64, 44], width / height of the person's box [s], the
    box's pixels [s, 3, 128, 128] in RGB and its mask [s, 128, 128], both squeezed to a square."""
    # Colours are the sequence's own, so that no subject is told apart by them.
    key = (settings.render_seed, subject, kind)
    wardrobe = generator(settings.seed, "colours", *key)
    scenery = generator(settings.seed, "scenery", *key, settings.views[number])
    painter = Painter(scene, number, wardrobe, scenery)
    frames, ratios, colours, masks = [], [], [], []
    for shot in shots(scene, number, settings.size):
        left, top, width, height = cv2.boundingRect(shot.mask)
        box = (slice(top, top + height), slice(left, left + width))
        frames.append(shot.frame)
        ratios.append(width / height)
        colours.append(_square(painter.paint(shot.place, box), cv2.INTER_LINEAR).transpose(2, 0, 1))
        masks.append(_square(_cut(shot, box), cv2.INTER_NEAREST))
    return [
        _narrow(stacked(frames, (settings.size, settings.size))),
        np.array(ratios, dtype=np.float64),
        np.ascontiguousarray(stacked(colours, (3, SQUARE, SQUARE))),
        stacked(masks, (SQUARE, SQUARE)),
    ]


def _parsing_maps(scene: Scene, number: int, size: int) -> np.ndarray:
    """Classes of body parts, uint8 [s, size, size]."""
    parts = Parts(scene, number)
    maps = [normalize_parsing(parts.classes(shot.place, shot.mask), size) for shot in shots(scene, number, size)]
    return stacked([one for one in maps if one is not None], (size, size))


def _cut(shot: Shot, box: tuple[slice, slice]) -> np.ndarray:
    return np.ascontiguousarray(shot.mask[box])


def _square(image: np.ndarray, interpolation: int) -> np.ndarray:
    return cv2.resize(image, (SQUARE, SQUARE), interpolation=interpolation)
