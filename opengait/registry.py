"""Names in a config -> the classes they stand for.

A registry holds built-in names with the module that defines them, so that a class is imported when it is named and not
before (`import opengait` stays light), and the classes that users add with the decorator.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry", bound=Callable[..., Any])


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, upper and lower case alike; None where nothing is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _origin(entry: Callable[..., Any]) -> tuple[str, str]:
    return entry.__module__, entry.__qualname__


def _file_of(entry: Callable[..., Any]) -> str:
    return getattr(sys.modules.get(entry.__module__), "__file__", None) or entry.__module__


class UnknownNameError(ValueError):
    """A name that no registry entry has; the message gives the nearest one and the whole list."""


class Registry:
    """Named classes of one kind.

    Args:
        kind: what the entries are, for messages ("model", "loss").
        builtin: name -> module that defines a class (or function) of that name.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._modules = dict(builtin)
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, entry: Entry) -> Entry:
        """Decorator: makes a class or function selectable under its own name.

        A later form of the same class (its module was run again) takes the place of the earlier one.

        Raises:
            ValueError: the name is taken by something else.
        """
        name = entry.__name__
        taken = self._entries.get(name)
        builtin_module = self._modules.get(name)
        if builtin_module not in (None, entry.__module__):
            raise ValueError(f"{self.kind} '{name}' is built in already; give the new one another name")
        if taken is not None and _origin(taken) != _origin(entry):
            raise ValueError(
                f"{self.kind} '{name}' is registered already, by {_file_of(taken)}; give the new one another name"
            )
        self._entries[name] = entry
        return entry

    def added(self) -> list[Callable[..., Any]]:
        """What has been registered or imported so far."""
        return list(self._entries.values())

    def names(self) -> list[str]:
        """All selectable names, sorted."""
        return sorted({*self._modules, *self._entries})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._modules or name in self._entries)

    def get(self, name: str) -> Callable[..., Any]:
        """The class of that name, imported now if it is a built-in.

        Raises:
            UnknownNameError: no such name; the message says the nearest.
        """
        if name not in self:
            near = nearest(str(name), self.names())
            hint = f" (did you mean '{near}'?)" if near else ""
            raise UnknownNameError(f"unknown {self.kind} '{name}'{hint}; known: {', '.join(self.names())}")
        if name not in self._entries:
            self._entries[name] = getattr(importlib.import_module(self._modules[name]), name)
        return self._entries[name]


MODELS = Registry(
    "model",
    {
        "Baseline": "opengait.modeling.models.baseline",
        "DeepGaitV2": "opengait.modeling.models.deepgaitv2",
        "GaitEdge": "opengait.modeling.models.gaitedge",
        "GaitGL": "opengait.modeling.models.gaitgl",
        "GaitPart": "opengait.modeling.models.gaitpart",
        "GaitSet": "opengait.modeling.models.gaitset",
        "GaitSSB_Finetune": "opengait.modeling.models.gaitssb",
        "GaitSSB_Pretrain": "opengait.modeling.models.gaitssb",
        "GLN": "opengait.modeling.models.gln",
        "Segmentation": "opengait.modeling.models.segmentation",
        "SMPLGait": "opengait.modeling.models.smplgait",
    },
)
BACKBONES = Registry(
    "backbone",
    {
        "Plain": "opengait.modeling.backbones.plain",
        "ResNet9": "opengait.modeling.backbones.resnet",
        "U_Net": "opengait.modeling.backbones.u_net",
    },
)
LOSSES = Registry(
    "loss",
    {
        "BinaryCrossEntropyLoss": "opengait.modeling.losses.binary_cross_entropy",
        "CrossEntropyLoss": "opengait.modeling.losses.cross_entropy",
        "InterClassLoss": "opengait.modeling.losses.inter_class",
        "SupConLoss_Lp": "opengait.modeling.losses.contrastive",
        "SupConLoss_Re": "opengait.modeling.losses.contrastive",
        "TripletLoss": "opengait.modeling.losses.triplet",
    },
)
SAMPLERS = Registry(
    "sampler",
    {
        "BilateralSampler": "opengait.data.samplers",
        "CommonSampler": "opengait.data.samplers",
        "TripletSampler": "opengait.data.samplers",
        "InferenceSampler": "opengait.data.samplers",
    },
)
TRANSFORMS = Registry(
    "transform",
    {
        "BaseParsingCuttingTransform": "opengait.data.transforms.silhouette",
        "BaseRgbTransform": "opengait.data.transforms.rgb",
        "BaseSilCuttingTransform": "opengait.data.transforms.silhouette",
        "BaseSilTransform": "opengait.data.transforms.silhouette",
        "Compose": "opengait.data.transforms.compose",
        "DA4GaitSSB": "opengait.data.transforms.compose",
        "NoOperation": "opengait.data.transforms.base",
        "RandomAffine": "opengait.data.transforms.warps",
        "RandomErasing": "opengait.data.transforms.random_changes",
        "RandomHorizontalFlip": "opengait.data.transforms.random_changes",
        "RandomPartBlur": "opengait.data.transforms.parts",
        "RandomPartDilate": "opengait.data.transforms.parts",
        "RandomPerspective": "opengait.data.transforms.warps",
        "RandomRotate": "opengait.data.transforms.warps",
        "RatioHW": "opengait.data.transforms.layout",
        "Rearrange": "opengait.data.transforms.layout",
    },
)
