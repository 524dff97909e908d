from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opengait.synthetic.skeleton import JOINTS


@pytest.fixture
def motion_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a motion file of three people with three, two and one walks; keyword arguments replace its arrays."""

    def write(**replaced: np.ndarray | None) -> Path:
        from opengait.synthetic.body import mean_body
        from opengait.synthetic.gait import draw_gait
        from opengait.synthetic.keys import generator
        from opengait.synthetic.walking import walk

        people = ["anna", "anna", "anna", "ben", "ben", "cleo"]
        walks = []
        for index, name in enumerate(people):
            phase = index * 0.13 + np.arange(70) / 33
            gait = draw_gait(5, len(name) + ord(name[0]))
            walks.append(walk(mean_body(), gait, phase, generator(5, "walk", index)))
        arrays = {
            "positions": np.concatenate(walks).astype(np.float32),
            "start": np.arange(6) * 70,
            "length": np.full(6, 70),
            "subject": np.array(people),
            "joint_names": np.array(JOINTS),
            "fps": np.float32(30),
        }
        arrays.update(replaced)
        path = tmp_path / "motion.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return path

    return write
