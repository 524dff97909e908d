"""Code and protocols from outside the package: files, modules, and installed packages that announce themselves.

A plugin is a Python file, a dotted module name, or a YAML file of protocols. What a Python plugin defines becomes
selectable in a config under its own name, with or without a registry's decorator. Loading a plugin runs it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from opengait.registry import BACKBONES, LOSSES, MODELS, SAMPLERS, TRANSFORMS, Registry, nearest

logger = logging.getLogger(__name__)

GROUP = "opengait.plugins"
REGISTRIES = (MODELS, LOSSES, BACKBONES, SAMPLERS, TRANSFORMS)
# A file is run as though it lay beside the networks of the package, so that the relative imports of the field's model
# files (`from ..base_model import BaseModel`, `from ..modules import SeparateFCs`) find what they name.
BESIDE = "opengait.modeling.models"
_ENTRIES = "__opengait_entries__"
_SOURCE = "__opengait_source__"


class PluginError(ValueError):
    """A plugin that is absent, cannot be run, or takes a name that is in use; the message names the plugin."""


def is_file_name(plugin: str) -> bool:
    """Whether a plugin is named as a file; a dotted module name otherwise."""
    return plugin.endswith((".py", ".yaml", ".yml")) or "/" in plugin or "\\" in plugin


def located(plugin: str, folder: Path) -> str:
    """A file name made absolute, from `folder`; a module name as it is."""
    return whole_path(plugin, folder) if is_file_name(plugin) else plugin


def whole_path(name: str, folder: Path) -> str:
    """An absolute path without `..`, so that one file has one name."""
    return os.path.normpath((folder / Path(name).expanduser()).absolute())


def load_plugins(plugins: Iterable[str]) -> None:
    """Loads each plugin; one that is loaded already is not run again unless its file has changed.

    Raises:
        PluginError: see `load_plugin`.
    """
    for plugin in plugins:
        load_plugin(plugin)


def load_plugin(plugin: str) -> None:
    """Makes what a plugin defines selectable.

    Classes that the plugin itself defines are taken by what they are: subclasses of `BaseModel` and `BaseLoss`;
    samplers (methods `batch` and `positions`, or `share`); other `nn.Module` classes as backbones; other classes with
    `__call__` as transforms. Names that begin with an underscore stay private. Functions need the registry's decorator.

    Args:
        plugin: path of a Python file or of a YAML file of protocols, or a dotted module name, looked for in the working
            directory too.

    Raises:
        PluginError: no such file or module, an error in it (with its line), or a name that is taken.
    """
    if plugin.endswith((".yaml", ".yml")):
        from opengait.evaluation.protocol import register_protocols

        try:
            register_protocols(_existing(plugin))
        except ValueError as error:
            raise PluginError(f"plugin {plugin}: {error}") from error
        return
    module = _run_file(_existing(plugin)) if is_file_name(plugin) else _import_module(plugin)
    try:
        _register(module)
    except ValueError as error:
        raise PluginError(f"plugin {plugin}: {error}") from error


@cache
def load_installed() -> tuple[str, ...]:
    """Loads the entry points of the group `opengait.plugins` of all installed packages, once.

    Returns:
        what is wrong with those that could not be loaded: a broken package must not keep the others from working.
    """
    faults = []
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            _register(entry.load())
        except Exception as error:  # noqa: BLE001 - a foreign package may fail in any way; what it says is passed on
            faults.append(f"entry point {entry.name} = {entry.value}: {type(error).__name__}: {error}")
    return tuple(faults)


def _existing(plugin: str) -> Path:
    path = Path(plugin).expanduser().absolute()
    if path.is_file():
        return path
    if path.is_dir():
        raise PluginError(f"plugin {plugin}: is a folder; expected a Python file or a dotted module name")
    beside = {one.name: one for one in path.parent.glob(f"*{path.suffix}")} if path.parent.is_dir() else {}
    near = nearest(path.name, beside)
    raise PluginError(f"plugin {plugin}: no such file" + (f" (did you mean '{beside[near]}'?)" if near else ""))


def _run_file(path: Path) -> ModuleType:
    real = path.resolve()
    digest = hashlib.sha256(str(real).encode()).hexdigest()[:8]
    stem = "".join(letter if letter.isalnum() else "_" for letter in real.stem)
    name = f"{BESIDE}.plugin_{digest}_{stem}"
    try:
        source = real.read_bytes()
    except OSError as error:
        raise PluginError(f"plugin {path}: cannot be read: {error}") from error
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, _SOURCE, None) == source:
        return loaded
    importlib.import_module(BESIDE)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None, origin=str(real)))
    module.__file__ = str(real)
    setattr(module, _SOURCE, source)
    sys.modules[name] = module
    try:
        # Compiled here and not by an importer, whose cached bytecode could be that of an earlier text.
        with _explained(str(path), real), _on_path(real.parent):
            exec(compile(source, str(real), "exec"), module.__dict__)
    except PluginError:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    with _explained(name, None), _on_path(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            advice = "; a file is named with its ending, such as mynet.py"
            raise PluginError(f"plugin {name}: no module of that name, installed or in {Path.cwd()}{advice}") from error


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Modules beside a plugin can be imported by it; behind all others, so that they hide none."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _explained(plugin: str, file: Path | None) -> Iterator[None]:
    """What goes wrong while a plugin runs becomes one message, with the line of the plugin where it did."""
    try:
        yield
    except PluginError:
        raise
    except SyntaxError as error:
        raise PluginError(f"plugin {plugin}: {error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if file is not None and frame.filename == str(file)
        ]
        where = f"{plugin}:{lines[-1]}" if lines else plugin
        detail = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise PluginError(f"plugin {where}: {detail}") from error


def _register(found: Any) -> None:
    """Registers what a module (or an entry point's single class) defines."""
    if not isinstance(found, ModuleType):
        kind = _registry_of(found) if isinstance(found, type) else None
        if kind is None:
            raise ValueError(f"{found!r} is no model, loss, backbone, sampler or transform")
        kind.register(found)
        return
    # What decorators have registered is kept with the module, which may be asked for again without being run again.
    entries: list[tuple[Registry, Callable[..., Any]]] = getattr(found, _ENTRIES, [])
    for registry in REGISTRIES:
        entries += [(registry, entry) for entry in registry.added() if _is_from(found, entry)]
    taken = {entry for _, entry in entries}
    for entry in _classes(found):
        own = _registry_of(entry)
        if own is not None and entry not in taken:
            entries.append((own, entry))
    entries = list(dict.fromkeys(entries))
    for registry, one in entries:
        registry.register(one)
    setattr(found, _ENTRIES, entries)
    names = ", ".join(f"{registry.kind} {one.__name__}" for registry, one in entries)
    logger.info("plugin %s: %s", getattr(found, "__file__", found.__name__), names or "nothing to select")


def _is_from(module: ModuleType, entry: Callable[..., Any]) -> bool:
    """Whether a module, or one inside it, defines a class or function."""
    return entry.__module__ == module.__name__ or entry.__module__.startswith(f"{module.__name__}.")


def _classes(module: ModuleType) -> list[type]:
    """Public classes that a module defines, in its order; those of its submodules too where it offers them."""
    offered = [value for name, value in vars(module).items() if isinstance(value, type) and not name.startswith("_")]
    return [one for one in offered if _is_from(module, one) and not one.__name__.startswith("_")]


def _registry_of(entry: type) -> Registry | None:
    import torch
    from torch import nn

    from opengait.modeling.base_model import BaseModel
    from opengait.modeling.losses.base import BaseLoss

    if issubclass(entry, BaseModel):
        return MODELS
    if issubclass(entry, BaseLoss):
        return LOSSES
    if issubclass(entry, nn.Module):
        return BACKBONES
    if all(callable(getattr(entry, name, None)) for name in ("batch", "positions")):
        return SAMPLERS
    if callable(getattr(entry, "share", None)):
        return SAMPLERS
    if issubclass(entry, torch.autograd.Function):
        return None
    return TRANSFORMS if any("__call__" in vars(one) for one in entry.__mro__) else None
