"""Embeddings of a whole test set, by sequence index, from any number of processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from opengait.engine.distributed import collect_rows, gather_counts, is_main
from opengait.engine.precision import Precision

_GIB = 1 << 30

Reduce = Callable[[Mapping[str, torch.Tensor], Sequence[int]], Mapping[str, np.ndarray]]


def default_frames_per_batch(device: torch.device) -> int:
    """Frames of one test batch that a device holds with ease: by its memory on CUDA, few on a CPU for its caches."""
    if device.type != "cuda":
        return 512
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(min(16384, max(1024, 128 * (memory // _GIB))))


@torch.inference_mode()
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
) -> dict[str, np.ndarray] | None:
    """Runs a test loader's batches of this process through the network; the main process gets all results.

    Args:
        model: the network itself (not wrapped), on `device`; put into eval mode for the time of this call.
        loader: batches with `indices`; over all processes each of the `total` sequences comes once.
        transforms: evaluator transforms, for `model.prepare_inputs`.
        precision: what the forward pass computes in; fp32 by default.
        progress: show a bar, where the console is a terminal.
        reduce: makes rows of sequences out of a batch's `inference_feat` that has a row a frame, given the sequences'
            numbers of frames. Every batch is reduced as it comes: images of a whole test set fit no memory.

    Returns:
        'embeddings' -> float32 [total, c, p], row i of sequence i (all tensors of `inference_feat` where it has no
        embeddings; with `reduce`, what that gives); None on processes other than the first.

    Raises:
        ValueError: a sequence is missing or comes twice, or a tensor has not a row for each sequence.
    """
    precision = precision or Precision("fp32", device)
    was_training = model.training
    model.eval()
    indices: list[torch.Tensor] = []
    rows: dict[str, list[torch.Tensor]] = {}
    quiet = not (progress and is_main() and sys.stderr.isatty())
    with tqdm(total=total, desc="Embedding", unit="seq", disable=quiet) as bar:
        for batch in loader:
            inputs = model.prepare_inputs(batch.to(device), transforms)  # type: ignore[operator]
            with precision.autocast():
                features = model(inputs)["inference_feat"]
            for name, value in _rows(features, batch, reduce).items():
                rows.setdefault(name, []).append(value)
            indices.append(batch.indices.cpu())
            bar.update(len(batch.indices))
    model.train(was_training)
    return _collect(rows, indices, total)


def _rows(features: Mapping[str, torch.Tensor], batch: Any, reduce: Reduce | None) -> dict[str, torch.Tensor]:
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


def _collect(
    rows: dict[str, list[torch.Tensor]], indices: list[torch.Tensor], total: int
) -> dict[str, np.ndarray] | None:
    own_indices = torch.cat(indices) if indices else torch.zeros(0, dtype=torch.int64)
    # A process without any batch (fewer batches than processes) still takes part in collecting.
    everyone = gather_counts([len(rows)])
    if len({count for (count,) in everyone if count}) > 1:
        raise ValueError(f"processes hold different numbers of features: {everyone}")
    names = sorted(rows) if rows else ["embeddings"] * max(count for (count,) in everyone)
    result = {}
    for name in names:
        own = torch.cat(rows[name]) if rows else torch.zeros(0)
        table = collect_rows(own, own_indices, total)
        if table is not None:
            result[name] = table.numpy()
    return result if is_main() else None
