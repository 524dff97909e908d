"""CASIA-B*: four pickles a sequence, taken as they are or not at all."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from memory_folder import MemoryFolder

from opengait.prepare.casia_b_star import (
    CUT,
    MISSING,
    NO_RATIO,
    SHAPE,
    UNEQUAL,
    UNSAFE,
    CasiaBStar,
)
from opengait.prepare.dataset import Planned, Prepared
from opengait.synthetic.raw.faults import Foreign

FRAMES = 6
SEQUENCE = Planned("001", "nm-01", "090", {})


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"aligned-sils": (64, 44), "rgbs": (3, 128, 128), "sils": (128, 128)}
    found = {name: rng.integers(0, 256, (FRAMES, *shape), dtype=np.uint8) for name, shape in shapes.items()}
    return {**found, "ratios": rng.uniform(0.2, 0.6, FRAMES)}


def prepare(content: dict[str, Any], **raw: bytes) -> Prepared:
    files = {name: pickle.dumps(array) for name, array in content.items()} | raw
    folder = MemoryFolder({f"090-{name}.pkl": data for name, data in files.items()})
    return CasiaBStar().prepare(SEQUENCE, {"silhouettes": folder}, None)


def test_arrays_are_kept_as_they_are_in_the_order_of_their_names():
    content = arrays()
    prepared = prepare(content)
    assert list(prepared.arrays) == ["090-aligned-sils.pkl", "090-ratios.pkl", "090-rgbs.pkl", "090-sils.pkl"]
    for name, array in content.items():
        np.testing.assert_array_equal(prepared.arrays[f"090-{name}.pkl"], array)
    assert (prepared.found, prepared.dropped) == (FRAMES, [])


def test_a_list_of_one_entry_a_frame_is_taken_as_the_array_that_it_is():
    content = arrays()
    lists = {"ratios": content["ratios"].tolist(), "sils": list(content["sils"])}
    prepared = prepare(content | lists)
    for name, array in content.items():
        np.testing.assert_array_equal(prepared.arrays[f"090-{name}.pkl"], array)
        assert prepared.arrays[f"090-{name}.pkl"].dtype == array.dtype


@pytest.mark.parametrize(
    ("name", "replacement", "reason"),
    [
        ("rgbs", None, MISSING),
        ("sils", b"cut", CUT),
        ("ratios", pickle.dumps(Foreign()), UNSAFE),
        ("aligned-sils", np.zeros((FRAMES, 64, 64), np.uint8), SHAPE),
        ("rgbs", np.zeros((FRAMES, 128, 128, 3), np.uint8), SHAPE),
        ("sils", np.zeros((FRAMES, 128, 128), np.float32), SHAPE),
        ("ratios", np.float64(1), SHAPE),
        ("sils", [np.zeros((128, 128), np.uint8), None], SHAPE),
        ("rgbs", np.zeros((FRAMES - 1, 3, 128, 128), np.uint8), UNEQUAL),
    ],
)
def test_one_pickle_that_cannot_be_used_costs_the_sequence(name, replacement, reason):
    content = arrays()
    del content[name]
    raw = {name: replacement} if isinstance(replacement, bytes) else {}
    if replacement is not None and not raw:
        content[name] = replacement
    prepared = prepare(content, **raw)
    assert prepared.arrays == {}
    assert [(frame.name, frame.reason) for frame in prepared.dropped] == [(f"090-{name}.pkl", reason)]
    assert prepared.found == FRAMES


def test_a_frame_without_a_ratio_is_dropped_from_all_four():
    content = arrays()
    content["ratios"][[1, 4]] = np.nan, 0
    prepared = prepare(content)
    assert [(frame.name, frame.reason) for frame in prepared.dropped] == [("frame 1", NO_RATIO), ("frame 4", NO_RATIO)]
    for name, array in content.items():
        np.testing.assert_array_equal(prepared.arrays[f"090-{name}.pkl"], array[[0, 2, 3, 5]])
    content["ratios"][:] = np.nan
    assert prepare(content).arrays == {}


def test_an_empty_folder_is_an_empty_sequence():
    assert prepare({}) == Prepared({}, 0, [])
