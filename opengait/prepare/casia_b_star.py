"""CASIA-B*: CASIA-B segmented anew, handed out as four pickles a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from opengait.data import pickles
from opengait.data.errors import DataError, UnsafePickleError
from opengait.prepare.casia_b import CasiaB
from opengait.prepare.dataset import Planned, Prepared
from opengait.prepare.folders import FolderReader, UnreadableFile
from opengait.prepare.images import DroppedFrame, Unusable

# Reasons for dropping a sequence or a frame, as the report counts them.
MISSING, CUT, UNSAFE = "missing pickle", "unreadable pickle", "pickle that asks for code to be run"
SHAPE, UNEQUAL, NO_RATIO = "wrong kind of array", "pickles of unequal length", "ratio that is no positive number"


class _Kind(NamedTuple):
    """What one of the four pickles holds: one frame's shape, and the dtypes that it may have."""

    shape: tuple[int, ...]
    dtypes: str


# In the order of their names, which is the one that `data_in_use` counts in.
_FILES = {
    "aligned-sils": _Kind((64, 44), "u"),
    "ratios": _Kind((), "f"),
    "rgbs": _Kind((3, 128, 128), "u"),
    "sils": _Kind((128, 128), "u"),
}


class CasiaBStar(CasiaB):
    """`id/type/view/` with `V-aligned-sils.pkl`, `V-ratios.pkl`, `V-rgbs.pkl`, `V-sils.pkl`, V being the view.

    The frames are normalised already and kept as they are, as are the names. One pickle that cannot be used costs the
    sequence: which frames the others would have to do without is not known.
    """

    name = "CASIA-B*"
    expected = (
        "<id>/<type>/<view>/ with the pickles <view>-aligned-sils.pkl, <view>-ratios.pkl, <view>-rgbs.pkl and "
        "<view>-sils.pkl"
    )
    suffixes = (".pkl",)
    default_size: ClassVar[int | None] = None

    def prepare(self, sequence: Planned, sources: Mapping[str, FolderReader], size: int | None) -> Prepared:
        reader = sources["silhouettes"]
        names = self.frame_names(reader)
        if not names:
            return Prepared({}, 0, [])
        arrays: dict[str, np.ndarray] = {}
        dropped = []
        for what, kind in _FILES.items():
            name = f"{sequence.view}-{what}.pkl"
            try:
                arrays[name] = _frames(reader, name, kind, names)
            except Unusable as reason:
                dropped.append(DroppedFrame(name, *reason.args))
        lengths = {name: len(array) for name, array in arrays.items()}
        found = max(lengths.values(), default=0)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{count} in {name}" for name, count in lengths.items())
            dropped.append(DroppedFrame(min(lengths, key=lambda name: lengths[name]), UNEQUAL, told))
        if dropped:
            return Prepared({}, found, dropped)
        ratios = arrays[f"{sequence.view}-ratios.pkl"]
        usable = np.isfinite(ratios) & (ratios > 0)
        dropped = [DroppedFrame(f"frame {index}", NO_RATIO) for index in np.flatnonzero(~usable)]
        if dropped:
            arrays = {name: array[usable] for name, array in arrays.items()} if usable.any() else {}
        return Prepared(arrays, found, dropped)


def _frames(reader: FolderReader, name: str, kind: _Kind, names: list[str]) -> np.ndarray:
    """One pickle, first axis time; `Unusable` where it holds something else."""
    if name not in names:
        raise Unusable(MISSING)
    try:
        value: Any = pickles.parse(reader.read(name), name)
    except UnsafePickleError as error:
        raise Unusable(UNSAFE, str(error).removeprefix(f"{name}: ")) from error
    except (UnreadableFile, DataError) as error:
        raise Unusable(CUT, str(error).removeprefix(f"{name}: ")) from error
    if isinstance(value, list):  # one entry a frame
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise Unusable(SHAPE, f"a list of unequal entries: {error}"[:200]) from error
    if not isinstance(value, np.ndarray):
        raise Unusable(SHAPE, f"an array was expected, found {type(value).__name__}")
    if value.shape[1:] != kind.shape or not value.ndim or value.dtype.kind not in kind.dtypes:
        expected = "[" + ", ".join(["n", *map(str, kind.shape)]) + "]"
        raise Unusable(SHAPE, f"{value.dtype} {list(value.shape)}, {expected} was expected")
    return value
