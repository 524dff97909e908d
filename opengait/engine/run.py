"""Training and testing of a config, from the first line of the log to the last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opengait.config.compat import COMPAT, said
from opengait.engine.checkpoint import compat_of, find_checkpoint, load_checkpoint, restore_weights
from opengait.engine.distributed import choose_device, init_from_environment, is_main, on_main, world_size
from opengait.engine.evaluator import Evaluator
from opengait.engine.fit import refuse_trained
from opengait.engine.hooks.tensorboard import open_writer, write_figures
from opengait.engine.logs import logging_to
from opengait.engine.preflight import check_testing
from opengait.engine.provenance import record_start
from opengait.engine.randomness import seed_everything
from opengait.engine.run_folder import run_folder, write_config
from opengait.engine.run_lock import locked
from opengait.engine.trained_with import differences
from opengait.engine.trainer import Trainer, TrainResult
from opengait.modeling.base_model import BaseModel
from opengait.modeling.build import build_model
from opengait.plugins import load_plugins

logger = logging.getLogger(__name__)


def train(
    config: Mapping[str, Any],
    *,
    resume: str = "no",
    device: str = "auto",
    output: str | Path = "output",
    log_to_file: bool = False,
) -> TrainResult:
    """Trains the network of a resolved config; under torchrun, as one of its processes.

    Args:
        resume: 'auto' goes on from the newest whole checkpoint of this run; 'no' starts as `restore_hint` says.
        device: 'auto', 'cpu', 'cuda' or 'cuda:<number>'.
        output: runs lie in `<output>/<dataset_name>/<model>/<save_name>/`.
        log_to_file: also write the log to `logs/` there.

    Raises:
        ValueError: what is wrong with config, data or checkpoint, before the first iteration; another run writes to
            the same folder.
        NonFiniteError: more than `max_bad_steps` steps in a row were not finite.
        LostProcessError: another process of the run died or hangs; the message names it.
    """
    load_plugins(config.get("plugins") or ())
    folder = run_folder(config, "trainer_cfg", output)
    chosen = choose_device(device)
    timeout = config["trainer_cfg"].get("dist_timeout_s", 1800)
    with (
        logging_to(folder, log_to_file=log_to_file),
        init_from_environment(chosen, timeout) as roll_call,
        locked(folder),
    ):
        trainer = Trainer(config, folder, device=chosen, resume=resume)
        if roll_call is not None:
            trainer.waiting = roll_call.waiting
        about = {
            "begins_at": trainer.iteration,
            "device": str(chosen),
            "processes": world_size(),
            "data": trainer.dataset.fingerprint(),
        }
        on_main(lambda: record_start(folder / "run.json", about))
        return trainer.fit()


def test(
    config: Mapping[str, Any],
    *,
    iteration: int | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    output: str | Path = "output",
    log_to_file: bool = False,
) -> dict[str, float]:
    """Tests a trained network under the config's protocol.

    Which one: `checkpoint` (a path), else `iteration`, else `evaluator_cfg.restore_hint`; 0 is the network as
    initialised.

    Returns:
        Figures in percent by tag, on the main process; empty on the others.

    Raises:
        ValueError: what is wrong with config, data or checkpoint; embeddings that are not finite; both `iteration` and
            `checkpoint` are given.
    """
    if iteration is not None and checkpoint is not None:
        raise ValueError(f"iteration {iteration} and checkpoint {checkpoint} are both given; give one of them")
    load_plugins(config.get("plugins") or ())
    folder = run_folder(config, "evaluator_cfg", output)
    chosen = choose_device(device)
    cfg, trainer_cfg = config["evaluator_cfg"], config.get("trainer_cfg") or {}
    timeout = trainer_cfg.get("dist_timeout_s", 1800)
    with logging_to(folder, log_to_file=log_to_file), init_from_environment(chosen, timeout):
        hint = cfg.get("restore_hint", 0)
        hint = str(checkpoint) if checkpoint is not None else hint if iteration is None else iteration
        if is_main():
            text = write_config(folder, "config-test.yaml", config)
            logger.info("resolved config, saved as %s:\n%s", folder / "config-test.yaml", text)
            record_start(folder / "run-test.json", {"device": str(chosen), "processes": world_size()})
        evaluator = Evaluator(config, folder, device=chosen)
        seed_everything(trainer_cfg.get("seed", 0))
        model = build_model(config["model_cfg"], training=False, data_cfg=config["data_cfg"], config=config)
        model.save_path = str(folder)
        check_testing(config, evaluator.dataset, evaluator.transforms, model)
        tested, trained_with, evaluator.trained_on = _restore_for_test(model, config, folder, hint, evaluator)
        refuse_trained(config, evaluator.dataset, evaluator.trained_on)
        evaluator.compat += [place for place in trained_with if place not in evaluator.compat]
        if evaluator.compat and is_main():
            logger.info("%s", said(evaluator.compat))
        figures = evaluator.run(model.to(chosen), tested)
        if is_main():
            writer = open_writer(folder)
            write_figures(writer, evaluator.evaluation, tested)
            if evaluator.compat:
                writer.add_text(COMPAT, said(evaluator.compat), tested)
            writer.close()
        return figures


def _restore_for_test(
    model: BaseModel, config: Mapping[str, Any], folder: Path, hint: int | str, evaluator: Evaluator
) -> tuple[int, list[str], list[str] | None]:
    """Fills the network; the iteration it was trained to, where its config had `compat: reference`, and the subjects
    it was trained on, where the checkpoint says so."""
    cfg = config["evaluator_cfg"]
    if hint == 0:
        logger.warning("restore_hint is 0: testing a FRESHLY INITIALISED network, nothing has been trained")
        return 0, [], []
    path = find_checkpoint(folder / "checkpoints", cfg["save_name"], hint) if isinstance(hint, int) else Path(hint)
    state = load_checkpoint(path)
    strict = cfg.get("restore_ckpt_strict", True)
    restore_weights(model, state, path, strict=strict, model_cfg=config["model_cfg"])
    logger.info("restored %s", path)
    if is_main():
        transforms = None if model.transforms_itself else evaluator.transforms
        for difference in differences(state, config, evaluator.dataset, transforms):
            logger.warning("%s: %s", path, difference)
    trained_on = None if state.get("labels") is None else [str(label) for label in state["labels"]]
    return hint if isinstance(hint, int) else int(state.get("iteration", 0)), compat_of(state), trained_on
