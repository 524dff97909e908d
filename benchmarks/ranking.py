"""What ranking costs: against a loop over probes, against the matrix products alone, and at OU-MVLP's scale.

    python benchmarks/ranking.py                   # all parts, about a quarter of an hour on two cores
    python benchmarks/ranking.py --part products   # one of: loop, products, memory, scale

Embeddings are random, `[n, 256, 62]`. Without any structure every rival is about as near as a positive, which is the
hardest case for telling them apart in single precision; `products` has the other case too, subjects four times as far
apart as sequences of one. Memory is the highest resident size of a process of its own beyond its embeddings.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measure import compare, median_seconds, seconds
from numpy.typing import NDArray
from plain import ranking as plain

from opengait.evaluation.distances import Distances
from opengait.evaluation.exchange import ALONE
from opengait.evaluation.memory import parse_memory
from opengait.evaluation.ranking import rank

CHANNELS, PARTS = 256, 62
OUMVLP = (72_156, 72_156, 5_154)  # probes, gallery, subjects
CPU = torch.device("cpu")
IntArray = NDArray[np.int64]


class Given:
    """A matrix that is there already, so that nothing but the ranking is measured."""

    device, exchange = CPU, ALONE

    def __init__(self, matrix: plain.Matrix) -> None:
        self.matrix = torch.from_numpy(matrix)

    def held(self, gallery: IntArray) -> IntArray:
        return np.arange(len(gallery))

    def rows(
        self, probes: IntArray, gallery: IntArray, *, bytes_per_pair: int = 4
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, len(probes), 100):
            yield slice(start, start + 100), self.matrix[start : start + 100]


def sequences(probes: int, gallery: int, subjects: int, spread: float = 0.0) -> tuple[NDArray[np.float32], IntArray]:
    """Embeddings, probes first, and subjects; `spread`: how far subjects lie apart."""
    rng = np.random.default_rng(0)
    embeddings = np.empty((probes + gallery, CHANNELS, PARTS), dtype=np.float32)
    labels = np.concatenate([np.arange(probes) % subjects, np.arange(gallery) % subjects])
    centres = spread * rng.standard_normal((subjects if spread else 1, CHANNELS, PARTS), dtype=np.float32)
    for start in range(0, len(embeddings), 256):
        some = embeddings[start : start + 256]
        rng.standard_normal(out=some, dtype=np.float32)
        if spread:
            some += centres[labels[start : start + 256]]
    return embeddings, labels


def against_loop(probes: int, gallery: int) -> list[str]:
    """Everything after the distances."""
    matrix = np.random.default_rng(0).random((probes, gallery), dtype=np.float32)
    subjects = gallery // 10
    labels = np.concatenate([np.arange(probes) % subjects, np.arange(gallery) % subjects])
    names = [f"{label:04d}" for label in labels]
    source, first, second = Given(matrix), np.arange(probes), np.arange(probes, probes + gallery)
    found = rank(source, first, second, labels)
    expected = plain.measures(matrix, names[:probes], names[probes:])
    # Random numbers of 24 bits tie now and then: ties count against the probe here, in any order there.
    np.testing.assert_allclose([found.measure(name).mean() for name in ("Rank-1", "mAP", "mINP")], expected, rtol=1e-5)
    ratio = compare(
        lambda: plain.measures(matrix, names[:probes], names[probes:]),
        lambda: rank(source, first, second, labels),
        CPU,
        turns=1,
        warm=0,
    )
    ours = median_seconds(lambda: rank(source, first, second, labels), CPU)
    return [
        f"| ranking after the distances, {probes:,} x {gallery:,} | {ratio.plain:.1f} s | {ours:.2f} s "
        f"| {ratio.plain / ours:.0f}x |"
    ]


def against_products(probes: int, gallery: int, kind: str, spread: float) -> str:
    """The whole, distances included."""
    embeddings, labels = sequences(probes, gallery, gallery // 10, spread)
    parts = torch.from_numpy(np.ascontiguousarray(embeddings.transpose(2, 0, 1)))
    out = torch.empty(probes, 500)

    def products() -> None:
        for part in parts:
            for some in part[probes:].split(500):
                torch.mm(part[:probes], some.T, out=out[:, : len(some)])

    def ranked() -> None:
        rank(Distances(embeddings), np.arange(probes), np.arange(probes, probes + gallery), labels)

    ratio = compare(ranked, products, CPU, turns=3, warm=0)
    return (
        f"| mAP and mINP with distances, {probes:,} x {gallery:,}, {kind} | products alone {ratio.ours:.1f} s "
        f"| {ratio.plain:.1f} s | {ratio.times:.2f} times the products |"
    )


def resident(name: str) -> float:
    """MiB: VmRSS now, or VmHWM, the highest since `forget_highest`."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1]) / 1024


