"""The merged tree -> seven checked sections, leftovers dropped, defaults filled in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opengait.config import dead
from opengait.config.compat import COMPAT, carry
from opengait.config.components import (
    check_losses,
    check_model_section,
    check_optimizer,
    check_scheduler,
    check_transforms,
    try_schedule,
)
from opengait.config.outside import PLUGINS
from opengait.config.problems import Report, did_you_mean
from opengait.config.sampler import check_sampler
from opengait.config.schema import SECTIONS, DataSection, EvaluatorSection, Section, TrainerSection
from opengait.config.source import Node
from opengait.config.typed import check_model, show


@dataclass
class Resolved:
    """Plain values of the seven sections, and where each came from."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, section: str, node: Node, values: Any = None) -> None:
        self.tree[section] = node.plain() if values is None else values
        for key, leaf in node.walk(section):
            self.origins[key] = leaf.file if leaf.line is None else f"{leaf.file}:{leaf.line}"


def resolve(tree: Node, report: Report) -> Resolved | None:
    """Checks every section; None where one is absent. The result is of use only if the report has no problems."""
    tree = carry(tree, report)
    sections = {name: tree.value.get(name) for name in SECTIONS}
    found = {name: node for name, node in sections.items() if node is not None and _has_form(name, node, report)}
    for name, node in sections.items():
        if node is None:
            report.problem(tree, name, "missing; this section must be given")
    resolved = Resolved()
    model = None
    if "model_cfg" in found:
        section, model = check_model_section(found["model_cfg"], "model_cfg", report)
        resolved.add("model_cfg", section)
    if "data_cfg" in found:
        _resolve_data(found["data_cfg"], model, resolved, report)
    if "loss_cfg" in found:
        resolved.add("loss_cfg", check_losses(found["loss_cfg"], "loss_cfg", report))
        if model is not None and _ships(model) and found["loss_cfg"].value == []:
            message = f"no loss, and {model.__name__} has none of its own: nothing would be learnt"
            report.problem(found["loss_cfg"], "loss_cfg", message)
    steps = _resolve_schedule(found, model, resolved, report)
    if "trainer_cfg" in found:
        _resolve_trainer(found["trainer_cfg"], model, steps, resolved, report)
    if "evaluator_cfg" in found:
        _resolve_engine(EvaluatorSection, found["evaluator_cfg"], "evaluator_cfg", resolved, report)
        _check_eval_func(found["evaluator_cfg"], report)
    if len(resolved.tree) < len(SECTIONS):
        return None
    resolved.tree = {name: resolved.tree[name] for name in SECTIONS}
    if PLUGINS in tree.value:
        resolved.add(PLUGINS, tree.value[PLUGINS])
    if COMPAT in tree.value:
        resolved.add(COMPAT, tree.value[COMPAT])
    return resolved


def _ships(model: type) -> bool:
    """Whether a network is one of the package's own, of which all is known."""
    return model.__module__.startswith("opengait.")


def _has_form(name: str, node: Node, report: Report) -> bool:
    if node.is_mapping or (node.is_list and name in ("data_cfg", "loss_cfg")):
        return True
    report.problem(node, name, f"expected a mapping, found {show(node.plain())}")
    return False


def _filled(schema: type[Section], node: Node, place: str, report: Report) -> tuple[Node, dict[str, Any]]:
    """A section with the schema's defaults filled in."""
    checked, values = check_model(schema, node, place, report)
    return checked, values.model_dump() if values is not None else checked.plain()


def _resolve_data(node: Node, model: Any, resolved: Resolved, report: Report) -> None:
    if node.is_mapping:
        section, values = _resolve_data_set(node, "data_cfg", report)
        resolved.add("data_cfg", section, values)
        return
    if model is not None and not getattr(model, "takes_several_datasets", False):
        report.problem(node, "data_cfg", f"a list of data sets, which {model.__name__} does not take; give one mapping")
    entries, plain = [], []
    for index, entry in enumerate(node.value):
        if not entry.is_mapping:
            report.problem(entry, f"data_cfg.{index}", f"expected a mapping, found {show(entry.plain())}")
            continue
        section, values = _resolve_data_set(entry, f"data_cfg.{index}", report)
        entries.append(section)
        plain.append(values)
    resolved.add("data_cfg", Node(entries, node.file, node.line, node.layer), plain)


