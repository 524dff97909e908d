"""Where a training run begins: afresh, from `restore_hint`, or where it stopped (`--resume auto`)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opengait.engine.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    newest_whole_checkpoint,
    restore_weights,
)
from opengait.engine.distributed import broadcast_text, on_main, world_size
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


def _resume(trainer: Trainer) -> bool:
    folder = trainer.folder / "checkpoints"
    found: list[tuple[Path, dict[str, Any]]] = []
    on_main(lambda: found.extend(newest_whole_checkpoint(folder, trainer.save_name)))
    path = broadcast_text(str(found[0][0]) if found else "").strip()
    if not path:
        logger.info("nothing to resume in %s", folder)
        return False
    state = found[0][1] if found else load_checkpoint(path)
    if not isinstance(state.get("iteration"), int):
        raise CheckpointError(f"{path}: holds no iteration to go on from; start from its weights with restore_hint")
    restore_weights(trainer.model, state, path, model_cfg=trainer.config["model_cfg"])
    _check_labels(trainer, state, path)
    _restore_moments(trainer, state, path, schedule=True)
    _restore_progress(trainer, state, int(state["iteration"]))
    trainer.last_checkpoint = Path(path)
    logger.info("resumed from %s: going on after iteration %d", path, trainer.iteration)
    return True


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
    if not cfg.get("optimizer_reset"):
        _restore_moments(trainer, state, path, schedule=numbered and not cfg.get("scheduler_reset"))
    elif numbered and not cfg.get("scheduler_reset"):
        _restore_schedule(trainer, state, path)
    if numbered:
        _restore_progress(trainer, state, int(hint))
        trainer.last_checkpoint = path
    else:
        trainer.iteration = trainer.draws = 0
    logger.info("restored %s; starting after iteration %d", path, trainer.iteration)


def _restore_moments(trainer: Trainer, state: Mapping[str, Any], path: str | Path, *, schedule: bool) -> None:
    """Optimiser and, if wanted, schedule; with a fresh schedule, of the optimiser only what it keeps per parameter."""
    fresh = [dict(group) for group in trainer.optimizer.param_groups]
    stored = state.get("optimizer")
    if stored is None:
        logger.warning("%s holds no optimiser state; it starts afresh", path)
    else:
        _check_moments(trainer, stored, path)
        load_optimizer(trainer.optimizer, stored)
        for group, settings in zip(trainer.optimizer.param_groups, fresh, strict=True):
            if not schedule:  # rates and betas are where the stored schedule had brought them
                group.clear()
                group.update(settings)
    if schedule:
        _restore_schedule(trainer, state, path)
    else:
        logger.warning("%s: the schedule starts afresh", path)


def _restore_schedule(trainer: Trainer, state: Mapping[str, Any], path: str | Path) -> None:
    if state.get("scheduler") is None:
        logger.warning("%s holds no schedule; it starts afresh", path)
        return
    _check_schedule(trainer, state["scheduler"], path)
    try:
        trainer.scheduler.load_state_dict(dict(state["scheduler"]))
        rates = trainer.scheduler.get_last_lr()
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its schedule does not fit scheduler_cfg ({error!r}); set trainer_cfg.scheduler_reset: true"
        ) from error
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _check_schedule(trainer: Trainer, stored: Mapping[str, Any], path: str | Path) -> None:
    """A schedule that is restored brings its settings along: those of the config that differ have no effect."""
    own = trainer.scheduler.state_dict()
    # Private ones differ between versions of torch.
    if missing := sorted(key for key in own if key not in stored and not key.startswith("_")):
        raise CheckpointError(
            f"{path}: its schedule is no {type(trainer.scheduler).__name__}, it has no {', '.join(missing)}; "
            "to train on with another schedule, give the path as restore_hint"
        )
    steps = stored.get("total_steps")
    if isinstance(steps, int) and steps < trainer.total_iter:
        raise CheckpointError(
            f"{path}: its schedule ends after {steps} steps, and trainer_cfg.total_iter is {trainer.total_iter}; "
            "to train on with another schedule, give the path as restore_hint"
        )
    settings = [key for key in ("base_lrs", *trainer.config["scheduler_cfg"]) if key in own and key in stored]
    differing = [f"{key} {_shown(stored[key])}" for key in settings if own[key] != stored[key]]
    if differing:
        logger.warning("%s: its schedule goes on with %s; the config says otherwise", path, ", ".join(differing))


def _shown(setting: Any) -> Any:
    return sorted(setting.elements()) if isinstance(setting, Counter) else setting


def _check_moments(trainer: Trainer, stored: Mapping[str, Any], path: str | Path) -> None:
    groups = trainer.optimizer.param_groups
    advice = "set trainer_cfg.optimizer_reset: true to start with a fresh optimiser"
    sizes, own_sizes = [len(group["params"]) for group in stored["param_groups"]], [len(g["params"]) for g in groups]
    if sizes != own_sizes:
        raise CheckpointError(
            f"{path}: its optimiser has groups of {sizes} parameters, this run's has {own_sizes}; {advice}"
        )
    needed = trainer.optimizer.defaults.keys() - NOT_SETTINGS
    if missing := sorted({key for group in stored["param_groups"] for key in needed if key not in group}):
        solver = type(trainer.optimizer).__name__
        raise CheckpointError(f"{path}: its optimiser is no {solver}, it has no {', '.join(missing)}; {advice}")
    numbers = [number for group in stored["param_groups"] for number in group["params"]]
    parameters = [parameter for group in groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in stored["state"].get(number, {}).items():
            shape = getattr(value, "shape", ())
            if len(shape) and shape != parameter.shape:
                found = f"{name} {list(shape)} for a parameter {list(parameter.shape)}"
                raise CheckpointError(f"{path}: its optimiser has {found}; {advice}")


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
