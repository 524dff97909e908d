"""What to change, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator

from opengait.engine.bench.run import Bench

BRINGING = ("read", "collate", "copy")  # parts that a device which holds the frames is spared
WAITING = 0.05
WORTH_IT = 1.1


def advice(found: Bench) -> list[str]:
    """One sentence a finding: workers, data, precision, batch. Never empty."""
    return [*_workers(found), *_data(found), *_precision(found), *_batch(found)]


def _workers(found: Bench) -> Iterator[str]:
    reading = found.parts["read"].seconds + found.parts["collate"].seconds
    computing = sum(cost.seconds for cost in found.parts.values()) - reading
    # One more than keeps up, since workers and this process share processors and disks.
    enough = min(max(1, found.cores - 1), math.ceil(reading / computing) + 1)
    share = found.waited / found.trained
    if share < WAITING:
        yield (
            f"workers: {found.workers} are enough, training waits {100 * share:.1f} % of the time for its batches "
            f"(a batch takes {1e3 * reading:.1f} ms to read, the rest of an iteration {1e3 * computing:.1f} ms)"
        )
    elif found.workers < enough:
        yield (
            f"workers: training waits {100 * share:.0f} % of the time for its batches; data_cfg.num_workers: {enough} "
            f"(now {found.workers}) reads ahead"
        )
    else:
        yield (
            f"workers: training waits {100 * share:.0f} % of the time for its batches with {found.workers} workers on "
            f"{found.cores} processors; data_cfg.cache: true, or a packed store (opengait pack), makes reading cheaper"
        )


def _data(found: Bench) -> Iterator[str]:
    if found.could_stay and found.slowest in BRINGING:
        yield (
            f"data: {found.slowest} is the slowest part; data_cfg.resident: auto keeps the frames in the device's "
            "memory, where they fit, and gathers batches there"
        )


def _precision(found: Bench) -> Iterator[str]:
    if found.precision != "fp32":
        yield f"precision: {found.precision} is in use"
    elif "bf16" not in found.compute:
        yield "precision: this device emulates bf16, fp32 is the fastest it has"
    else:
        gain = found.compute["as it is"] / found.compute["bf16"]
        what = "trainer_cfg.precision: bf16" if gain > WORTH_IT else "fp32 stays the choice; bf16"
        yield f"precision: {what} computes {gain:.2f} times as fast as fp32"


def _batch(found: Bench) -> Iterator[str]:
    rate = found.sequences / found.compute["as it is"]
    changed = {"half the batch": 0.5, "twice the batch": 2.0}
    gains = {
        name: found.sequences * factor / found.compute[name] / rate
        for name, factor in changed.items()
        if name in found.compute
    }
    if not gains:
        yield "batch: other sizes were not measured with this sampler"
        return
    best = max(gains, key=lambda name: gains[name])
    told = ", ".join(f"{name} {100 * gain:.0f} %" for name, gain in gains.items())
    if gains[best] <= WORTH_IT:
        yield f"batch: its size makes no difference to speed (sequences a second against now: {told})"
    else:
        yield f"batch: {best} is worth a trial (sequences a second against now: {told}); it changes what is learnt"
