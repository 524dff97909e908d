"""A data set of synthetic walkers on disk: `subject/type/view/view.pkl` and a partition file."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
from tqdm import tqdm

from opengait.synthetic import arguments
from opengait.synthetic.camera import VIEWS
from opengait.synthetic.modalities import UNLABELLED, file_names, render_files, unlabelled_folder
from opengait.synthetic.motion import load_motion
from opengait.synthetic.sequence import SILHOUETTES, Settings

# Raised whenever the same arguments would give other frames: figures of different versions do not compare.
GENERATOR_VERSION = 1

TYPES = (*(f"nm-{number:02d}" for number in range(1, 7)), "bg-01", "bg-02", "cl-01", "cl-02")
PARTITION_FILE, SETTINGS_FILE = "partition.json", "synthesis.json"
_UNFINISHED = ".opengait-unfinished-"


@dataclass(frozen=True)
class SynthesisReport:
    """What `synthesize` wrote."""

    out: Path
    partition: Path
    train: list[str]
    test: list[str]
    types: list[str]
    views: list[str]
    sequences: int
    """folders of pickles in the data set, one a view"""
    written: int
    """of these, made by this call; the others were there already"""
    frames: int
    """frames made by this call"""
    seconds: float
    sources: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """recorded walks only: "subject/type" -> (walk, first frame, frame after the last)"""


def synthesize(
    out: str | Path,
    subjects: int | None = None,
    *,
    seed: int = 0,
    types: Sequence[str] = TYPES,
    views: Sequence[str] = VIEWS,
    frames: tuple[int, int] = (35, 50),
    strength: float = 1.0,
    modalities: Sequence[str] = SILHOUETTES,
    motion: str | Path | None = None,
    own_body: bool | None = None,
    own_gait: bool = True,
    render_seed: int = 0,
    train_subjects: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> SynthesisReport:
    """Renders walkers into the field's training layout, `out/subject/type/view/view.pkl`, uint8 [s, 64, 64].

    The same arguments give the same bytes for any number of workers. A call that was cut off goes on where it stopped
    when it is made again.

    Args:
        out: folder of the data set; made if absent.
        subjects: how many; with `motion` at most, and by default, the people of the file.
        seed: of bodies, gaits and everything else.
        types: walking conditions with a number each: nm (normal), bg (bag), cl (coat).
        views: camera angles, of 000, 018 .. 180.
        frames: fewest and most frames of a sequence; the length is drawn evenly.
        strength: of segmentation faults; 0 for none, 1 for a fair amount.
        modalities: what is written of the same walks:
            "silhouettes": `view.pkl`;
            "silhouettes", "smpl": `sils-view.pkl`, and `smpls-view.pkl`, float32 [s, 85] (camera, pose, shape), as
            Gait3D has them;
            "casiab*": `view-aligned-sils.pkl` uint8 [s, 64, 44], `view-ratios.pkl` float64 [s] (width / height of the
            person's box), `view-rgbs.pkl` uint8 [s, 3, 128, 128] and `view-sils.pkl` uint8 [s, 128, 128], the box
            squeezed to a square, as CASIA-B* has them;
            "parsing": `view.pkl`, uint8 [s, 64, 64] with the classes 0..11 of Gait3D-Parsing;
            "unlabelled": uint8 [s, 64, 44] in `out/number/number/number/`, three random numbers that say nothing of
            subject, type or view, as GaitLU-1M has them. The first numbers are the training subjects; there is no test
            set.
        motion: npz of recorded walks that take the place of the procedural gait; all people are test subjects.
            Sequences nm-01..04 share no frame with the others.
        own_body: a body of each subject's own instead of the population mean; default yes, with `motion` no.
        own_gait: a gait of each subject's own instead of the population mean.
        render_seed: another one renders the same walkers again, with new strides, phase, cameras, clothes and faults.
        train_subjects: the first so many are training subjects; default CASIA-B's share of 74 in 124.
        workers: processes; default one a processor. With more than one a script needs `if __name__ == "__main__":`.
        progress: show a bar, if the output is a terminal.

    Raises:
        ValueError: arguments that make no data set, a bad motion file, or a folder that holds another data set.
    """
    started = time.monotonic()
    walks = load_motion(motion) if motion is not None else None
    if walks and not own_gait:
        raise ValueError("own_gait=False goes with the procedural gait only: recorded walks are their people's own")
    settings = Settings(
        seed=arguments.whole("seed", seed, 0),
        render_seed=arguments.whole("render_seed", render_seed, 0),
        types=arguments.types(types),
        views=arguments.views(views),
        frames=arguments.frame_range(frames),
        strength=arguments.strength(strength),
        modalities=arguments.modalities(modalities),
        own_body=(motion is None) if own_body is None else own_body,
        own_gait=own_gait,
        motion=walks,
    )
    names = arguments.subject_names(subjects, walks)
    train = names[: arguments.train_count(train_subjects, len(names), walks)]
    test = names[len(train) :]
    out = Path(out)
    workers = arguments.worker_count(workers, len(names) * len(settings.types))
    tasks = [(out, settings, index, name, kind) for index, name in enumerate(names) for kind in settings.types]
    if settings.modalities == UNLABELLED:
        if train_subjects is not None:
            raise ValueError("an unlabelled collection is all for training: leave train_subjects out")
        train, test = _numbers(tasks), []
    _claim(out, settings, len(names))
    results = list(_run(tasks, workers, progress))
    partition = out / PARTITION_FILE
    _write(out, partition, json.dumps({"TRAIN_SET": train, "TEST_SET": test}, indent=2).encode() + b"\n")
    return SynthesisReport(
        out=out,
        partition=partition,
        train=train,
        test=test,
        types=list(settings.types),
        views=list(settings.views),
        sequences=len(tasks) * len(settings.views),
        written=sum(result.written for result in results),
        frames=sum(result.frames for result in results),
        seconds=time.monotonic() - started,
        sources={result.name: result.source for result in results if result.source is not None},
    )


@dataclass(frozen=True)
class _Result:
    name: str
    written: int
    frames: int
    source: tuple[str, int, int] | None


_Task = tuple[Path, Settings, int, str, str]


def _run(tasks: list[_Task], workers: int, progress: bool) -> Iterator[_Result]:
    bar = tqdm(total=len(tasks), desc="synthesize", unit="walk", disable=not (progress and sys.stderr.isatty()))
    with bar:
        if workers == 1:
            with _one_opencv_thread():
                for task in tasks:
                    yield _make(task)
                    bar.update()
            return
        # Fresh interpreters: forking a process that holds threads (torch's) can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            running = [pool.submit(_make, task) for task in tasks]
            try:
                for done in as_completed(running):
                    done.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            yield from (done.result() for done in running)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _folders(task: _Task) -> dict[str, Path]:
    """View -> folder of its files."""
    out, settings, index, subject, kind = task
    if settings.modalities == UNLABELLED:
        return {view: out.joinpath(*unlabelled_folder(settings, index, kind, view)) for view in settings.views}
    return {view: out / subject / kind / view for view in settings.views}


def _numbers(tasks: list[_Task]) -> list[str]:
    """Top folders of an unlabelled collection.

    Raises:
        ValueError: two sequences got the same numbers.
    """
    folders = [folder for task in tasks for folder in _folders(task).values()]
    if len(set(folders)) < len(folders):
        raise ValueError("two sequences got the same random numbers; choose another seed")
    return sorted({folder.parts[-3] for folder in folders})


def _make(task: _Task) -> _Result:
    """One walk: rendered unless all its files are there."""
    out, settings, index, subject, kind = task
    paths = {
        view: [folder / name for name in file_names(settings.modalities, folder)]
        for view, folder in _folders(task).items()
    }
    name = f"{subject}/{kind}"
    if settings.motion is None and all(path.is_file() for files in paths.values() for path in files):
        return _Result(name, 0, 0, None)
    rendered = render_files(settings, index, kind)
    frames = 0
    for view, files in paths.items():
        arrays = rendered.views[view]
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for path, array in zip(files, arrays, strict=True):
            _write(out, path, pickle.dumps(array, protocol=4))
        frames += len(arrays[0])
    return _Result(name, len(paths), frames, rendered.source)


def _write(out: Path, path: Path, content: bytes) -> None:
    """Under a temporary name first: a file that has its name is whole.

    The temporary file lies in the data set's top folder, where one that a killed process left behind is in no sequence.
    """
    temporary = out / f"{_UNFINISHED}{os.getpid()}"
    temporary.write_bytes(content)
    temporary.replace(path)


def _claim(out: Path, settings: Settings, subjects: int) -> None:
    """Marks the folder with what is made there, so that two different data sets never mix."""
    for left_behind in out.glob(f"{_UNFINISHED}*"):
        left_behind.unlink()
    wanted = {"generator": GENERATOR_VERSION, **settings.described()}
    if (
        settings.modalities == UNLABELLED
    ):  # its folders do not say whose they are, so fewer subjects cannot be picked out
        wanted["subjects"] = subjects
    marker = out / SETTINGS_FILE
    if marker.is_file():
        try:
            found = json.loads(marker.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{marker}: not readable ({error}); remove {out} or choose another folder") from error
        differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if differing:
            raise ValueError(
                f"{out} holds walkers made with other arguments ({', '.join(differing)}: "
                f"{', '.join(str(found.get(key)) for key in differing)} there); remove it or choose another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and holds something else; choose a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    _write(out, marker, json.dumps(wanted, indent=2).encode() + b"\n")
