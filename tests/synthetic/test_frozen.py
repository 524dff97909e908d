"""The generator of silhouettes is frozen: figures measured on its data stay comparable."""

from __future__ import annotations

import pickle
import zlib

from opengait.synthetic import GENERATOR_VERSION, synthesize

# Of the version in the key; with another number of version comes another sum.
CHECKSUM = {1: 0x613DEE18}


def test_the_same_arguments_give_the_same_files_as_ever(tmp_path):
    report = synthesize(
        tmp_path / "walkers",
        1,
        seed=0,
        types=("nm-01", "bg-01", "bg-02", "cl-01"),
        views=("000", "054", "090", "162"),
        frames=(5, 7),
        workers=1,
        progress=False,
    )
    found = 0
    for path in sorted(report.out.rglob("*.*")):
        content = path.read_bytes()
        if path.suffix == ".pkl":
            frames = pickle.loads(content)
            # How NumPy pickles an array differs between its versions; what the array holds does not.
            assert content == pickle.dumps(frames, protocol=4)
            content = f"{frames.dtype} {frames.shape}".encode() + frames.tobytes()
        found = zlib.crc32(path.relative_to(report.out).as_posix().encode() + content, found)
    assert found == CHECKSUM[GENERATOR_VERSION]
