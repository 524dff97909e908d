"""Memory does not grow over iterations, and neither a data set, nor a sequence, nor their number has to fit into it."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_processes import HERE, process_environment
from engine_tiny import TYPES, VIEWS, tiny_config, write_tree
from leak_child import KINDS, READINGS

# Bytes that half of the rounds may add: caches that are still filling, and for each round. A batch has 37,000.
CACHES, PER_ROUND = 60_000, 100
ROUNDS, SUBJECTS = 30, 200  # of the short form; each subject has ten sequences
SIZE, LONG_SEQUENCE, CUT_TO = 64, 20_000, 100  # pixels; frames
FRAMES = 36  # of the other sequences
SPARE = 64 << 20  # bytes that the process of a store that does not fit may take

counts_memory = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 counts what is allocated"
)


def child(root: Path, *arguments: str) -> dict[str, Any]:
    # One arena without caches of threads, which holds Python's objects too: what is in use is known to the byte, and
    # what is freed can be used again.
    exact = {"MALLOC_ARENA_MAX": "1", "PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    done = subprocess.run(
        [sys.executable, str(HERE / "leak_child.py"), str(root), *arguments],
        env={**process_environment(), **exact},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check_flat(kind: str, measured: dict[str, list[int]], rounds: int) -> None:
    sizes, descriptors = measured["bytes"], measured["descriptors"]
    more = sizes[-1] - sizes[READINGS // 2 - 1]
    said = f"{kind}: {np.diff(sizes)} bytes more in {rounds // READINGS} rounds each"
    assert more < CACHES + PER_ROUND * rounds // 2, said
    assert descriptors[-1] <= descriptors[0] + 2, f"{kind}: {descriptors} files are open"


@counts_memory
@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_memory_stays_flat_for_long(tree: Path, kind: str) -> None:
    rounds = 300 if kind in ("evaluator", "passes") else 1200
    check_flat(kind, child(tree, str(rounds), kind)[kind], rounds)


def sparse_store(root: Path, subjects: int) -> Path:
    """A packed store of ten sequences a subject, whose frames take no disk; one of the first and last subject are long.

    A fifth of the subjects is for training.
    """
    store = root / "store"
    store.mkdir(parents=True)
    modality = {"name": "silhouettes", "dtype": "uint8", "shape": [SIZE, SIZE]}
    (store / "index.json").write_text(json.dumps({"version": 1, "modalities": [modality]}))
    names = [f"{number:05d}" for number in range(subjects)]
    rows = [(subject, kind, view) for subject in names for kind in sorted(TYPES) for view in VIEWS]
    lengths = np.full(len(rows), FRAMES)
    lengths[[0, -1]] = LONG_SEQUENCE
    columns = dict(zip(("subject", "type", "view"), np.array(rows).T, strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    unchecked = np.zeros(len(rows), dtype=np.uint32)
    np.savez(store / "sequences.npz", **columns, offset=offsets[:-1], length=lengths, crc32=unchecked)
    with (store / "frames-silhouettes.bin").open("wb") as frames:
        frames.truncate(int(offsets[-1]) * SIZE * SIZE)
    trained = subjects // 5
    (root / "sparse.json").write_text(json.dumps({"TRAIN_SET": names[:trained], "TEST_SET": names[trained:]}))
    return store


def write_larger(root: Path, subjects: int, times: int) -> None:
    """A store so many times larger than what its process may take, and its config."""
    store = sparse_store(root, subjects)
    assert (store / "frames-silhouettes.bin").stat().st_size > times * SPARE
    assert LONG_SEQUENCE * SIZE * SIZE > SPARE
    config = tiny_config(root, data_cfg__dataset_root=str(store), data_cfg__dataset_partition=str(root / "sparse.json"),
                         evaluator_cfg__sampler__frames_all_limit=CUT_TO)  # fmt: skip
    (root / "larger.json").write_text(json.dumps({"config": config.to_dict(), "spare": SPARE}))


def check_larger(found: dict[str, Any], subjects: int) -> None:
    """Batches were drawn and every sequence was tested."""
    assert found["limit_holds"]
    assert found["trained"] == 100 * 9 * 4
    count = 10 * (subjects - subjects // 5)
    assert found["tested"] == [count, 6]
    cut = f"1 of {count} sequences are cut to their first {CUT_TO} frames"
    assert any(line.startswith(cut) for line in found["said"]), found["said"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The short forms of all tests, in one process."""
    root = write_tree(tmp_path_factory.mktemp("memory"))
    write_larger(root, SUBJECTS, times=6)
    return child(root, str(ROUNDS), "trainer", "larger")


@counts_memory
@pytest.mark.slow
def test_memory_stays_flat(short: dict[str, Any]) -> None:
    check_flat("trainer", short["trainer"], ROUNDS)


@counts_memory
@pytest.mark.slow
def test_thousands_of_sequences_that_do_not_fit_into_memory(short: dict[str, Any]) -> None:
    check_larger(short["larger"], SUBJECTS)


@counts_memory
@pytest.mark.faults
def test_many_thousands_of_sequences_that_do_not_fit_into_memory(tmp_path: Path) -> None:
    write_larger(tmp_path, 2500, times=50)
    check_larger(child(tmp_path, "1", "larger")["larger"], 2500)
