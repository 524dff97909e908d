"""An inspection of a checkpoint, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from opengait.engine.checkpoint import likely_mistakes
from opengait.engine.inspection import Candidate, Inspection

_SHOWN = 12


def report_lines(found: Inspection, *, every_key: bool = False) -> Iterator[str]:
    """Contents, weights, and which networks fit.

    Args:
        every_key: list all keys, not only the first ones.
    """
    yield f"{found.path}"
    for key, described in found.contents.items():
        yield f"  {key}: {described}"
    if found.config is not None:
        plugins = found.config.get("plugins") or []
        note = f"; it names plugins, which were not run: {', '.join(plugins)}" if plugins else ""
        yield f"  trained as: {_named(found.config)}{note}"
    yield f"  model: {len(found.weights)} tensors, {found.numbers / 1e6:.5f} million numbers"
    shown = list(found.weights.items())[: None if every_key else _SHOWN]
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        yield f"    {key:<{width}}  {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if len(shown) < len(found.weights):
        yield f"    and {len(found.weights) - len(shown)} more (--keys lists them)"
    yield from _fit_lines(found)


def _named(config: object) -> str:
    sections = config if isinstance(config, dict) else {}
    model, data = sections.get("model_cfg") or {}, sections.get("data_cfg") or {}
    data = data[0] if isinstance(data, list) and data else data
    name = data.get("dataset_name") if isinstance(data, dict) else None
    return f"{model.get('model')} on {name}"


def _fit_lines(found: Inspection) -> Iterator[str]:
    if found.fits:
        names = dict.fromkeys(one.name for one in found.fits)
        yield f"fits: {', '.join(names)}"
        for one in found.fits:
            yield f"  as in {one.source}"
    elif found.nearest is None:
        yield "fits no network that is known here; one of your own needs --plugin or --config"
    else:
        yield from _nearest_lines(found, found.nearest)


def _nearest_lines(found: Inspection, nearest: Candidate) -> Iterator[str]:
    yield f"fits no network as it is; nearest: {nearest.name}, as in {nearest.source}"
    yield from nearest.mismatch.lines()
    if nearest.mismatch.misshapen:
        # Without the stored config: what counts are the sizes.
        for advice in likely_mistakes({}, nearest.model_cfg, nearest.own, found.weights):
            yield f"  {advice}"
