"""Embeddings of a whole test set, by sequence index, from any number of processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from opengait.engine.distributed import collect_rows, gather_counts, is_main
from opengait.engine.precision import Precision

_GIB = 1 << 30


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
) -> dict[str, np.ndarray] | None:
    """Runs a test loader's batches of this process through the network; the main process gets all results.

    Args:
        model: the network itself (not wrapped), on `device`; put into eval mode for the time of this call.
        loader: batches with `indices`; over all processes each of the `total` sequences comes once.
        transforms: evaluator transforms, for `model.prepare_inputs`.
        precision: what the forward pass computes in; fp32 by default.
        progress: show a bar, where the console is a terminal.

    Returns:
        'embeddings' -> float32 [total, c, p], row i of sequence i (all tensors of `inference_feat` where it has no
        embeddings); None on processes other than the first.

    Raises:
        ValueError: a sequence is missing or comes twice.
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
            names = ["embeddings"] if "embeddings" in features else sorted(features)
            for name in names:
                value = features[name]
                rows.setdefault(name, []).append((value.float() if value.is_floating_point() else value).cpu())
            indices.append(batch.indices.cpu())
            bar.update(len(batch.indices))
    model.train(was_training)
    return _collect(rows, indices, total)


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
