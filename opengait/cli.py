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

from opengait.mistakes import MISTAKES, is_mistake

app = typer.Typer(
    name="opengait",
    help="Train, evaluate and deploy gait-recognition networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="Experiment YAML; a shipped name works anywhere.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one key.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE|MODULE", help="Python file or module, or protocol file; repeatable."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Output = Annotated[Path, typer.Option(help="Where runs are kept.")]
LogToFile = Annotated[bool, typer.Option("--log-to-file", "--log_to_file", help="Also write the log to a file.")]


class Phase(str, Enum):
    """The two jobs of a config."""

    train = "train"
    test = "test"


class Resume(str, Enum):
    """How a training run begins."""

    no = "no"
    auto = "auto"


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    plugin: Plugins = None,
    resume: Annotated[
        Resume, typer.Option(help="auto: go on from the newest whole checkpoint of this run.")
    ] = Resume.no,
    device: Device = "auto",
    output: Output = Path("output"),
    log_to_file: LogToFile = False,
) -> None:
    """Train the model of a config (under torchrun: on all its processes)."""
    from opengait import engine
    from opengait.config import load_config

    settings = load_config(config, overrides or (), plugin or ())
    result = engine.train(settings, resume=resume.value, device=device, output=output, log_to_file=log_to_file)
    if result.stop_signal:
        raise typer.Exit(128 + result.stop_signal)


@app.command()
def test(
    config: ConfigPath,
    overrides: Overrides = None,
    plugin: Plugins = None,
    iteration: Annotated[int | None, typer.Option("--iter", help="Checkpoint by number.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint by path.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="What ranking may take beyond the embeddings, such as 2GB; default 1GB.")
    ] = None,
    verification: Annotated[bool, typer.Option("--verification", help="Also ROC, EER, TAR at FAR, open set.")] = False,
    device: Device = "auto",
    output: Output = Path("output"),
    log_to_file: LogToFile = False,
) -> None:
    """Embed the test subjects with a trained model and rank them under the config's protocol."""
    from opengait import engine
    from opengait.config import load_config

    changes = list(overrides or ())
    changes += [] if memory is None else [f"evaluator_cfg.memory={memory}"]
    changes += ["evaluator_cfg.verification=true"] if verification else []
    settings = load_config(config, changes, plugin or ())
    engine.test(
        settings,
        iteration=iteration,
        checkpoint=None if checkpoint is None else str(checkpoint),
        device=device,
        output=output,
        log_to_file=log_to_file,
    )


@app.command()
def check(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG|STORE", help="Experiment YAML; or a packed store, to compare all of it.")
    ],
    overrides: Overrides = None,
    plugin: Plugins = None,
    phase: Annotated[Phase | None, typer.Option(help="Check one phase only; else both.")] = None,
    batch: Annotated[bool, typer.Option(help="Put one batch through the network.")] = True,
    checksums: Annotated[bool, typer.Option(help="Read all of a packed store and compare its checksums.")] = True,
    device: Device = "auto",
    output: Output = Path("output"),
) -> None:
    """Find what is wrong with a config, its data and its network before anything is trained."""
    from rich.console import Console

    from opengait.config import load_config
    from opengait.engine.preflight import preflight
    from opengait.engine.store_check import check_store

    if Path(config).is_dir():
        if overrides or plugin or phase or not checksums:
            raise ValueError(f"{config} is a folder, of which the checksums are compared; no option goes with that")
        findings = check_store(config)
    else:
        findings = preflight(
            load_config(config, overrides or (), plugin or ()),
            device=device,
            run_batch=batch,
            phase=None if phase is None else phase.value,
            output=output,
            checksums=checksums,
        )
    console = Console()
    for finding in findings:
        console.print(str(finding), markup=False, soft_wrap=True)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(2)


