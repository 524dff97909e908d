"""What is in a checkpoint, which network it fits, and its weights as safetensors."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opengait.config import load_config, shipped
from opengait.engine.checkpoint import (
    METADATA_KEY,
    CheckpointError,
    Mismatch,
    compare,
    load_checkpoint,
    model_weights,
)
from opengait.engine.findings import Findings
from opengait.modeling.build import build_model
from opengait.plugins import load_plugins
from opengait.registry import MODELS

# What goes along with the weights into a safetensors file.
KEPT = ("iteration", "config", "compat", "labels", "data_fingerprint")


@dataclass
class Candidate:
    """A network that a checkpoint may be of.

    Attributes:
        source: the config file it was built from, or whose config it was.
        model_cfg: what it was built from.
        own: its tensors, which may hold no values.
        mismatch: keys and shapes that differ.
    """

    source: str
    model_cfg: Mapping[str, Any]
    own: Mapping[str, Tensor]
    mismatch: Mismatch

    @property
    def name(self) -> str:
        return str(self.model_cfg["model"])


@dataclass
class Inspection:
    """What `inspect_checkpoint` found.

    Attributes:
        weights: the network's tensors, by key.
        contents: the file's other entries, name -> short description.
        config: the resolved config it was trained with, where the file has one.
        fits: networks whose keys and shapes are those of the file, a config each.
        nearest: where none fits, the one that differs least.
    """

    path: Path
    weights: dict[str, Tensor]
    contents: dict[str, str]
    config: Mapping[str, Any] | None = None
    iteration: int | None = None
    fits: list[Candidate] = field(default_factory=list)
    nearest: Candidate | None = None

    @property
    def numbers(self) -> int:
        """Numbers in all tensors, buffers included."""
        return sum(value.numel() for value in self.weights.values())


def inspect_checkpoint(path: str | Path, config: str | Path | None = None, plugins: Sequence[str] = ()) -> Inspection:
    """Reads a checkpoint, ours, the reference implementation's or a safetensors file; runs nothing from it.

    Its keys and shapes are compared with the networks of the config in the file and of all shipped configs, built
    without memory. Plugins that the file's config names are not run.

    Args:
        config: compare it with the network of this config only.
        plugins: as for `load_config`, so that networks of one's own are known.

    Raises:
        CheckpointError: absent, damaged, unsafe or no checkpoint.
        ConfigError: `config` cannot be used.
    """
    state = load_checkpoint(path, "cpu")
    weights = model_weights(state)
    stored = state.get("config")
    contents = {key: _described(key, value) for key, value in state.items() if key != "model"}
    found = Inspection(Path(path), weights, contents, stored if isinstance(stored, Mapping) else None)
    iteration = state.get("iteration")
    found.iteration = iteration if isinstance(iteration, int) else None
    candidates = [
        Candidate(source, model_cfg, own, compare(own, weights))
        for source, model_cfg, own in _networks(config, plugins, found.config)
    ]
    found.fits = [one for one in candidates if one.mismatch.fits]
    if not found.fits and candidates:
        found.nearest = min(candidates, key=lambda one: one.mismatch.size)
        if not found.nearest.mismatch.both:
            found.nearest = None
    return found


def _described(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{len(value)} entries: {', '.join(list(map(str, value))[:8])}" if value else "empty"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} entries"
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    return str(value)


def _networks(
    config: str | Path | None, plugins: Sequence[str], stored: Mapping[str, Any] | None
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Tensor]]]:
    """(where from, model_cfg, empty state dict) of every network to compare with; equal ones once."""
    seen: list[Mapping[str, Any]] = []
    for source, model_cfg, data_cfg in _model_sections(config, plugins, stored):
        if model_cfg in seen or model_cfg.get("model") not in MODELS:
            continue
        seen.append(model_cfg)
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError, TypeError, KeyError):
            yield source, model_cfg, _empty(model_cfg, data_cfg)


def _model_sections(
    config: str | Path | None, plugins: Sequence[str], stored: Mapping[str, Any] | None
) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    if config is not None:
        chosen = load_config(config, plugins=plugins).to_dict()
        yield str(config), chosen["model_cfg"], chosen["data_cfg"]
        return
    configs = shipped.find("configs")
    files = sorted(configs.rglob("*.yaml")) if configs is not None else []
    with Findings().listening():  # what shipped configs have to say of themselves is not asked for here
        load_plugins(plugins)
        if stored is not None and isinstance(stored.get("model_cfg"), Mapping):
            yield "the config in the file", stored["model_cfg"], stored.get("data_cfg") or {}
        for file in files:
            if file.name == "default.yaml":
                continue
            with contextlib.suppress(ValueError):
                tree = load_config(file).to_dict()
                name = file.relative_to(shipped.root()).as_posix()
                yield name, tree["model_cfg"], tree["data_cfg"]


def _empty(model_cfg: Mapping[str, Any], data_cfg: Any) -> dict[str, Tensor]:
    """Keys and shapes of a network that takes no memory; built in earnest where it reads its own values."""
    try:
        with torch.device("meta"):
            return build_model(model_cfg, data_cfg=data_cfg).state_dict()
    except (RuntimeError, NotImplementedError):
        with torch.random.fork_rng(devices=[]):
            return build_model(model_cfg, data_cfg=data_cfg).state_dict()


def convert_checkpoint(path: str | Path, out: str | Path | None = None) -> Path:
    """Writes the weights of a checkpoint as safetensors, with iteration, config and labels as JSON in its metadata.

    `opengait test --checkpoint` and `restore_hint` take the file as they take the checkpoint; what a run needs to go on
    (optimiser, schedule, generators) is left out.

    Args:
        out: the new file; None: beside the old one, ending in .safetensors.

    Raises:
        CheckpointError: the checkpoint cannot be read, or the new file exists or cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    target = path.with_suffix(".safetensors") if out is None else Path(out)
    state = load_checkpoint(path)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target}: a file of this format ends in .safetensors")
    if target.exists():
        raise CheckpointError(f"{target}: exists already; give another name with --out")
    # Copies, since the format refuses tensors that share memory.
    weights = {key: value.detach().clone().contiguous() for key, value in model_weights(state).items()}
    kept = {key: state[key] for key in KEPT if key in state}
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, temporary, metadata={"format": "pt", METADATA_KEY: json.dumps(kept)})
        os.replace(temporary, target)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{target}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target
