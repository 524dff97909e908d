"""A small data set on disk, rebuilt for every test that asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickle_files import write_pickle


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENGAIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes subjects x types x views of silhouettes [s, 16, 12] with lengths from 5 to 12; gives the data_cfg."""

    def make(train: int = 5, test: int = 4, types: int = 2, views: int = 2, modalities: int = 1) -> dict[str, Any]:
        rng = np.random.default_rng(7)
        root = tmp_path / "data"
        names = [f"{number:03d}" for number in range(1, train + test + 1)]
        for name in names:
            for kind in range(types):
                for view in range(views):
                    folder = root / name / f"nm-{kind + 1:02d}" / f"{view * 90:03d}"
                    length = int(rng.integers(5, 13))
                    frames = rng.integers(0, 256, (length, 16, 12), dtype=np.uint8)
                    write_pickle(folder / "0_sil.pkl", frames)
                    if modalities > 1:
                        write_pickle(folder / "1_ratio.pkl", frames.mean((1, 2)))
                    if modalities > 2:
                        write_pickle(folder / "2_rgb.pkl", np.stack([frames, 255 - frames, frames], axis=1))
        partition = tmp_path / "partition.json"
        partition.write_text(json.dumps({"TRAIN_SET": names[:train], "TEST_SET": names[train:]}))
        return {"dataset_root": str(root), "dataset_partition": str(partition), "cache": False}

    return make