@app.command()
def bench(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="Experiment YAML; default the demo's network.")
    ] = None,
    overrides: Overrides = None,
    plugin: Plugins = None,
    iterations: Annotated[int, typer.Option(help="Measured ones; figures are their medians.")] = 10,
    models: Annotated[bool, typer.Option("--models", help="Frames a second of every network instead.")] = False,
    write: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures here.")] = None,
    device: Device = "auto",
) -> None:
    """Measure where an iteration's time goes on this machine; on generated walkers where a config names no data."""
    import json

    from rich.console import Console

    from opengait.config import load_config
    from opengait.engine import bench as benching
    from opengait.engine.bench import report

    console = Console()
    if models:
        if config or overrides or plugin:
            raise ValueError("--models measures the recipes that come along; it takes no CONFIG, --set or --plugin")
        speeds = list(benching.bench_models(device=device, iterations=iterations))
        console.print(report.speeds_table(speeds))
        figures: object = [vars(speed) for speed in speeds]
    else:
        settings = load_config(config or benching.DEMO, overrides or (), plugin or ())
        found = benching.bench(settings, generated=None if config else True, device=device, iterations=iterations)
        console.print(report.parts_table(found))
        for line in report.lines(found):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        figures = found.to_dict()
    if write is not None:
        write.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@app.command()
def synthesize(
    out: Annotated[Path, typer.Option(help="Folder of the data set; made if absent.")],
    subjects: Annotated[int | None, typer.Option(help="How many; with --motion by default all of the file.")] = None,
    train_subjects: Annotated[int | None, typer.Option(help="The first so many are for training.")] = None,
    seed: Annotated[int, typer.Option(help="Of bodies, gaits and everything else.")] = 0,
    render_seed: Annotated[int, typer.Option(help="Another one films the same walkers again.")] = 0,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Walking condition such as cl-01; repeatable.")
    ] = None,
    views: Annotated[list[str] | None, typer.Option("--view", help="Camera angle such as 090; repeatable.")] = None,
    frames: Annotated[tuple[int, int], typer.Option(help="Fewest and most frames of a sequence.")] = (35, 50),
    strength: Annotated[float, typer.Option(help="Of segmentation faults; 0 for none.")] = 1.0,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="silhouettes (default); silhouettes and smpl; casiab*; parsing; unlabelled. Repeatable."),
    ] = None,
    motion: Annotated[Path | None, typer.Option(help="npz of recorded walks in place of the procedural gait.")] = None,
    own_body: Annotated[
        bool | None, typer.Option(help="A body of each subject's own; default yes, no with --motion.")
    ] = None,
    own_gait: Annotated[bool, typer.Option(help="A gait of each subject's own.")] = True,
    workers: Annotated[int | None, typer.Option(help="Processes; default one a processor.")] = None,
) -> None:
    """Render walkers into the field's training layout: subject/type/view/view.pkl and a partition file."""
    from rich.console import Console

    from opengait import synthetic

    report = synthetic.synthesize(
        out,
        subjects,
        seed=seed,
        types=types or synthetic.TYPES,
        views=views or synthetic.VIEWS,
        frames=frames,
        strength=strength,
        modalities=modality or ("silhouettes",),
        motion=motion,
        own_body=own_body,
        own_gait=own_gait,
        render_seed=render_seed,
        train_subjects=train_subjects,
        workers=workers,
    )
    Console().print(
        f"{report.out}: {len(report.train)} training and {len(report.test)} test subjects, "
        f"{report.sequences} sequences ({report.written} written now, {report.frames} frames, {report.seconds:.0f} s); "
        f"partition {report.partition}",
        soft_wrap=True,
    )


