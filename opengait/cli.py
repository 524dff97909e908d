"""`opengait <verb>`: one short function a verb; the work is done in the rooms.

A mistake of the user's (config, data, arguments) is shown as its message alone and ends with status 2; set
OPENGAIT_TRACEBACK=1 to see where it was raised.
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="opengait",
    help="Train, evaluate and deploy gait-recognition networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="Experiment YAML; a shipped name works anywhere.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Output = Annotated[Path, typer.Option(help="Where runs are kept.")]
LogToFile = Annotated[bool, typer.Option("--log-to-file", "--log_to_file", help="Also write the log to a file.")]


class Resume(str, Enum):
    """How a training run begins."""

    no = "no"
    auto = "auto"


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[Resume, typer.Option(help="auto: go on from the newest whole checkpoint of this run.")] = Resume.no,
    device: Device = "auto",
    output: Output = Path("output"),
    log_to_file: LogToFile = False,
) -> None:
    """Train the model of a config (under torchrun: on all its processes)."""
    from opengait import engine
    from opengait.config import load_config

    settings = load_config(config, overrides or ())
    engine.train(settings, resume=resume.value, device=device, output=str(output), log_to_file=log_to_file)


@app.command()
def test(
    config: ConfigPath,
    overrides: Overrides = None,
    iteration: Annotated[int | None, typer.Option("--iter", help="Checkpoint by number.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint by path.")] = None,
    device: Device = "auto",
    output: Output = Path("output"),
    log_to_file: LogToFile = False,
) -> None:
    """Embed the test subjects with a trained model and rank them under the config's protocol."""
    from opengait import engine
    from opengait.config import load_config

    settings = load_config(config, overrides or ())
    engine.test(
        settings,
        iteration=iteration,
        checkpoint=None if checkpoint is None else str(checkpoint),
        device=device,
        output=str(output),
        log_to_file=log_to_file,
    )


def main() -> None:
    """Console entry: user mistakes become one clear message, everything else keeps its traceback."""
    try:
        app(standalone_mode=True)
    except (ValueError, OSError) as mistake:
        if os.environ.get("OPENGAIT_TRACEBACK"):
            raise
        sys.stderr.write(f"{mistake}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
