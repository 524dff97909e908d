"""Files to hand in where a benchmark keeps the truth to itself."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opengait.evaluation.protocol import Submission


def submission_text(
    submission: Submission,
    views: NDArray[np.str_],
    labels: NDArray[np.str_],
    nearest: Iterable[tuple[slice, NDArray[np.int64]]],
) -> str:
    """The file's text: a line for each probe with its view (the video's name) and the nearest gallery labels.

    Args:
        views: of the probes, `[n_probes]`.
        labels: of the gallery, `[n_gallery]`; with fewer sequences than ranks in the header the columns end there.
        nearest: slices of the probes, in order, with positions in the gallery of the nearest, nearest first,
            `[rows, ranks]`.

    Raises:
        ValueError: a label is no number where the file wants integers.
    """
    if submission.integer_labels:
        odd = [label for label in np.unique(labels) if not str(label).isdecimal()]
        if odd:
            raise ValueError(f"gallery label '{odd[0]}' is not a number; {submission.folder} files hold integer labels")
        labels = np.array([str(int(label)) for label in labels], dtype=np.str_)
    lines = [",".join(submission.header[: len(labels) + 1])]
    for span, columns in nearest:
        for view, found in zip(views[span], columns, strict=True):
            lines.append(",".join([str(view), *labels[found]]))
    return "\n".join(lines) + "\n"


def write_submission(text: str, folder: Path) -> Path:
    """Writes the text under the time of day, never over another file."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("%Y-%m%d-%H%M%S")
    for attempt in range(1000):
        path = folder / (f"{stem}-{attempt}.csv" if attempt else f"{stem}.csv")
        try:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{folder} has a thousand results of {stem}; none was overwritten")
