"""Frames kept on a device: the batches are those of a loader, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opengait.data import resident as room
from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.loader import train_loader
from opengait.data.packing import PackedWriter
from opengait.data.resident import ResidentFrames, resident_bytes, resident_obstacle
from opengait.data.transforms import build_transforms
from opengait.data.tree_packing import pack_tree

CPU = torch.device("cpu")
Make = Callable[..., dict[str, Any]]
FIXED = {"type": "TripletSampler", "batch_size": [3, 2], "sample_type": "fixed_unordered", "frames_num_fixed": 7}
UNFIXED = FIXED | {"sample_type": "unfixed_ordered", "frames_num_min": 3, "frames_num_max": 8, "frames_skip_num": 2}
TWO_VIEWS = FIXED | {"type": "BilateralSampler"}
ALL = FIXED | {"sample_type": "all_ordered", "compat": "reference"}


def packed(make_tree: Make, **options: Any) -> dict[str, Any]:
    cfg = make_tree(**options)
    return cfg | {"dataset_root": str(pack_tree(cfg["dataset_root"], progress=False).out)}


def assert_equal(found: Batch, expected: Batch) -> None:
    one, other = vars(found), vars(expected)
    for name in one:
        if name == "frames":
            assert [frames.dtype for frames in one[name]] == [frames.dtype for frames in other[name]]
            assert all(torch.equal(*pair) for pair in zip(one[name], other[name], strict=True))
        elif isinstance(one[name], torch.Tensor):
            assert torch.equal(one[name], other[name]), name
        else:
            assert one[name] == other[name], name


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampler_cfg", [FIXED, UNFIXED, TWO_VIEWS, ALL], ids=lambda cfg: cfg["sample_type"])
def test_batches_are_those_of_a_loader(
    make_tree: Make, sampler_cfg: dict[str, Any], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three modalities, of uint8 and float64; each process's share, from the start and from the middle."""
    monkeypatch.setattr(room, "STRETCH", 5000)  # in many parts, also of one sequence
    dataset = GaitDataset(packed(make_tree, modalities=3), training=True)
    resident = ResidentFrames(dataset, CPU)
    for place in ({}, {"rank": 1, "world_size": 2, "start_iteration": 2}):
        given = {"seed": 5, "end_iteration": 4, **place}
        expected = list(train_loader(dataset, sampler_cfg, **given))
        found = train_loader(resident.rows, sampler_cfg, num_workers=workers, **given)
        for one, other in zip(found, expected, strict=True):
            assert_equal(resident.batch(one), other)
        found.close()


def test_only_the_split_and_the_modalities_in_use_are_kept(make_tree: Make) -> None:
    cfg = packed(make_tree, modalities=3) | {"data_in_use": [2, 0]}
    dataset = GaitDataset(cfg, training=True)
    resident = ResidentFrames(dataset, CPU)
    frames = int(dataset.lengths().sum())
    assert resident.bytes == resident_bytes(dataset) == frames * (3 + 1) * 16 * 12
    [expected], [rows] = (
        list(train_loader(which, FIXED, seed=0, end_iteration=1)) for which in (dataset, resident.rows)
    )
    assert_equal(resident.batch(rows), expected)


@pytest.mark.parametrize("dtype", ["uint16", "bool", "float16"])
def test_frames_of_any_dtype_and_order_in_the_files(tmp_path: Path, dtype: str) -> None:
    """Sequences are written in another order than they are sorted in; a frame is 3 x 5 or a single number."""
    rng = np.random.default_rng(0)
    with PackedWriter(tmp_path / "packed", ["image", "number"]) as writer:
        for subject in ("b", "c", "a"):
            for view in ("090", "000"):
                arrays = [rng.integers(0, 200, (6, *shape)).astype(dtype) for shape in ((3, 5), ())]
                writer.add(subject, "nm-01", view, arrays)
    cfg = {"dataset_root": str(tmp_path / "packed"), "dataset_partition": {"train": ["c", "a"], "test": ["b"]}}
    dataset = GaitDataset(cfg, training=True)
    resident = ResidentFrames(dataset, CPU)
    sampler_cfg = FIXED | {"batch_size": [2, 2], "frames_num_fixed": 4}
    [expected], [rows] = (
        list(train_loader(which, sampler_cfg, seed=0, end_iteration=1)) for which in (dataset, resident.rows)
    )
    assert_equal(resident.batch(rows), expected)


def half(frames: np.ndarray) -> np.ndarray:
    return frames / 2


def test_what_cannot_be_kept_is_said_with_what_helps(make_tree: Make) -> None:
    tree = make_tree()
    on_device, on_arrays = build_transforms([None]), build_transforms([None])
    on_arrays.transforms[0] = build_transforms_on_arrays()
    dataset = GaitDataset(tree, training=True)
    assert f"opengait pack {dataset.root}" in (resident_obstacle(dataset, tree, on_device) or "")
    cfg = tree | {"dataset_root": str(pack_tree(tree["dataset_root"], progress=False).out)}
    dataset = GaitDataset(cfg, training=True)
    assert resident_obstacle(dataset, cfg, on_device) is None
    assert "transform half works on arrays" in (resident_obstacle(dataset, cfg, on_arrays) or "")
    assert "data_cfg.cache" in (resident_obstacle(dataset, cfg | {"cache": True}, on_device) or "")
    assert "inputs_pretreament" in (resident_obstacle(dataset, cfg, None) or "")


def build_transforms_on_arrays() -> Any:
    from opengait.data.transforms.arrays import OnArrays

    return OnArrays(half, "half")


def test_points_of_unequal_numbers_are_refused(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "packed", ["points"]) as writer:
        writer.add("a", "nm-01", "000", [[np.zeros((count, 3)) for count in (2, 4)]])
    cfg = {"dataset_root": str(tmp_path / "packed"), "dataset_partition": {"train": ["a"]}}
    assert "points" in (resident_obstacle(GaitDataset(cfg, training=True), cfg, build_transforms([None])) or "")