@app.command("synthesize-raw")
def synthesize_raw(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="CASIA-B, CASIA-B*, OUMVLP, GREW, HID2022, ...")],
    out: Annotated[Path, typer.Option(help="New or empty folder.")],
    subjects: Annotated[int, typer.Option(help="How many, on both sides of the data set's partition.")] = 4,
    seed: Annotated[int, typer.Option(help="Of walkers, cameras and faults.")] = 0,
    archives: Annotated[bool, typer.Option("--archives", help="The owners' archives instead of folders.")] = False,
    frames: Annotated[tuple[int, int], typer.Option(help="Fewest and most frames of a sequence.")] = (6, 8),
    types: Annotated[list[str] | None, typer.Option("--type", help="Default all; repeatable.")] = None,
    views: Annotated[list[str] | None, typer.Option("--view", help="Default all; repeatable.")] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="Put in this one, 'none' for none; default each kind once. Repeatable.")
    ] = None,
) -> None:
    """Write walkers laid out as a raw distribution, with the faults of real ones, to try `opengait prepare` on."""
    from rich.console import Console

    from opengait.synthetic import raw

    report = raw.write(
        dataset,
        out,
        subjects,
        seed=seed,
        archives=archives,
        frames=frames,
        types=types,
        views=views,
        faults=() if fault == ["none"] else fault,
    )
    console = Console()
    console.print(
        f"{report.out}: a look-alike of {report.dataset}, {len(report.train)} training and {len(report.test)} test "
        f"subjects, {report.sequences} sequences, {report.frames} frames; faults put in: {len(report.faults)}",
        soft_wrap=True,
    )
    for one in report.faults:
        console.print(f"  {one.kind}: {one.path}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="CASIA-B, CASIA-B*, OUMVLP, GREW, HID2022, ...")],
    raw: Annotated[Path, typer.Option(help="Folder of the download: archives, what was in them, or both.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set; made if absent.")],
    size: Annotated[
        int | None, typer.Option(help="Height and width of silhouettes; default 64. Not for sets that come normalised.")
    ] = None,
    packed: Annotated[bool, typer.Option("--packed", help="Write a packed store, not a tree of pickles.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default one a processor.")] = None,
    password: Annotated[
        str | None, typer.Option(envvar="OPENGAIT_PASSWORD", help="Of encrypted archives, as their owners gave it.")
    ] = None,
) -> None:
    """Bring the raw download of a public data set into the training layout; goes on where it was cut off."""
    from rich.console import Console

    from opengait.prepare import prepare as prepare_dataset

    report = prepare_dataset(dataset, raw, out, size=size, packed=packed, workers=workers, password=password)
    console = Console()
    for line in report.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def pack(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder tree subject/type/view/*.pkl.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the packed store; default DIR-packed.")] = None,
    use: Annotated[
        list[int] | None,
        typer.Option(help="Position of a modality, in the order of file names from 0; repeatable. Default all."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that read ahead; default one a processor.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a packed store that is there.")] = False,
) -> None:
    """Pack a data set into one file a modality and an index, which any dataset_root may name in place of the tree."""
    from rich.console import Console

    from opengait.data.tree_packing import pack_tree

    report = pack_tree(root, out, data_in_use=use, workers=workers, force=force)
    Console().print(str(report), markup=False, highlight=False, soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where walkers and runs are kept.")] = Path("output/demo"),
    train_subjects: Annotated[int, typer.Option(help="Walkers to train on.")] = 80,
    test_subjects: Annotated[int, typer.Option(help="Walkers to test on.")] = 30,
    iterations: Annotated[int | None, typer.Option(help="Of training; default as the config says.")] = None,
    seed: Annotated[int, typer.Option(help="Of walkers, network and batches.")] = 0,
    device: Device = "auto",
) -> None:
    """Generate walkers, train GaitSet on them, test it on others, and show what the figures are worth."""
    from opengait.demo import run_demo

    run_demo(
        out,
        train_subjects=train_subjects,
        test_subjects=test_subjects,
        iterations=iterations,
        seed=seed,
        device=device,
    )


checkpoint_app = typer.Typer(no_args_is_help=True, help="Look into checkpoint files, and convert them.")
app.add_typer(checkpoint_app, name="checkpoint")
CheckpointFile = Annotated[Path, typer.Argument(metavar="FILE", help="Ours, the reference's, or safetensors.")]


@checkpoint_app.command("inspect")
def inspect_file(
    file: CheckpointFile,
    config: Annotated[
        str | None, typer.Option(help="Compare with this config's network; else with every shipped one.")
    ] = None,
    plugin: Plugins = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every key and its shape.")] = False,
) -> None:
    """Show what is in a checkpoint, and which network it fits."""
    from rich.console import Console

    from opengait.engine.inspection import inspect_checkpoint
    from opengait.engine.inspection_report import report_lines

    console = Console()
    for line in report_lines(inspect_checkpoint(file, config, plugin or ()), every_key=keys):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@checkpoint_app.command("convert")
def convert_file(
    file: CheckpointFile,
    out: Annotated[Path | None, typer.Option(help="New file; default beside the old one.")] = None,
) -> None:
    """Write a checkpoint's weights as safetensors, with its config as metadata."""
    from rich.console import Console

    from opengait.engine.inspection import convert_checkpoint

    Console().print(f"written: {convert_checkpoint(file, out)}", markup=False, soft_wrap=True)


def main() -> None:
    """Console entry: user mistakes become one clear message, everything else keeps its traceback."""
    try:
        app(standalone_mode=True)
    except MISTAKES as mistake:
        if os.environ.get("OPENGAIT_TRACEBACK") or not is_mistake(mistake):
            raise
        sys.stderr.write(f"{mistake}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
