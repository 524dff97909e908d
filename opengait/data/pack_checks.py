"""What a packed store takes: where it may be put, and which frames go together."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from opengait.data.errors import DataError
from opengait.data.packed import is_packed
from opengait.data.packed_index import DTYPES, INDEX, MODALITY_NAME, SEQUENCES, Modality
from opengait.data.store import Frames

Shape = tuple[int | None, ...]


def check_free(out: Path, force: bool) -> None:
    """Whether a store may be put at `out`.

    Raises:
        DataError: there is something else than an empty folder, or, with `force`, than a packed store.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise DataError(f"{out}: is a file; a packed store is a folder")
    found = sorted(os.listdir(out))
    if not found:
        return
    if not is_packed(out):
        raise DataError(f"{out}: holds {found[0]} and is no packed store; choose another folder")
    if not force:
        raise DataError(f"{out}: holds a packed store already; force replaces it (--force)")
    others = [name for name in found if name not in (INDEX, SEQUENCES) and not _is_frames_file(name)]
    if others:
        raise DataError(f"{out}: holds {others[0]} beside the packed store; move it before the store is replaced")


def check_names(names: list[str]) -> None:
    """Whether modalities may be called so.

    Raises:
        DataError: none, a name that makes no file, or the same name twice.
    """
    if not names:
        raise DataError("a packed store has one modality or more")
    for name in names:
        if not MODALITY_NAME.fullmatch(name):
            raise DataError(f"{name!r} is no name of a modality: up to 100 letters, digits, '.', '_', '-'")
    if len({name.casefold() for name in names}) < len(names):
        raise DataError(f"the modalities {', '.join(names)} need different names")


def stacked(frames: Frames) -> Frames:
    """A list of equal frames is an array of them."""
    if isinstance(frames, list) and len({(frame.shape, frame.dtype) for frame in frames}) == 1:
        return np.stack(frames)
    return frames


def kind_of(name: str, frames: Frames, known: Modality | None, where: str) -> Modality:
    """What a modality is with these frames, which are as those before (`known`); `where` begins messages.

    Raises:
        DataError: frames unlike one another or those before, or no numbers.
    """
    where = f"{where}, modality {name}"
    shape: Shape
    dtype, shape = _points(frames, where) if isinstance(frames, list) else (frames.dtype, frames.shape[1:])
    dtype = dtype.newbyteorder("=")
    if dtype.name not in DTYPES:
        raise DataError(f"{where}: dtype {dtype}; expected one of {', '.join(DTYPES)}")
    if known is not None and dtype != known.dtype:
        raise DataError(f"{where}: frames of dtype {dtype}, those before have {known.dtype}")
    if known is not None and shape != known.shape:
        if not shape or not known.shape or shape[1:] != known.shape[1:] or None not in (shape[0], known.shape[0]):
            raise DataError(f"{where}: frames of shape {_sizes(shape)}, those before have {_sizes(known.shape)}")
        shape = (None, *shape[1:])  # equal numbers of points by chance, here or in all sequences before
    if 0 in shape:
        raise DataError(f"{where}: frames of shape {_sizes(shape)} hold nothing")
    return Modality(name, dtype.newbyteorder("<"), shape)


def _points(frames: list[np.ndarray], where: str) -> tuple[np.dtype, Shape]:
    """Dtype and shape of frames [points, ...] that differ in their number of points."""
    shapes, dtypes = {frame.shape[1:] for frame in frames}, {frame.dtype for frame in frames}
    if len(shapes) > 1 or len(dtypes) > 1 or any(frame.ndim < 1 or frame.dtype.kind != "f" for frame in frames):
        raise DataError(f"{where}: frames differ; only point clouds (floats) may, in their number of points")
    return dtypes.pop(), (None, *shapes.pop())


def _sizes(shape: Shape) -> str:
    return str(["any" if size is None else size for size in shape]).replace("'", "")


def _is_frames_file(name: str) -> bool:
    return name.startswith("frames-") and name.endswith(".bin")
