"""Where a run's files lie: `<output>/<dataset_name>/<model>/<save_name>/{checkpoints,summary,logs,results}`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from opengait.engine.checkpoint_files import whole_file


def run_folder(config: Mapping[str, Any], section: str, output: str | Path = "output") -> Path:
    """Folder of a run, by the `save_name` of an engine section ('trainer_cfg' or 'evaluator_cfg').

    Always below `data_cfg.dataset_name`, also when `test_dataset_name` differs: there the checkpoints are.
    """
    data_cfg = config["data_cfg"]
    data_cfg = data_cfg[0] if isinstance(data_cfg, list) else data_cfg
    return Path(output) / data_cfg["dataset_name"] / config["model_cfg"]["model"] / config[section]["save_name"]


def write_config(folder: Path, name: str, config: Mapping[str, Any]) -> str:
    """Saves the resolved config as `<folder>/<name>` and returns its YAML text."""
    text = yaml.safe_dump(config_tree(config), sort_keys=False, default_flow_style=None, width=120)
    with whole_file(folder / name) as file:
        file.write(text.encode())
    return text


def config_tree(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain dicts, lists and scalars."""
    to_dict = getattr(config, "to_dict", None)
    return to_dict() if to_dict is not None else _plain(config)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
