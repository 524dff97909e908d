"""Embeddings of a whole test set, by sequence index, from any number of processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from opengait.data.batch import Batch
from opengait.engine.distributed import collect_rows, gather_counts, is_main
from opengait.engine.memory import FrameBudget
from opengait.engine.precision import Precision
from opengait.modeling.folding import folded

_GIB = 1 << 30

Reduce = Callable[[Mapping[str, torch.Tensor], Sequence[int]], Mapping[str, np.ndarray]]


def default_frames_per_batch(device: torch.device) -> int:
    """Frames of one test batch that a device holds with ease: by its memory on CUDA, few on a CPU for its caches."""
    if device.type != "cuda":
        return 512
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(min(16384, max(1024, 128 * (memory // _GIB))))


class Share(NamedTuple):
    """What one process has embedded: rows of features, and the index of each row's sequence."""

    features: dict[str, np.ndarray]
    indices: np.ndarray


def embed(
    model: nn.Module,
    loader: Iterable[Any],
    transforms: Any,
    total: int,
    *,
    device: torch.device,
    precision: Precision | None = None,
    progress: bool = True,
    reduce: Reduce | None = None,
    budget: FrameBudget | None = None,
) -> dict[str, np.ndarray] | None:
    """As `embed_share`; the main process gets all results.

    Returns:
        'embeddings' -> float32 [total, c, p], row i of sequence i; None on processes other than the first.

    Raises:
        ValueError: a sequence is missing or comes twice, or a tensor has not a row for each sequence.
    """
    share = embed_share(
        model,
        loader,
        transforms,
        total,
        device=device,
        precision=precision,
        progress=progress,
        reduce=reduce,
        budget=budget,
    )
    return _collect(share, total)


@torch.inference_mode()
def embed_share(
    model: nn.Module,
    loader: Iterable[Any],
    transforms: Any,
    total: int,
    *,
    device: torch.device,
    precision: Precision | None = None,
    progress: bool = True,
    reduce: Reduce | None = None,
    budget: FrameBudget | None = None,
) -> Share:
    """Runs a test loader's batches of this process through the network.

    Args:
        model: the network itself (not wrapped), on `device`; put into eval mode for the time of this call, its batch
            norms folded into the convolutions before them.
        loader: batches with `indices`; over all processes each of the `total` sequences comes once.
        transforms: evaluator transforms, for `model.prepare_inputs`.
        precision: what the forward pass computes in; fp32 by default.
        progress: show a bar, where the console is a terminal.
        reduce: makes rows of sequences out of a batch's `inference_feat` that has a row a frame, given the sequences'
            numbers of frames. Every batch is reduced as it comes: images of a whole test set fit no memory.
        budget: kept by the caller for further tests, so that they begin with batches that fit.

    Returns:
        'embeddings' -> float32 [n, c, p] of this process's n sequences (all tensors of `inference_feat` where it has no
        embeddings; with `reduce`, what that gives); nothing where it had none.

    Raises:
        ValueError: a tensor has not a row for each sequence, or there are more sequences than `total`.
        OutOfMemoryError: a single sequence does not fit the device.
    """
    precision, budget = precision or Precision("fp32", device), budget or FrameBudget()

    def rows_of(part: Batch) -> dict[str, torch.Tensor]:
        inputs = model.prepare_inputs(part.to(device), transforms)  # type: ignore[operator]
        with precision.autocast():
            features = model(inputs)["inference_feat"]
        return _rows(features, part, reduce)

    was_training = model.training
    model.eval()
    tables = _Tables(total)
    quiet = not (progress and is_main() and sys.stderr.isatty())
    with folded(model), tqdm(total=total, desc="Embedding", unit="seq", disable=quiet) as bar:
        for batch in loader:
            for part, rows in budget.apply(batch, rows_of):
                tables.add(rows, part.indices.cpu().numpy())
                bar.update(len(part))
    model.train(was_training)
    return tables.share()


class _Tables:
    """One array a feature, made for all sequences at the first batch; memory is taken as rows are filled."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._features: dict[str, np.ndarray] = {}
        self._indices: list[np.ndarray] = []
        self._filled = 0

    def add(self, rows: Mapping[str, torch.Tensor], indices: np.ndarray) -> None:
        stop = self._filled + len(indices)
        if stop > self._total:
            raise ValueError(f"the loader gives more than the {self._total} sequences of the test set")
        for name, value in rows.items():
            array = value.numpy()
            if name not in self._features:
                self._features[name] = np.empty((self._total, *array.shape[1:]), dtype=array.dtype)
            self._features[name][self._filled : stop] = array
        self._indices.append(indices)
        self._filled = stop

    def share(self) -> Share:
        indices = np.concatenate(self._indices) if self._indices else np.zeros(0, dtype=np.int64)
        return Share({name: table[: self._filled] for name, table in self._features.items()}, indices)


def _rows(features: Mapping[str, torch.Tensor], batch: Batch, reduce: Reduce | None) -> dict[str, torch.Tensor]:
    """What is kept of a batch, on the CPU: a row for each of its sequences."""
    if reduce is not None:
        frames = [batch.frames[0].shape[1]] * len(batch) if batch.lengths is None else batch.lengths[0].tolist()
        rows = {name: torch.from_numpy(value) for name, value in reduce(features, frames).items()}
    else:
        names = ["embeddings"] if "embeddings" in features else sorted(features)
        values = {name: features[name] for name in names}
        rows = {name: (value.float() if value.is_floating_point() else value).cpu() for name, value in values.items()}
    for name, value in rows.items():
        if len(value) != len(batch):
            raise ValueError(
                f"inference_feat '{name}' has {len(value)} rows for {len(batch)} sequences; expected one each"
            )
    return rows


def _collect(share: Share, total: int) -> dict[str, np.ndarray] | None:
    # A process without any batch (fewer batches than processes) still takes part in collecting.
    everyone = gather_counts([len(share.features)])
    if len({count for (count,) in everyone if count}) > 1:
        raise ValueError(f"processes hold different numbers of features: {everyone}")
    names = sorted(share.features) or ["embeddings"] * max(count for (count,) in everyone)
    result = {}
    for name in names:
        own = torch.from_numpy(share.features[name]) if share.features else torch.zeros(0)
        table = collect_rows(own, torch.from_numpy(share.indices), total)
        if table is not None:
            result[name] = table.numpy()
    return result if is_main() else None
