"""One picture of many walkers: views across, conditions down, a few frames each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from opengait.synthetic import arguments
from opengait.synthetic.motion import load_motion
from opengait.synthetic.sequence import Settings, render_sequence

_LABEL, _SIDE, _GAP = 16, 44, 4


def contact_sheet(
    path: str | Path,
    *,
    subjects: Sequence[int] = (0, 1),
    types: Sequence[str] = ("nm-01", "bg-01", "bg-02", "cl-01", "cl-02"),
    views: Sequence[str] = ("000", "036", "072", "090", "126", "180"),
    frames: int = 4,
    step: int = 5,
    seed: int = 0,
    strength: float = 1.0,
    motion: str | Path | None = None,
) -> np.ndarray:
    """Draws a contact sheet: a row for each subject and type, in it `frames` frames of each view, `step` apart.

    Args:
        path: png file to write; its folder is made if absent.

    Returns:
        The picture, uint8 [h, w], dark walkers on white.

    Raises:
        ValueError: unknown type or view, or a bad motion file.
    """
    length = arguments.whole("frames", frames, 1) * arguments.whole("step", step, 1)
    walks = load_motion(motion) if motion is not None else None
    settings = Settings(
        seed=seed,
        render_seed=0,
        types=arguments.types(types),
        views=arguments.views(views),
        frames=(length, length),
        strength=arguments.strength(strength),
        own_body=walks is None,
        own_gait=True,
        motion=walks,
    )
    rows = [_header(settings.views, frames, settings.size)]
    for subject in subjects:
        rows += [_row(settings, subject, kind, frames, step) for kind in settings.types]
    sheet = np.vstack(rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), sheet)
    return sheet


def _header(views: tuple[str, ...], frames: int, size: int) -> np.ndarray:
    row = np.full((_LABEL, _SIDE + len(views) * (frames * size + _GAP)), 255, np.uint8)
    for index, view in enumerate(views):
        _write(row, view, _SIDE + index * (frames * size + _GAP) + frames * size // 2 - 12, 12)
    return row


def _row(settings: Settings, subject: int, kind: str, frames: int, step: int) -> np.ndarray:
    size = settings.size
    label = np.full((size, _SIDE), 255, np.uint8)
    _write(label, f"{subject + 1:03d}", 2, size // 2 - 4)
    _write(label, kind, 2, size // 2 + 12)
    cells = [label]
    for shown in render_sequence(settings, subject, kind).views.values():
        chosen = [255 - shown[min(index * step, len(shown) - 1)] for index in range(frames)]
        cells += [*chosen, np.full((size, _GAP), 255, np.uint8)]
    row = np.hstack(cells)
    row[-1] = np.minimum(row[-1], 225)
    return row


def _write(image: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, 60, 1, cv2.LINE_AA)
