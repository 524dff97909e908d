"""What a checkpoint was trained with, compared with what it is tested on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from opengait.data.batch import Batch
from opengait.data.dataset import GaitDataset
from opengait.data.transforms import Transforms

FRAMES_LOOKED_AT = 4
# Augmentation changes the largest value of a sequence by little, a forgotten division by 255 by much.
FACTOR = 4.0


def network_frames(dataset: GaitDataset, transforms: Transforms) -> list[dict[str, Any]]:
    """How the first sequence reaches the network: for each modality `shape` of a frame and the `largest` magnitude."""
    frames = [torch.from_numpy(np.array(array[:FRAMES_LOOKED_AT]))[None] for array in dataset.open(0)]
    zero = torch.zeros(1, dtype=torch.int64)
    shown = transforms(Batch(frames, zero, [""], [""], None, zero, zero, iteration=0, seed=0))
    return [{"shape": list(one.shape[2:]), "largest": float(one.abs().amax()) if one.numel() else 0.0} for one in shown]


def differences(
    state: Mapping[str, Any], config: Mapping[str, Any], dataset: GaitDataset, transforms: Transforms | None
) -> Iterator[str]:
    """What differs between the training of a checkpoint and this test, one line each; nothing that a file of other
    origin does not say.

    Args:
        state: the checkpoint.
        config: of the test.
        dataset, transforms: of the test; None where the network transforms its frames itself.
    """
    stored = state.get("config")
    if not isinstance(stored, Mapping):
        return
    then, now = _mapping(stored, "data_cfg"), config["data_cfg"]
    tested = now.get("test_dataset_name") or now["dataset_name"]
    yield from _data(state, then, now, tested, dataset)
    own = _mapping(stored, "evaluator_cfg").get("transform")
    if own is not None and _plain(own) != _plain(config["evaluator_cfg"]["transform"]):
        yield (
            f"evaluator_cfg.transform is {_plain(config['evaluator_cfg']['transform'])} here; the config of the "
            f"training had {_plain(own)}"
        )
    frames = state.get("frames")
    if isinstance(frames, list) and transforms is not None:
        yield from _frames(frames, network_frames(dataset, transforms))


def _data(
    state: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any], tested: str, dataset: GaitDataset
) -> Iterator[str]:
    name = then.get("dataset_name")
    if name not in (None, tested):
        yield f"trained on {name}, tested on {tested}"
    if then.get("data_in_use") != now.get("data_in_use"):
        yield f"data_cfg.data_in_use is {now.get('data_in_use')} here; the training had {then.get('data_in_use')}"
    fingerprint = state.get("data_fingerprint")
    modalities = fingerprint.get("modalities") if isinstance(fingerprint, Mapping) else None
    if modalities not in (None, dataset.modalities):
        yield f"sequences have {dataset.modalities} modalities here; in training they had {modalities}"
    labels = state.get("labels")
    if name != tested or not isinstance(labels, list):
        return
    # Labels of self-supervised training are those of sequences, and equal to none of these.
    both = sorted(set(labels) & set(dataset.label_set))
    if both:
        yield (
            f"{len(both)} of the {len(dataset.label_set)} test subjects were trained on ({_some(both)}); figures mean "
            "nothing for new people"
        )


def _frames(then: list[Any], now: list[dict[str, Any]]) -> Iterator[str]:
    for modality, (trained, tested) in enumerate(zip(then, now, strict=False)):
        if not isinstance(trained, Mapping):
            continue
        if trained.get("shape") != tested["shape"]:
            yield (
                f"frames of modality {modality} reach the network as {_size(tested['shape'])} here; in training they "
                f"were {_size(trained.get('shape'))}"
            )
        small, large = sorted((float(trained.get("largest") or 0), float(tested["largest"])))
        if small and large / small > FACTOR:
            yield (
                f"values of modality {modality} run to {tested['largest']:g} here; in training they ran to "
                f"{trained['largest']:g} (divsor, normalisation)"
            )


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, Mapping) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _size(shape: Any) -> str:
    return "x".join(str(size) for size in shape) if isinstance(shape, list) else "not known"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
