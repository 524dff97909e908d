"""A batch of silhouettes on its way to the network: what the training process's main thread spends on it.

Ours: uint8 frames chosen, copied, cut and collated in a worker, which hands them over in shared memory that is mapped
once and used again; the main thread takes the batch over and scales it in one pass. The plain form makes float frames
of every sequence in the main process and joins them. Both start from the same sequences, and the inputs are compared.
Processor time of the main thread (`time.thread_time`); torch has one thread, so that no part of the work hides in
others. Run from the project's root: `python benchmarks/pipeline.py`.

The plain form takes anything between 40 and 95 ms on one machine: its arrays are new each time, and what they cost
depends on whether the system has large pages left. Scaling in the workers too would bring 43 MB through shared memory
in place of 10.8, and to fill 43 MB alone takes half of the time that scaling does.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, table
from torch import Tensor

from opengait.data.dataset import GaitDataset
from opengait.data.loader import train_loader
from opengait.data.packing import PackedWriter
from opengait.data.transforms import build_transforms

TARGET = 10.0
CPU = torch.device("cpu")
SUBJECTS, SEQUENCES, FRAMES, LENGTH, SIZE = 8, 16, 30, 100, 64
SAMPLER = {
    "type": "TripletSampler",
    "batch_size": [SUBJECTS, SEQUENCES],
    "sample_type": "fixed_ordered",
    "frames_num_fixed": FRAMES,
    "frames_skip_num": 0,
}


def write(folder: Path) -> dict[str, str]:
    """A packed store and pickles of the same sequences, and the `data_cfg` of the store."""
    rng = np.random.default_rng(0)
    subjects = [f"{number:03d}" for number in range(SUBJECTS)]
    with PackedWriter(folder / "packed", ["silhouettes"]) as writer:
        for subject in subjects:
            for number in range(SEQUENCES):
                frames = np.where(rng.random((LENGTH, SIZE, SIZE)) < 0.3, 255, 0).astype(np.uint8)
                writer.add(subject, f"{number:02d}", "090", [frames])
                (folder / f"{subject}-{number:02d}.pkl").write_bytes(pickle.dumps(frames, protocol=4))
    (folder / "partition.json").write_text(json.dumps({"TRAIN_SET": subjects, "TEST_SET": []}))
    return {"dataset_root": str(folder / "packed"), "dataset_partition": str(folder / "partition.json")}


def plain_input(sequences: list[np.ndarray]) -> Tensor:
    """[n, s, 64, 44] float32 from raw frames, transformed one sequence after the other and stacked."""
    return torch.from_numpy(np.asarray([frames[..., 10:-10].astype(np.float32) / 255.0 for frames in sequences]))


def thirty_of(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        return pickle.load(file)[:FRAMES]


def measured(turns: int) -> dict[str, float]:
    """Median milliseconds of each step on the main thread."""
    transforms = build_transforms([{"type": "BaseSilCuttingTransform"}])
    found: dict[str, list[float]] = {"take": [], "transform": [], "plain": [], "plain with reading": []}
    with tempfile.TemporaryDirectory() as name:
        dataset = GaitDataset(write(Path(name)), training=True)
        loader = train_loader(dataset, SAMPLER, seed=0, num_workers=1, transforms=transforms)
        batches, whole = iter(loader), iter(train_loader(dataset, SAMPLER, seed=0))
        for _ in range(turns + 2):
            clock = [time.thread_time()]
            batch = next(batches)
            clock.append(time.thread_time())
            [ours] = transforms(batch)
            clock.append(time.thread_time())
            raw = list(next(whole).frames[0].numpy())  # the same batch as a loader gives it that knows no transform
            clock.append(time.thread_time())
            plain = plain_input(raw)
            clock.append(time.thread_time())
            torch.testing.assert_close(ours, plain, rtol=0, atol=0)
            names = [f"{dataset.labels[int(index)]}-{dataset.types[int(index)]}.pkl" for index in batch.indices]
            clock.append(time.thread_time())
            plain_input([thirty_of(Path(name, file)) for file in names])
            clock.append(time.thread_time())
            steps = clock[1] - clock[0], clock[2] - clock[1], clock[4] - clock[3], clock[6] - clock[5]
            for values, seconds in zip(found.values(), steps, strict=True):
                values.append(1e3 * seconds)
        loader.close()
    return {step: statistics.median(values[2:]) for step, values in found.items()}


def run(turns: int) -> list[dict[str, Any]]:
    """Table rows."""
    ms = measured(turns)
    on_cpu = ms["take"] + ms["transform"]
    return [
        {
            "plain form": form,
            "plain, ms": f"{plain:.1f}",
            "ours: take over, ms": f"{ms['take']:.2f}",
            "ours: scale on the CPU, ms": f"{ms['transform']:.1f}",
            "ratio": f"{plain / on_cpu:.1f}",
            "ratio where a GPU scales": f"{plain / ms['take']:.1f}",
            "target": TARGET,
        }
        for form, plain in (
            ("pickles read in the main process", ms["plain with reading"]),
            ("frames read by a worker", ms["plain"]),
        )
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--turns", type=int, default=9)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    rows = run(given.turns)
    print(", ".join(f"{key} {value}" for key, value in machine(CPU).items()))
    print(f"{SUBJECTS} x {SEQUENCES} x {FRAMES} x {SIZE} x {SIZE}, medians of {given.turns} turns")
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(CPU), "pipeline": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
