"""The sampler of an engine section: its keys, and which of them its sample type uses."""

from __future__ import annotations

from opengait.config import dead
from opengait.config.bind import signature_of
from opengait.config.components import choose
from opengait.config.problems import Report, did_you_mean
from opengait.config.schema import SamplerSection
from opengait.config.source import Node
from opengait.config.typed import check_model, show
from opengait.registry import SAMPLERS

MODES = ("fixed", "unfixed", "all")
ORDERS = ("ordered", "unordered", "allordered")
SAMPLE_TYPES = tuple(f"{mode}_{order}" for mode in MODES for order in ORDERS)
NEEDED = {"fixed": ("frames_num_fixed",), "unfixed": ("frames_num_min", "frames_num_max"), "all": ()}
FRAME_KEYS = ("frames_num_fixed", "frames_num_min", "frames_num_max", "frames_skip_num", "frames_all_limit")
PAIRED = ("TripletSampler", "BilateralSampler")
SINGLE = ("CommonSampler", "InferenceSampler")
TRAINING = (*PAIRED, "CommonSampler")


def check_sampler(node: Node, place: str, report: Report) -> Node:
    """Types of all keys, the frame numbers that the sample type needs, the form of batch_size.

    Returns:
        the section without the frame numbers that its sample type does not use.
    """
    name = choose(node, "type", place, report) if "type" in node.value else None
    if name is not None:
        _check_type(name, node.value["type"], place, report)
        node = dead.drop(node, dead.SAMPLERS.get(name, {}), place, report)
    extra = _taken_by_class(name) & set(node.value) - set(SamplerSection.model_fields)
    own = {key: value for key, value in node.value.items() if key not in extra}
    checked, _ = check_model(SamplerSection, Node(own, node.file, node.line, node.layer), place, report)
    if name is not None and not _misplaced(name, place):
        _check_batch_size(name, node, place, report)
    points = node.value.get("points_in_use")
    if points is not None and points.value is not None:
        report.problem(points, f"{place}.points_in_use", "point clouds are not supported; leave the key out")
    kept = _check_frames(checked, place, report)
    return Node({**kept.value, **{key: node.value[key] for key in extra}}, node.file, node.line, node.layer)


def _taken_by_class(name: str | None) -> set[str]:
    """Parameters that a user's own sampler class adds."""
    if name is None or name not in SAMPLERS or name in (*PAIRED, *SINGLE):
        return set()
    supplied = ("dataset", "seed", "rank", "lengths", "frames_per_batch")
    return set(signature_of(SAMPLERS.get(name), supplied).annotations)


def _check_type(name: str, node: Node, place: str, report: Report) -> None:
    if name not in SAMPLERS:
        known = SAMPLERS.names()
        message = f"unknown sampler '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}"
        report.problem(node, f"{place}.type", message)
    elif _misplaced(name, place):
        report.problem(node, f"{place}.type", f"{name} is {_misplaced(name, place)}")


def _misplaced(name: str, place: str) -> str | None:
    """Why a sampler does not fit its section; None where it does."""
    if place.startswith("trainer_cfg") and name == "InferenceSampler":
        return "for evaluator_cfg; training needs TripletSampler"
    if place.startswith("evaluator_cfg") and name in TRAINING:
        return "for trainer_cfg; a test needs InferenceSampler"
    return None


def _check_batch_size(name: str, node: Node, place: str, report: Report) -> None:
    size = node.value.get("batch_size")
    if size is None:
        return
    key = f"{place}.batch_size"
    if name in PAIRED and (type(size.value) is int or (size.is_list and len(size.value) != 2)):
        report.problem(size, key, f"{name} needs [P, K], subjects x sequences of each, found {show(size.plain())}")
    if name in SINGLE and size.is_list:
        report.problem(size, key, f"{name} needs one number, found {show(size.plain())}")


def _check_frames(node: Node, place: str, report: Report) -> Node:
    chosen = node.value.get("sample_type")
    if chosen is None or not isinstance(chosen.value, str):
        return node
    if chosen.value not in SAMPLE_TYPES:
        hint = did_you_mean(chosen.value, SAMPLE_TYPES)
        message = f"unknown sample_type '{chosen.value}'{hint}; known: {', '.join(SAMPLE_TYPES)}"
        report.problem(chosen, f"{place}.sample_type", message)
        return node
    mode, order = chosen.value.split("_")
    used = set(NEEDED[mode])
    if order == "ordered" and mode != "all":
        used.add("frames_skip_num")
    for key in sorted(used):
        if key not in node.value or node.value[key].value is None:
            report.problem(chosen, f"{place}.{key}", f"missing; sample_type {chosen.value} needs '{key}'")
    if mode == "all":
        used.add("frames_all_limit")
    if mode == "unfixed":
        _check_range(node, place, report)
    return _without_unused(node, used, chosen, place, report)


def _check_range(node: Node, place: str, report: Report) -> None:
    low, high = (node.value.get(key) for key in ("frames_num_min", "frames_num_max"))
    if low is None or high is None or not (type(low.value) is type(high.value) is int):
        return
    if low.value > high.value:
        message = f"frames_num_min is {low.value} and frames_num_max {high.value}; the minimum must not be larger"
        report.problem(low if low.layer >= high.layer else high, f"{place}.frames_num_min", message)


def _without_unused(node: Node, used: set[str], chosen: Node, place: str, report: Report) -> Node:
    kept = {}
    for key, value in node.value.items():
        if key not in FRAME_KEYS or key in used:
            kept[key] = value
        elif value.layer > 0 and value.layer >= chosen.layer and value.value is not None:
            report.warn(value, f"{place}.{key}", f"has no effect: sample_type {chosen.value} does not use it")
    return Node(kept, node.file, node.line, node.layer)