def _resolve_data_set(node: Node, place: str, report: Report) -> tuple[Node, dict[str, Any]]:
    section, values = _filled(DataSection, dead.drop(node, dead.DATA, place, report), place, report)
    if values.get("test_dataset_name") is None:
        values["test_dataset_name"] = values.get("dataset_name")
    in_use = node.value.get("data_in_use")
    if in_use is not None and in_use.is_list and not any(entry.value is not False for entry in in_use.value):
        report.problem(in_use, f"{place}.data_in_use", f"selects no modality, found {show(in_use.plain())}")
    return section, values


def _resolve_schedule(found: dict[str, Node], model: Any, resolved: Resolved, report: Report) -> int | None:
    """optimizer_cfg and scheduler_cfg; returns the number of steps that the schedule can take, None for any.

    A section whose optimiser or schedule the network makes itself may hold what it likes.
    """
    before = len(report.problems)
    checked = {}
    overrides = getattr(model, "overrides", lambda name: False)
    for name, check, method in (
        ("optimizer_cfg", check_optimizer, "get_optimizer"),
        ("scheduler_cfg", check_scheduler, "get_scheduler"),
    ):
        if name in found and overrides(method):
            resolved.add(name, found[name])
        elif name in found:
            checked[name] = check(found[name], name, report)
            resolved.add(name, checked[name])
    if len(report.problems) > before or len(checked) < 2:
        return None
    return try_schedule(checked["optimizer_cfg"], checked["scheduler_cfg"], report)


def _resolve_engine(
    schema: type[Section], node: Node, place: str, resolved: Resolved, report: Report
) -> dict[str, Any]:
    section, values = _filled(schema, dead.drop(node, dead.ENGINE, place, report), place, report)
    sampler, transform = node.value.get("sampler"), node.value.get("transform")
    if sampler is not None and sampler.is_mapping:
        sampler = check_sampler(sampler, f"{place}.sampler", report)
        values["sampler"] = sampler.plain()
        section = Node({**section.value, "sampler": sampler}, section.file, section.line, section.layer)
    if transform is not None and transform.is_list:
        transform = check_transforms(transform, f"{place}.transform", report)
        values["transform"] = transform.plain()
        section = Node({**section.value, "transform": transform}, section.file, section.line, section.layer)
    resolved.add(place, section, values)
    return values


def _resolve_trainer(node: Node, model: Any, steps: int | None, resolved: Resolved, report: Report) -> None:
    values = _resolve_engine(TrainerSection, node, "trainer_cfg", resolved, report)
    total = node.value.get("total_iter")
    if steps is not None and total is not None and type(total.value) is int and total.value > steps:
        message = f"trainer_cfg.total_iter is {total.value} and scheduler_cfg ends after {steps} steps; make them equal"
        report.problem(total, "trainer_cfg.total_iter", message)
    hint = node.value.get("restore_hint")
    if hint is not None and hint.is_list and model is not None and not getattr(model, "takes_several_checkpoints", 0):
        message = f"a list of checkpoints, which {model.__name__} does not take; give one iteration or path"
        report.problem(hint, "trainer_cfg.restore_hint", message)
    steered = node.value.get("T_max_iter")
    if model is not None and _ships(model) and steered is not None and steered.value is not None:
        message = f"only a network that steers its own learning rate reads it; {model.__name__} does not"
        report.problem(steered, "trainer_cfg.T_max_iter", message)
    if values.get("image_iter") is None and type(values.get("log_iter")) is int:
        values["image_iter"] = 10 * values["log_iter"]


def _check_eval_func(node: Node, report: Report) -> None:
    chosen = node.value.get("eval_func")
    if chosen is None or not isinstance(chosen.value, str):
        return
    from opengait.evaluation import eval_funcs

    known = eval_funcs()
    own = node.value.get("protocol")
    if own is not None and isinstance(own.value, str):
        from opengait.evaluation.protocol import read_protocols

        try:
            known = [one.eval_func for one in read_protocols(Path(own.value)).protocols]
        except ValueError as error:
            report.problem(own, "evaluator_cfg.protocol", str(error))
            return
        if chosen.layer == 0:  # the default's name was not chosen beside this file
            return
    if chosen.value not in known:
        message = f"unknown evaluation function '{chosen.value}'{did_you_mean(chosen.value, known)}"
        report.problem(chosen, "evaluator_cfg.eval_func", f"{message}; known: {', '.join(known)}")
