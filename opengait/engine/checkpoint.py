"""Checkpoint files: written whole or not at all, read without running anything from them.

A file is a dict with `model`, `optimizer`, `scheduler`, `iteration` (the reference's keys) and `format`, `config`,
`compat`, `scaler`, `rng`, `world_size`, `labels`, `data_fingerprint`, `frames`, `draws`; a file with the first four
alone loads too, and a safetensors file of weights.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opengait.config.compat import in_use
from opengait.data.errors import DataError, UnsafePickleError
from opengait.engine.checkpoint_contents import problem
from opengait.engine.checkpoint_files import DamagedFile, check_digest, whole_file, write_archive
from opengait.engine.checkpoint_pickle import check_file

logger = logging.getLogger(__name__)

FORMAT = 1
METADATA_KEY = "opengait"  # of a safetensors file: what goes along with the weights, as JSON


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged, unsafe, or of another network; the message names the file."""


def checkpoint_name(save_name: str, iteration: int) -> str:
    """File name, with the iteration in at least five digits."""
    return f"{save_name}-{iteration:05d}.pt"


def find_checkpoint(folder: Path, save_name: str, iteration: int) -> Path:
    """The file of an iteration: the padded name, else the plain one.

    Raises:
        CheckpointError: neither exists; the message says which iterations do.
    """
    padded, plain = folder / checkpoint_name(save_name, iteration), folder / f"{save_name}-{iteration}.pt"
    for path in (padded, plain):
        if path.is_file():
            return path
    known = [str(number) for number, _ in list_checkpoints(folder, save_name)]
    there = f"there are iterations {', '.join(known)}" if known else f"no checkpoint of '{save_name}' is there"
    raise CheckpointError(f"{padded}: no such checkpoint; {there}")


def list_checkpoints(folder: Path, save_name: str) -> list[tuple[int, Path]]:
    """(iteration, file) of one run, oldest first."""
    pattern = re.compile(re.escape(save_name) + r"-(\d+)\.pt")
    found = []
    for path in folder.glob("*.pt") if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match and path.is_file():
            found.append((int(match[1]), path))
    return sorted(found)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes under a temporary name, with a digest, flushes to the disk, renames: the name never holds half a file.

    Raises:
        CheckpointError: the file cannot be written; earlier checkpoints are untouched.
    """
    try:
        with whole_file(path) as file:
            write_archive(file, state)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot write the checkpoint: {error}; those written before are untouched"
        ) from error


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The dict of a checkpoint file, its tensors on `device`.

    Every byte is checked against the sums in the file, and nothing but tensors and plain containers is admitted.

    Raises:
        CheckpointError: absent, damaged, holding other objects, or no checkpoint; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, device)
    try:
        check_file(path, sums=not check_digest(path))
        state = torch.load(path, map_location=device, weights_only=True)
    except UnsafePickleError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (DamagedFile, DataError) as error:
        raise CheckpointError(f"{path}: damaged or no checkpoint ({error})") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(f"{path}: damaged or no checkpoint ({type(error).__name__}: {reason})") from error
    return _checked(path, state)


def _checked(path: Path, state: Any) -> dict[str, Any]:
    wrong = problem(state) if isinstance(state, dict) else "not a checkpoint of this framework: it is no mapping"
    if wrong:
        raise CheckpointError(f"{path}: {wrong}")
    if state.get("format", FORMAT) != FORMAT:
        raise CheckpointError(f"{path}: format {str(state['format'])[:80]}, and this version reads format {FORMAT}")
    return state


def _load_safetensors(path: Path, device: torch.device | str) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device=str(device)) as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            kept = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or no safetensors file ({error})") from error
    return _checked(path, {**(kept if isinstance(kept, dict) else {}), "model": weights})


def newest_whole_checkpoint(folder: Path, save_name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """At most one (file, contents): the newest that can be read; damaged newer ones are reported and passed over."""
    for _, path in reversed(list_checkpoints(folder, save_name)):
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            logger.error("%s; using the one before it", error)
            continue
        yield path, state
        return


def model_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors: without the prefix of a distributed wrapper and without parts of the losses."""
    weights = dict(state["model"])
    if weights and all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return {key: value for key, value in weights.items() if not key.startswith("loss_aggregator.")}


