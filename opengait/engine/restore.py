"""Where a training run begins: afresh, from `restore_hint`, or where it stopped (`--resume auto`)."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from opengait.engine.checkpoint import (
    CheckpointError,
    compat_of,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_whole_checkpoint,
    restore_weights,
)
from opengait.engine.checkpoint_contents import alike
from opengait.engine.distributed import broadcast_text, gather_counts, on_main, world_size
from opengait.engine.optimizer import load_optimizer
from opengait.engine.randomness import restore_rng_states

if TYPE_CHECKING:
    from opengait.engine.trainer import Trainer

logger = logging.getLogger(__name__)

RESUME_CHOICES = ("no", "auto")
# How an optimiser computes, which files of older versions of torch do not say.
NOT_SETTINGS = {"capturable", "decoupled_weight_decay", "differentiable", "foreach", "fused", "maximize"}


def restore(trainer: Trainer, resume: str) -> None:
    """Fills a new trainer.

    - `resume='auto'`: everything of the newest whole checkpoint, where there is one; else as below.
    - hint 0: nothing. An iteration number: that checkpoint of this run, going on there. A path: its weights (and
      moments), at iteration 0 with a fresh schedule. A list: each in turn, the last decides where to go on.

    `optimizer_reset` and `scheduler_reset` are for hints; `resume` restores both whatever they say. With
    `trainer_cfg.compat: reference` a path brings along the stored schedule and all of the optimiser's settings, as in
    the reference implementation, where the iteration nevertheless starts at 0.

    Raises:
        CheckpointError: no such file, damaged, or not of this network.
        ValueError: `resume` is neither 'no' nor 'auto'.
    """
    if resume not in RESUME_CHOICES:
        raise ValueError(f"resume {resume!r}: expected one of {', '.join(RESUME_CHOICES)}")
    if resume == "auto" and _resume(trainer):
        return
    hint = trainer.cfg.get("restore_hint", 0)
    for one in hint if isinstance(hint, (list, tuple)) else [hint]:
        if one != 0:
            _restore_hint(trainer, one)


@contextlib.contextmanager
def _misfits_named(path: str | Path) -> Iterator[None]:
    """What torch raises for a state that is of the right kind and still does not fit, as an error that names the
    file."""
    try:
        yield
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(f"{path}: its state cannot be restored ({type(error).__name__}: {reason})") from error


def _resume(trainer: Trainer) -> bool:
    folder = trainer.folder / "checkpoints"
    found: list[tuple[Path, dict[str, Any]]] = []
    on_main(lambda: found.extend(newest_whole_checkpoint(folder, trainer.save_name)))
    path = broadcast_text(str(found[0][0]) if found else "").strip()
    if not path:
        _check_shared(folder, trainer.save_name)
        logger.info("nothing to resume in %s", folder)
        return False
    state = found[0][1] if found else load_checkpoint(path)
    if not isinstance(state.get("iteration"), int):
        raise CheckpointError(f"{path}: holds no iteration to go on from; start from its weights with restore_hint")
    restore_weights(trainer.model, state, path, model_cfg=trainer.config["model_cfg"])
    _check_labels(trainer, state, path)
    with _misfits_named(path):
        _restore_moments(trainer, state, path, settings=True, resumed=True)
        _restore_schedule(trainer, state, path, resumed=True)
        _restore_progress(trainer, state, int(state["iteration"]))
    trainer.last_checkpoint = Path(path)
    _remember_compat(trainer, state)
    logger.info("resumed from %s: going on after iteration %d", path, trainer.iteration)
    return True


def _check_shared(folder: Path, save_name: str) -> None:
    """A run on several machines must not start afresh because its first process is now on one without the files."""
    counts = gather_counts([len(list_checkpoints(folder, save_name))])
    elsewhere = [number for number, (count,) in enumerate(counts) if count]
    if elsewhere and not counts[0][0]:
        raise CheckpointError(
            f"{folder}: rank 0 finds no checkpoint of '{save_name}' there, and rank {elsewhere[0]} does; "
            "--output has to be a folder that all machines share"
        )


def _restore_hint(trainer: Trainer, hint: int | str) -> None:
    cfg = trainer.cfg
    if isinstance(hint, int):
        path = find_checkpoint(trainer.folder / "checkpoints", trainer.save_name, hint)
    else:
        path = Path(hint)
    numbered = isinstance(hint, int)
    state = load_checkpoint(path)
    strict = cfg.get("restore_ckpt_strict", True)
    restore_weights(trainer.model, state, path, strict=strict, model_cfg=trainer.config["model_cfg"])
    schedule = (numbered or trainer.as_reference) and not cfg.get("scheduler_reset")
    with _misfits_named(path):
        if not cfg.get("optimizer_reset"):
            _restore_moments(trainer, state, path, settings=schedule or trainer.as_reference)
        if schedule:
            _restore_schedule(trainer, state, path)
        elif not cfg.get("optimizer_reset"):
            logger.warning("%s: the schedule starts afresh", path)
        if numbered:
            _restore_progress(trainer, state, int(hint))
    _remember_compat(trainer, state)
    if numbered:
        trainer.last_checkpoint = path
    else:
        trainer.iteration = trainer.draws = 0
    logger.info("restored %s; starting after iteration %d", path, trainer.iteration)


def _remember_compat(trainer: Trainer, state: Mapping[str, Any]) -> None:
    trainer.compat += [place for place in compat_of(state) if place not in trainer.compat]


def _restore_moments(
    trainer: Trainer, state: Mapping[str, Any], path: str | Path, *, settings: bool, resumed: bool = False
) -> None:
    """What an optimiser keeps per parameter and, if wanted, its settings: they are where its schedule brought them."""
    fresh = [dict(group) for group in trainer.optimizer.param_groups]
    stored = state.get("optimizer")
    if stored is None:
        logger.warning("%s holds no optimiser state; it starts afresh", path)
        return
    _check_moments(trainer, stored, path, _advice("optimizer", resumed))
    load_optimizer(trainer.optimizer, stored)
    if settings:
        _tell_settings(trainer, fresh, path)
        return
    for group, own in zip(trainer.optimizer.param_groups, fresh, strict=True):
        group.clear()
        group.update(own)


def _tell_settings(trainer: Trainer, fresh: list[dict[str, Any]], path: str | Path) -> None:
    """An optimiser that is restored brings its settings along: those of the config that differ have no effect."""
    groups = trainer.optimizer.param_groups
    steered = {"momentum", "betas"} if any("max_momentum" in group for group in groups) else set()
    differing: dict[str, str] = {}
    for own, stored in zip(fresh, groups, strict=True):
        for name in sorted(trainer.optimizer.defaults.keys() - NOT_SETTINGS - steered - {"lr"}):
            if _listed(own.get(name)) != _listed(stored.get(name)):
                differing.setdefault(name, f"{name} {stored.get(name)} (in the config {own.get(name)})")
    if differing:
        logger.warning(
            "%s: its optimiser goes on with %s; to train with the config's, give the path as restore_hint, which "
            "starts at iteration 0, or set trainer_cfg.optimizer_reset: true beside a restore_hint",
            path,
            ", ".join(differing.values()),
        )


def _listed(setting: Any) -> Any:
    return list(setting) if isinstance(setting, tuple) else setting


def _advice(section: str, resumed: bool) -> str:
    """What to do about an optimiser or a schedule that does not fit."""
    if resumed:
        what = {"optimizer": "optimiser", "scheduler": "schedule"}[section]
        return (
            f"to train on with another {what}, give the path as restore_hint, with trainer_cfg.{section}_reset: true "
            "(--resume auto restores it whatever that says)"
        )
    return f"set trainer_cfg.{section}_reset: true to leave it out"


def _restore_schedule(trainer: Trainer, state: Mapping[str, Any], path: str | Path, *, resumed: bool = False) -> None:
    if state.get("scheduler") is None:
        logger.warning("%s holds no schedule; it starts afresh", path)
        return
    advice = _advice("scheduler", resumed)
    _check_schedule(trainer, state["scheduler"], path, advice)
    try:
        trainer.scheduler.load_state_dict(dict(state["scheduler"]))
        rates = trainer.scheduler.get_last_lr()
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: its schedule does not fit scheduler_cfg ({error!r}); {advice}") from error
    if trainer.as_reference and not resumed:  # there the optimiser's rates stay what they are
        return
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _check_schedule(trainer: Trainer, stored: Mapping[str, Any], path: str | Path, advice: str) -> None:
    """A schedule that is restored brings its settings along: those of the config that differ have no effect."""
    own = trainer.scheduler.state_dict()
    # Private ones differ between versions of torch.
    if missing := sorted(key for key in own if key not in stored and not key.startswith("_")):
        raise CheckpointError(
            f"{path}: its schedule is no {type(trainer.scheduler).__name__}, it has no {', '.join(missing)}; {advice}"
        )
    if odd := sorted(key for key in own if not key.startswith("_") and not alike(own[key], stored[key])):
        raise CheckpointError(
            f"{path}: its schedule has {odd[0]} of another kind, {str(stored[odd[0]])[:80]}; {advice}"
        )
    steps = stored.get("total_steps")
    if isinstance(steps, int) and steps < trainer.total_iter:
        raise CheckpointError(
            f"{path}: its schedule ends after {steps} steps, and trainer_cfg.total_iter is {trainer.total_iter}; "
            f"{advice}"
        )
    settings = [key for key in ("base_lrs", *trainer.config["scheduler_cfg"]) if key in own and key in stored]
    differing = [f"{key} {_shown(stored[key])}" for key in settings if own[key] != stored[key]]
    if differing:
        logger.warning("%s: its schedule goes on with %s; the config says otherwise", path, ", ".join(differing))


def _shown(setting: Any) -> Any:
    return sorted(setting.elements()) if isinstance(setting, Counter) else setting


def _check_moments(trainer: Trainer, stored: Mapping[str, Any], path: str | Path, advice: str) -> None:
    groups = trainer.optimizer.param_groups
    sizes, own_sizes = [len(group["params"]) for group in stored["param_groups"]], [len(g["params"]) for g in groups]
    if sizes != own_sizes:
        raise CheckpointError(
            f"{path}: its optimiser has groups of {sizes} parameters, this run's has {own_sizes}; {advice}"
        )
    needed = trainer.optimizer.defaults.keys() - NOT_SETTINGS
    if missing := sorted({key for group in stored["param_groups"] for key in needed if key not in group}):
        solver = type(trainer.optimizer).__name__
        raise CheckpointError(f"{path}: its optimiser is no {solver}, it has no {', '.join(missing)}; {advice}")
    for theirs, mine in zip(stored["param_groups"], groups, strict=True):
        if odd := sorted(key for key in needed if key in mine and not alike(mine[key], theirs[key])):
            raise CheckpointError(f"{path}: its optimiser has {odd[0]} {str(theirs[odd[0]])[:80]}; {advice}")
    numbers = [number for group in stored["param_groups"] for number in group["params"]]
    parameters = [parameter for group in groups for parameter in group["params"]]
    kept = {name for moments in stored["state"].values() for name in moments}
    kinds: dict[tuple[int, str], str] = {}
    owners = [place for place, group in enumerate(groups) for _ in group["params"]]
    for number, parameter, owner in zip(numbers, parameters, owners, strict=True):
        if missing := sorted(kept - stored["state"].get(number, dict.fromkeys(kept)).keys()):
            raise CheckpointError(f"{path}: its optimiser has no {missing[0]} for parameter {number}; {advice}")
        for name, value in stored["state"].get(number, {}).items():
            first = kinds.setdefault((owner, name), _kind(value)) if parameter.ndim else _kind(value)
            if first != _kind(value):
                found = f"{name} of two kinds: {first}, and {_kind(value)} for parameter {number}"
                raise CheckpointError(f"{path}: its optimiser has {found}; {advice}")
            shape = getattr(value, "shape", ())
            if len(shape) and shape != parameter.shape:
                found = f"{name} {list(shape)} for a parameter {list(parameter.shape)}"
                raise CheckpointError(f"{path}: its optimiser has {found}; {advice}")


def _kind(value: Any) -> str:
    """What an optimiser keeps under a name: the same for all of a group, or its fused step ends in an exception."""
    if isinstance(value, Tensor):
        return "a tensor" if value.ndim else "a number in a tensor"
    return "a number" if isinstance(value, int | float) else str(value)[:80]


def _restore_progress(trainer: Trainer, state: Mapping[str, Any], iteration: int) -> None:
    trainer.iteration = iteration
    trainer.draws = int(state.get("draws", iteration)) if state.get("iteration") == iteration else iteration
    trainer.precision.load_state_dict(state.get("scaler") or {})
    processes = state.get("world_size", world_size())
    if processes != world_size():
        logger.warning(
            "the checkpoint was written by %d processes and this run has %d: it goes on, though not bit for bit",
            processes,
            world_size(),
        )
    if "interval" in state:
        trainer.log_hook.means.load_state_dict(state["interval"], trainer.device)
    if "rng" in state:
        restore_rng_states(state["rng"], trainer.device)


def _check_labels(trainer: Trainer, state: Mapping[str, Any], path: str | Path) -> None:
    """Classes are numbered by the sorted labels: with others, a classifier's weights mean other people."""
    stored, own = state.get("labels"), list(trainer.dataset.label_set)
    if stored is not None and list(stored) != own:
        raise CheckpointError(
            f"{path}: trained on {len(stored)} subjects, and the data now has {len(own)}, or others; "
            "to train on with other data, give the path as restore_hint instead of resuming"
        )
    fingerprint = trainer.dataset.fingerprint()
    if state.get("data_fingerprint") not in (None, fingerprint):
        logger.warning(
            "%s: the training data has changed: %s then, %s now", path, state["data_fingerprint"], fingerprint
        )
