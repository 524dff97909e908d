"""Batch-all triplet loss, forward and backward behind the distances, against the form that writes every triplet out.

Counts, losses and gradients are compared before anything is timed. The bound: reading and writing the distances and
their gradient, and sorting n values for each of p n anchors. Run from the project's root:
`python benchmarks/triplet.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from measure import compare, machine, table
from plain.losses import triplet_of_distances
from torch import Tensor

from opengait.modeling.losses.triplet import TripletLoss, pairwise_distances

PARTS, EACH, MARGIN = 62, 16, 0.2
TARGETS = {128: 3.0, 512: 5.0}


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of tensors that are alive at once, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.most = max(self.most, sum(self.alive.values()))
            torch.utils.weak.weakref.finalize(storage, self.alive.pop, key, None)


def distances(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[p, n, n] of embeddings that are being trained: most triplets are not yet zero; labels [n]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n // EACH).repeat_interleave(EACH)
    centres = torch.randn(n // EACH, 32, PARTS, generator=generator)[labels]
    embeddings = (centres + 2 * torch.randn(n, 32, PARTS, generator=generator)) / 40
    return pairwise_distances(embeddings.permute(2, 0, 1)).to(device), labels.to(device)


def measure(n: int, device: torch.device, turns: int) -> dict[str, Any]:
    """One batch size's row."""
    fixed, labels = distances(n, device)
    loss = TripletLoss(MARGIN)

    def gradient(function: Any) -> tuple[Tensor, Tensor, Tensor]:
        leaf = fixed.clone().requires_grad_()
        value, count = function(leaf)
        value.mean().backward()
        assert leaf.grad is not None
        return value.detach(), count, leaf.grad

    def ours(d: Tensor) -> tuple[Tensor, Tensor]:
        value, info = loss.of_distances(d, labels)
        return value, info["loss_num"]

    def plain(d: Tensor) -> tuple[Tensor, Tensor]:
        return triplet_of_distances(d, labels, MARGIN)

    found, expected = gradient(ours), gradient(plain)
    same = labels[:, None] == labels[None, :]
    exact = sum(((fixed[:, a, same[a], None] + MARGIN) > fixed[:, a, None, ~same[a]]).sum((1, 2)) for a in range(n))
    if not torch.equal(found[1].long(), torch.as_tensor(exact)):
        raise ArithmeticError("the number of non-zero triplets differs from (d_ap + margin) > d_an")
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-3, atol=1e-7)
    peaks = []
    for form in (plain, ours):
        with Peak() as peak:
            gradient(form)
        peaks.append(peak.most - fixed.nbytes)  # beyond the distances themselves
    ratio = compare(lambda: gradient(plain), lambda: gradient(ours), device, turns)
    return {
        "n": n,
        "p": PARTS,
        "plain, ms": f"{1e3 * ratio.plain:.0f}",
        "ours, ms": f"{1e3 * ratio.ours:.0f}",
        "ratio": f"{ratio.times:.1f}",
        "target": TARGETS.get(n, "-"),
        "memory beyond, plain / ours, MB": f"{peaks[0] / 1e6:.0f} / {peaks[1] / 1e6:.0f}",
        "ours / plain": f"{peaks[1] / peaks[0]:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, action="append", help="batch size, a multiple of 16; repeatable")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = [measure(n, device, arguments.turns) for n in arguments.n or sorted(TARGETS)]
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(device), "triplet": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
