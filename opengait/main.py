"""The field's own form: `torchrun --nproc_per_node=N opengait/main.py --cfgs CONFIG --phase train|test`.

Also without torchrun (one process), and as `python -m opengait.main`. A run ended by a signal has status 128 + its
number (143 for SIGTERM, 130 for SIGINT), after its checkpoint was saved; torchrun itself then returns 1. A mistake in
config, data or arguments has status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

GRACE_S = 2.0

if __name__ == "__main__" and not __package__:
    # Started as a file, Python puts the package's own folder first, where `data` or `config` could hide other modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def parser() -> argparse.ArgumentParser:
    """The options of the reference implementation, and those of ours that a run needs."""
    options = argparse.ArgumentParser(prog="opengait/main.py", description="Train or test the model of a config.")
    options.add_argument("--cfgs", required=True, metavar="CONFIG", help="experiment YAML")
    options.add_argument("--phase", choices=("train", "test"), default="train")
    options.add_argument("--iter", type=int, default=None, help="iteration to restore, in place of restore_hint")
    options.add_argument("--log_to_file", "--log-to-file", action="store_true", help="also write the log to a file")
    options.add_argument("--local_rank", "--local-rank", type=int, default=0, help="accepted for old launchers, unused")
    options.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override one key")
    options.add_argument(
        "--plugin", action="append", default=[], metavar="FILE|MODULE", help="Python file or module, or protocol file"
    )
    options.add_argument("--resume", choices=("no", "auto"), default="no")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    options.add_argument("--output", default="output", help="where runs are kept")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one phase; the status to exit with."""
    given = parser().parse_args(arguments)
    from opengait import engine
    from opengait.config import load_config
    from opengait.mistakes import MISTAKES, is_mistake

    overrides = list(given.set)
    if given.iter is not None:
        overrides += [f"{section}.restore_hint={given.iter}" for section in ("trainer_cfg", "evaluator_cfg")]
    common = {"device": given.device, "output": given.output, "log_to_file": given.log_to_file}
    try:
        config = load_config(given.cfgs, overrides, given.plugin)
        if given.phase == "test":
            engine.test(config, **common)
            return 0
        result = engine.train(config, resume=given.resume, **common)
        return 128 + result.stop_signal if result.stop_signal else 0
    except MISTAKES as mistake:
        if os.environ.get("OPENGAIT_TRACEBACK") or not is_mistake(mistake):
            raise
        _tell(mistake)
        return 2


def _tell(mistake: Exception) -> None:
    """The message once: process 0 speaks for all, another one where it has failed alone."""
    number = int(os.environ.get("RANK", 0))
    if number:
        # Where process 0 has failed too, the launcher ends this one meanwhile.
        time.sleep(GRACE_S)
    sys.stderr.write(f"rank {number}: {mistake}\n" if number else f"{mistake}\n")


if __name__ == "__main__":
    sys.exit(main())
