"""Distances between embeddings, in rows of chunks under a memory budget.

Euclidean: the mean over parts of the length of the difference. Cosine: one minus the mean over parts of the cosine.

Products of matrices are the only affordable way at full scale, but `|x|^2 + |y|^2 - 2xy` loses digits for near vectors:
in single precision a vector of length 160 lies 0.03 from itself. So the products run in double precision on centred
vectors and only the result is rounded to float32. What is left of rounding noise is set to zero, so that equal
embeddings are at distance exactly 0 from each other and at equal distances from any third one: ties stay ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opengait.registry import nearest

METRICS = {"euc": "Euclidean", "cos": "cosine"}
DEFAULT_MEMORY = 1 << 30
# Squared distances below this share of the squared lengths are rounding noise of the products: sums over c terms err by
# about sqrt(c) * 2^-53, a thousandth of it. In length it is 2^-22, the resolution of the float32 embeddings themselves.
_NOISE = 2.0**-44
# On a CPU the passes over a block run twice as fast where the block stays near its caches.
_CACHED_PAIRS = 1 << 20
_LARGEST = torch.finfo(torch.float32).max


class Features(NamedTuple):
    """Some sequences made ready for products: centred parts, their squared lengths, and which parts are zero."""

    parts: Tensor  # [p, n, c] float64
    squares: Tensor  # [p, n] float64
    zero: Tensor  # [p, n] float64, 1 where a part has no direction (cosine only)


class Distances:
    """Distances between any two sets of sequences of one array of embeddings.

    Args:
        embeddings: `[n, c, p]` (or `[n, c]`: one part), any float type; an array, also memory-mapped, or a tensor on
            any device. They are taken as float32, half precision cast up, before anything is computed.
        metric: "euc" or "cos".
        device: where the products run; the CPU if the device has no double precision.
        memory: bytes that all chunks together may take beyond the embeddings.

    Raises:
        ValueError: unknown metric, wrong shape, nothing in it, no numbers, or values that are not finite in float32.
    """

    def __init__(
        self,
        embeddings: NDArray[np.generic] | Tensor,
        metric: str = "euc",
        *,
        device: str | torch.device = "cpu",
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        check_metric(metric)
        if embeddings.ndim == 2:
            embeddings = embeddings[:, :, None]
        if embeddings.ndim != 3 or 0 in tuple(embeddings.shape):
            raise ValueError(
                f"embeddings have shape {list(embeddings.shape)}; expected [n, c, p]: "
                "n sequences, c channels, p parts, none of them 0"
            )
        if not isinstance(embeddings, Tensor) and embeddings.dtype.kind not in "biuf":
            raise ValueError(f"embeddings are of type {embeddings.dtype}; expected floats")
        if memory <= 0:
            raise ValueError(f"memory is {memory} bytes; expected a positive number")
        self._embeddings = embeddings
        self.metric = metric
        self.device = torch.device(device)
        if self.device.type == "mps":  # has no double precision
            self.device = torch.device("cpu")
        self.memory = int(memory)
        self._row_bytes = 8 * int(embeddings.shape[1]) * int(embeddings.shape[2])
        self._check_finite()
        self._centre = self._mean()

    def __len__(self) -> int:
        return int(self._embeddings.shape[0])

    def rows(
        self, probes: NDArray[np.int64], gallery: NDArray[np.int64], *, bytes_per_pair: int = 4
    ) -> Iterator[tuple[slice, Tensor]]:
        """Distances from some probes at a time to the whole gallery.

        Args:
            probes, gallery: indices into the embeddings, `[n_probes]` and `[n_gallery]`.
            bytes_per_pair: memory that the caller's work on a chunk takes for each distance, the distance included.

        Yields:
            The slice of `probes`, and their distances `[rows, n_gallery]`, float32 on the device.
        """
        row_count, column_count = self._chunk_sizes(len(probes), len(gallery), bytes_per_pair)
        for start in range(0, len(probes), row_count):
            rows = slice(start, min(start + row_count, len(probes)))
            probe_features = self._features(probes[rows])
            distances = torch.empty(rows.stop - rows.start, len(gallery), dtype=torch.float32, device=self.device)
            for column in range(0, len(gallery), column_count):
                columns = slice(column, min(column + column_count, len(gallery)))
                distances[:, columns] = self._block(probe_features, self._features(gallery[columns]))
            yield rows, distances

    def _chunk_sizes(self, n_probes: int, n_gallery: int, bytes_per_pair: int) -> tuple[int, int]:
        """Rows and columns of a chunk: a third of the memory each for the result, both features, and the products."""
        third = self.memory // 3
        features = max(1, third // (4 * self._row_bytes))  # two sets, each with a copy while it is made
        rows = max(1, min(n_probes, features, third // max(1, n_gallery * bytes_per_pair)))
        columns = min(n_gallery, features, third // (rows * 32))  # 32: four double matrices in `_block`
        if self.device.type == "cpu":
            columns = min(columns, max(256, _CACHED_PAIRS // rows))
        return rows, max(1, columns)

    def _take(self, indices: NDArray[np.int64] | slice) -> Tensor:
        """Rows of the embeddings as `[p, n, c]` float64 on the device, through float32."""
        if isinstance(self._embeddings, Tensor):
            index = indices if isinstance(indices, slice) else torch.as_tensor(indices, device=self._embeddings.device)
            rows = self._embeddings.detach()[index].to(self.device, torch.float32)
        else:
            rows = torch.from_numpy(np.array(self._embeddings[indices], dtype=np.float32)).to(self.device)
        parts = rows.permute(2, 0, 1).to(torch.float64, memory_format=torch.contiguous_format)
        if self.metric == "cos":
            length = parts.norm(dim=2, keepdim=True)
            parts = parts / torch.where(length > 0, length, torch.ones_like(length))
        return parts

    def _features(self, indices: NDArray[np.int64]) -> Features:
        parts = self._take(indices)
        directionless = (parts == 0).all(dim=2) if self.metric == "cos" else torch.zeros_like(parts[..., 0])
        parts = parts - self._centre
        return Features(parts, parts.square().sum(dim=2), directionless.to(torch.float64))

    def _block(self, probe: Features, gallery: Features) -> Tensor:
        """Distances `[n_probes, n_gallery]`, float32; part after part: all at once would take p times as much."""
        parts_num = len(probe.parts)
        total = probe.parts.new_zeros(probe.parts.shape[1], gallery.parts.shape[1])
        for part in range(parts_num):
            lengths = probe.squares[part, :, None] + gallery.squares[part]
            squared = torch.addmm(lengths, probe.parts[part], gallery.parts[part].T, alpha=-2)
            squared.masked_fill_(squared <= lengths.mul_(_NOISE), 0)
            if self.metric == "euc":
                total += squared.sqrt_()
            else:  # 1 - xy = |x - y|^2 / 2 for unit vectors; a part without direction has product 0, so distance 1
                total += squared.mul_(0.5) + 0.5 * (probe.zero[part, :, None] + gallery.zero[part])
        return total.div_(parts_num).clamp_(max=_LARGEST).to(torch.float32)

    def _spans(self) -> Iterator[slice]:
        step = max(1, self.memory // (4 * self._row_bytes))
        return (slice(start, min(start + step, len(self))) for start in range(0, len(self), step))

    def _check_finite(self) -> None:
        bad: list[int] = []
        for span in self._spans():
            # As float32, which is what gets compared: a larger number would be infinite there.
            if isinstance(self._embeddings, Tensor):
                finite = torch.isfinite(self._embeddings[span].to(torch.float32))
            else:
                with np.errstate(over="ignore"):
                    finite = torch.from_numpy(np.isfinite(np.asarray(self._embeddings[span], dtype=np.float32)))
            bad += [span.start + int(i) for i in torch.nonzero(~finite.flatten(1).all(dim=1)).flatten()]
        if bad:
            raise ValueError(
                f"embeddings of {len(bad)} of {len(self)} sequences hold NaN or infinite values, the first at index "
                f"{bad[0]}; expected numbers that are finite in float32. The network diverged, or overflowed in half "
                "precision."
            )

    def _mean(self) -> Tensor:
        """The mean `[p, 1, c]` of what is compared; taken away from both sides it changes no distance."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for span in self._spans():
            total = total + self._take(span).sum(dim=1, keepdim=True)
        return total / len(self)


def check_metric(metric: str) -> None:
    """Refuses a metric that does not exist.

    Raises:
        ValueError: not "euc" or "cos"; the message says the nearest.
    """
    if metric not in METRICS:
        near = nearest(str(metric), METRICS)
        hint = f" (did you mean '{near}'?)" if near else ""
        raise ValueError(f"unknown metric '{metric}'{hint}; expected one of: {', '.join(METRICS)}")
