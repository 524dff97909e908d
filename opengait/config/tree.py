"""The resolved config, as the rest of the project reads it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from opengait.config.problems import ConfigProblem
from opengait.config.source import PlainDumper
from opengait.registry import nearest


class Config(Mapping[str, Any]):
    """A read-only mapping with attribute and item access: `config.trainer_cfg.total_iter`.

    Nested mappings come back as Config, lists as fresh lists. A key named like a method (`items`, `path`) is reached
    as an item only.

    Attributes:
        path: the experiment file, None for a config that was not loaded from a file.
        warnings: keys that nothing reads, one entry each.
    """

    __slots__ = ("_origins", "_path", "_tree", "_warnings")

    def __init__(
        self,
        tree: Mapping[str, Any],
        path: Path | None = None,
        warnings: tuple[ConfigProblem, ...] = (),
        origins: Mapping[str, str] | None = None,
    ) -> None:
        object.__setattr__(self, "_tree", plain(tree))
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_warnings", tuple(warnings))
        object.__setattr__(self, "_origins", dict(origins or {}))

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Config:
        """A config from an already resolved plain tree, such as the one in a checkpoint; nothing is merged or checked.

        Raises:
            ValueError: a value that is neither a plain scalar, a list nor a mapping with text keys.
        """
        return cls(tree)

    @property
    def path(self) -> Path | None:
        return self._path

    @property
    def warnings(self) -> list[ConfigProblem]:
        return list(self._warnings)

    def origin(self, key: str) -> str | None:
        """`file:line` (or the override) that gave the value at a dotted path; None for a default of the schema."""
        return self._origins.get(key)

    def to_dict(self) -> dict[str, Any]:
        """A fresh copy as plain dicts, lists and scalars."""
        return copy.deepcopy(self._tree)

    def to_yaml(self) -> str:
        """YAML text that loads to the same values."""
        return yaml.dump(self._tree, Dumper=PlainDumper, sort_keys=False, default_flow_style=None, width=120)

    def describe(self) -> str:
        """Every value on a line of its own with the place it came from: `trainer_cfg.total_iter: 60  # file:12`."""
        lines = []
        for key, value in _leaves(self._tree):
            shown = yaml.dump(value, Dumper=PlainDumper, default_flow_style=True, width=10_000)
            source = self._origins.get(key)
            comment = "" if source is None else f"  # {source}"
            lines.append(f"{key}: {shown.removesuffix(chr(10)).removesuffix('...').strip()}{comment}")
        return "\n".join(lines)

    def __getitem__(self, key: str) -> Any:
        return _outward(self._tree[key])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._tree:
            near = nearest(name, self._tree)
            hint = f" (did you mean '{near}'?)" if near else f"; it has {', '.join(self._tree) or 'no keys'}"
            raise AttributeError(f"the config has no key '{name}' here{hint}")
        return _outward(self._tree[name])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a config is read-only; change the file or give an override")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a config is read-only; change the file or give an override")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __repr__(self) -> str:
        return f"Config({self._tree!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._tree, self._path, self._warnings, self._origins)

    def __copy__(self) -> Config:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Config:
        return self


def _outward(value: Any) -> Any:
    if isinstance(value, dict):
        return Config(value)
    if isinstance(value, list):
        return [_outward(entry) for entry in value]
    return value


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value))
    if not nested or not value:
        yield prefix, value
        return
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))


def plain(value: Any) -> Any:
    """A deep copy as plain dicts, lists and scalars.

    Raises:
        ValueError: a value that is none of these.
    """
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"key {odd[0]!r} of a config is not text")
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child) for child in value]
    if value is not None and type(value) not in (str, bool, int, float):
        raise ValueError(f"{value!r} of type {type(value).__name__} cannot stand in a config")
    return value