def one_size(form: str, probes: int, gallery: int, subjects: int, memory: str) -> tuple[float, float]:
    """Seconds and MiB beyond the embeddings of one run in this process."""
    rank(Distances(np.ones((4, 2, 1), np.float32)), np.arange(2), np.arange(2, 4), np.zeros(4, np.int64))  # imports
    embeddings, labels = sequences(probes, gallery, subjects)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    views = np.arange(gallery) * 14 // gallery

    def work() -> None:
        if form == "whole matrices":
            names = [f"{label:05d}" for label in labels]
            plain.measures(plain.distances(embeddings[:probes], embeddings[probes:]), names[:probes], names[probes:])
            return
        distances = Distances(embeddings, memory=parse_memory(memory))
        segments = views if form == "14 views, Rank-1" else None
        places = np.arange(probes), np.arange(probes, probes + gallery)
        rank(distances, *places, labels, segments=segments, nearest_only=segments is not None)

    return seconds(work, CPU), resident("VmHWM") - before


def in_its_own_process(form: str, probes: int, gallery: int, subjects: int, memory: str, threads: int) -> list[str]:
    given = [str(value) for value in (form, probes, gallery, subjects, memory)]
    command = [sys.executable, __file__, "--threads", str(threads), "--one", *given]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    taken, beyond = float(told[0]), float(told[1])
    line = f"| {form} | {probes:,} x {gallery:,} | {taken:.1f} s | {beyond:,.0f} MiB |"
    if (probes, gallery) != OUMVLP[:2] and gallery == OUMVLP[1]:
        line += f" all {OUMVLP[0]:,} probes: {taken * OUMVLP[0] / probes / 60:.0f} min, extrapolated |"
    return [line if line.count("|") > 5 else f"{line} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("loop", "products", "memory", "scale"), help="one of the four; else all")
    parser.add_argument("--short", action="store_true", help="half as many without structure")
    parser.add_argument("--probes", type=int, default=2000)
    parser.add_argument("--gallery", type=int, default=20_000)
    parser.add_argument("--scale-probes", type=int, default=4096, help="of OU-MVLP's 72,156")
    parser.add_argument("--memory", default="1GB", help="budget of ranking")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        form, probes, gallery, subjects, memory = given.one
        sys.stdout.write("{} {}\n".format(*one_size(form, int(probes), int(gallery), int(subjects), memory)))
        return
    probes, gallery, threads = given.probes, given.gallery, given.threads
    began = time.monotonic()
    parts = [given.part] if given.part else ["loop", "products", "memory", "scale"]
    lines = [f"{platform.processor() or platform.machine()}, {threads} threads, torch {torch.__version__}", ""]
    if {"loop", "products"} & set(parts):
        lines += ["| what | plain | ours | |", "|---|---|---|---|"]
        lines += against_loop(probes, gallery) if "loop" in parts else []
    if "products" in parts:
        share = 2 if given.short else 1
        lines.append(against_products(probes, gallery, "subjects apart", 4.0))
        lines.append(against_products(probes // share, gallery // share, "no structure", 0.0))
    if {"memory", "scale"} & set(parts):
        lines += ["", "| form | probes x gallery | time | memory beyond the embeddings | |", "|---|---|---|---|---|"]
    if "memory" in parts:
        for form in ("whole matrices", "mAP and mINP"):
            lines += in_its_own_process(form, probes, gallery, gallery // 10, given.memory, threads)
    if "scale" in parts:
        for share in (4, 2, 1):
            size = given.scale_probes // share, OUMVLP[1] // share, OUMVLP[2] // share
            lines += in_its_own_process("14 views, Rank-1", *size, given.memory, threads)
        lines += in_its_own_process("mAP and mINP", given.scale_probes, *OUMVLP[1:], given.memory, threads)
    lines += ["", f"{time.monotonic() - began:.0f} s in all"]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