def compat_of(state: Mapping[str, Any]) -> list[str]:
    """Where the run of a checkpoint, and those that it went on from, had `compat: reference`; see `in_use`."""
    kept = state.get("compat")
    if isinstance(kept, (list, tuple)):
        return [str(place) for place in kept]
    config = state.get("config")
    return in_use(config) if isinstance(config, Mapping) else []


def restore_weights(
    model: nn.Module,
    state: Mapping[str, Any],
    path: str | Path,
    *,
    strict: bool = True,
    model_cfg: Mapping[str, Any] | None = None,
) -> None:
    """Fills the network from a checkpoint.

    Args:
        strict: keys must be the same; otherwise those in both are restored and listed in the log.
        model_cfg: the configuration the network was built from, to point at the key that is likely wrong.

    Raises:
        CheckpointError: keys differ (strict), shapes differ, or nothing fits.
    """
    own, stored = model.state_dict(), model_weights(state)
    found = compare(own, stored)
    missing, unexpected = found.missing, found.unexpected
    if found.misshapen or not found.both or (strict and (missing or unexpected)):
        lines = [f"{path}: the checkpoint does not fit the network", *found.lines()]
        lines += [f"  {advice}" for advice in likely_mistakes(state, model_cfg or {}, own, stored)]
        raise CheckpointError("\n".join(lines))
    if missing or unexpected:
        logger.info("restored from %s: %s", path, ", ".join(sorted(found.both)))
        logger.warning("%s: not in the file: %s; not in the network: %s", path, missing or "none", unexpected or "none")
    model.load_state_dict({key: stored[key] for key in found.both}, strict=False)


@dataclass
class Mismatch:
    """How the tensors of a file differ from those of a network.

    Attributes:
        missing: keys of the network that the file lacks.
        unexpected: keys of the file that the network lacks.
        misshapen: keys of both with unlike shapes, key -> (in the file, in the network).
        both: keys of both, in the network's order.
    """

    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, tuple[list[int], list[int]]]
    both: list[str]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def size(self) -> tuple[float, int]:
        """What orders networks by how far they are from the file: share of odd keys, then odd shapes."""
        odd = len(self.missing) + len(self.unexpected)
        return odd / max(odd + len(self.both), 1), len(self.misshapen)

    def lines(self) -> Iterator[str]:
        """For messages: one line a kind of difference."""
        misshapen = [
            f"{key} is {theirs} in the file and {mine} in the network" for key, (theirs, mine) in self.misshapen.items()
        ]
        for title, keys in (("missing", self.missing), ("unexpected", self.unexpected), ("misshapen", misshapen)):
            if keys:
                yield f"  {title} ({len(keys)}): {_shortened(keys)}"


def compare(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> Mismatch:
    """The tensors of a network against those of a file."""
    both = [key for key in own if key in stored]
    return Mismatch(
        missing=sorted(own.keys() - stored.keys()),
        unexpected=sorted(stored.keys() - own.keys()),
        misshapen={
            key: (list(stored[key].shape), list(own[key].shape)) for key in both if stored[key].shape != own[key].shape
        },
        both=both,
    )


def _shortened(keys: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}")
    else:
        yield prefix, tree


def likely_mistakes(
    state: Mapping[str, Any],
    model_cfg: Mapping[str, Any],
    own: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
) -> Iterator[str]:
    """What in the config is likely wrong: a key that differs from the stored config, or one with the odd size."""
    both = [key for key in own if key in stored]
    here = dict(_leaves(model_cfg, "model_cfg"))
    config = state.get("config")
    if isinstance(config, Mapping) and here:
        there = dict(_leaves(config.get("model_cfg", {}), "model_cfg"))
        differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        if differing:
            for key in differing[:5]:
                yield f"{key} is {here.get(key)!r} in this config; the checkpoint was trained with {there.get(key)!r}"
            return
    sizes = {
        (mine, theirs)
        for key in both
        if own[key].dim() == stored[key].dim()
        for mine, theirs in zip(own[key].shape, stored[key].shape, strict=True)
        if mine != theirs
    }
    for mine, theirs in sorted(sizes):
        for key, value in here.items():
            if (value == mine and value is not True) or (isinstance(value, list) and mine in value):
                yield f"{key} is {value!r} in this config; the checkpoint seems to have {theirs} there"
    if not both:
        yield f"no key is common: is model_cfg.model ({model_cfg.get('model')!r}) the network of this checkpoint?"
    elif not sizes:
        yield "if only a part of the network is to be restored, set restore_ckpt_strict: false"
