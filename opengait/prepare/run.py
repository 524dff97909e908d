"""`opengait prepare`: from a raw distribution to the training layout."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from opengait.prepare.dataset import LeftOut, Plan, Planned, RawDataset, check_recognised, find_dataset
from opengait.prepare.folders import OpenFolders, listing_digest
from opengait.prepare.output import REPORT_FILE, WORK_FOLDER, Entry, Output, full_disk_told, write_sequence
from opengait.prepare.pool import Pool, worker_count
from opengait.prepare.raw_tree import scan
from opengait.prepare.report import PrepareReport, make_report
from opengait.prepare.unpack import Contents

log = logging.getLogger(__name__)

# Raised whenever the same raw files would give other frames.
PREPARE_VERSION = 1
_ON_DISK_AT_ONCE = 16  # sequences a task
_SHARES = 4  # tasks a process at least, so that all end at about the same time


def prepare(
    dataset: str,
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int | None = None,
    packed: bool = False,
    workers: int | None = None,
    password: str | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Brings a raw distribution into the training layout, `out/subject/type/view/view.pkl`, uint8 [s, size, size].

    The raw folder may hold the owners' archives, what was unpacked from them, or both. The same raw files give the same
    bytes, for any number of workers. A call that was cut off goes on where it stopped when it is made again. A file
    that is no usable frame costs that frame and a line in the report, which also lies in `out/prepare-report.json`.

    Args:
        dataset: CASIA-B, OUMVLP, ... (`opengait.prepare.dataset.DATASETS`).
        raw: folder of the download; nothing in it is changed.
        out: folder of the data set; made if absent.
        size: height and width of normalised silhouettes, even; default 64. Data sets that come normalised keep theirs.
        packed: write a packed store in place of the tree of pickles.
        workers: processes; default one a processor. With more than one a script needs `if __name__ == "__main__":`.
        password: of encrypted archives.
        progress: show a bar, if the output is a terminal.

    Raises:
        ValueError: an unknown data set, a raw folder that holds another or none, an archive that cannot be read or
            means harm, or an output folder that holds something else or is being written.
        OSError: no room on the disk. What is whole by then stays.
    """
    from opengait.prepare.packed import is_finished, pack, tree_folder

    started = time.monotonic()
    reader, count = find_dataset(dataset), worker_count(workers)
    raw, out = Path(raw), Path(out)
    size = _frame_size(reader, size)
    settings = {"version": PREPARE_VERSION, "dataset": reader.name, "size": size, "packed": packed}
    _check_folders(raw, out)
    if packed and is_finished(out, settings):
        shutil.rmtree(tree_folder(out), ignore_errors=True)  # a call may have been cut off just before it did that
        log.info("%s is a finished packed store, and stays as it is; remove it to prepare it again", out)
        return PrepareReport.from_json(out, json.loads((out / REPORT_FILE).read_text()))
    tree = tree_folder(out) if packed else out
    with full_disk_told(out), Output(tree, settings) as output, Pool(count) as pool:
        plan = _plan(reader, raw, tree, pool, password, progress)
        written = 0
        bar = tqdm(total=len(plan.sequences), desc="prepare", unit="sequence", disable=not _shown(progress))
        with bar:
            work = partial(_prepare_some, reader.name, str(tree), size, password)
            for _, results in pool.run(work, _tasks(plan.sequences, output.entries, count)):
                for entry, is_new in results:
                    if is_new:
                        output.add(entry)
                    written += is_new
                    bar.update()
        planned = {sequence.folder for sequence in plan.sequences}
        report = make_report(reader, out, packed, output.entries, planned, plan.left_out)
        output.finish(report.to_json())
        shutil.rmtree(tree / WORK_FOLDER, ignore_errors=True)
        if packed:
            pack(tree, out, count, progress)
    if packed:
        shutil.rmtree(tree)
    kept = len(plan.sequences) - written
    return replace(report, written=written, kept=kept, seconds=time.monotonic() - started)


def _frame_size(dataset: RawDataset, size: int | None) -> int | None:
    if size is None:
        return dataset.default_size
    if dataset.default_size is None:
        raise ValueError(f"{dataset.name} comes normalised and its frames are kept as they are; leave size out")
    if type(size) is not int or size < 2 or size % 2:
        raise ValueError(f"size must be an even number of pixels, found {size!r}")
    return size


def _check_folders(raw: Path, out: Path) -> None:
    if not raw.is_dir():
        what = "is a file" if raw.is_file() else "no such folder"
        raise ValueError(f"{raw}: {what}; the folder of the download was expected, with its archives as they came")
    inner, outer = Path(os.path.realpath(out)), Path(os.path.realpath(raw))
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ValueError(f"the output {out} and the raw folder {raw} lie in one another; choose an output beside it")


def _shown(progress: bool) -> bool:
    return progress and sys.stderr.isatty()


def _plan(dataset: RawDataset, raw: Path, tree: Path, pool: Pool, password: str | None, progress: bool) -> Plan:
    work = str(tree / WORK_FOLDER)
    with tqdm(desc="archives", unit="archive", disable=not _shown(progress)) as bar:

        def run(function: Callable[[str], Contents], paths: list[str]) -> Iterator[tuple[str, Contents]]:
            for done in pool.run(function, paths):
                bar.update()
                yield done

        folders, skipped = scan(str(raw), work, password=password, ignored=dataset.ignored, run=run)
    plan = dataset.plan(folders)
    check_recognised(dataset, plan, folders, str(raw), password)
    return Plan(plan.sequences, sorted([*plan.left_out, *(LeftOut(*item) for item in skipped)]))


class _Task(NamedTuple):
    sequences: list[Planned]
    done: list[Entry | None]
    """what an earlier call made of each"""


def _tasks(sequences: list[Planned], entries: dict[str, Entry], workers: int) -> Iterator[_Task]:
    """Sequences in groups. An archive has to be opened for each group: few archives are shared out, many are not."""
    shares = max(1, workers * _SHARES // max(1, len({_archive(sequence) for sequence in sequences})))
    for archive, group in groupby(sorted(sequences, key=_archive), key=_archive):
        members = list(group)
        at_once = -(-len(members) // shares) if archive else _ON_DISK_AT_ONCE
        for start in range(0, len(members), at_once):
            some = members[start : start + at_once]
            yield _Task(some, [entries.get(sequence.folder) for sequence in some])


def _archive(sequence: Planned) -> str:
    return next(iter(sequence.sources.values())).archive


def _prepare_some(
    dataset: str, out: str, size: int | None, password: str | None, task: _Task
) -> Iterable[tuple[Entry, bool]]:
    """One group; each sequence with whether it had to be made."""
    reader, results = find_dataset(dataset), []
    with OpenFolders(password) as folders:
        for sequence, done in zip(task.sequences, task.done, strict=True):
            sources = {name: folders.open(folder) for name, folder in sequence.sources.items()}
            listing = "-".join(listing_digest(source) for _, source in sorted(sources.items()))
            if done is not None and done.source == listing and done.whole(out):
                results.append((done, False))
                continue
            prepared = reader.prepare(sequence, sources, size)
            first = next(iter(prepared.arrays.values()), None)
            files = write_sequence(out, sequence.folder, prepared.arrays)
            entry = Entry(
                sequence=sequence.folder,
                source=listing,
                found=prepared.found,
                frames=0 if first is None else len(first),
                shape=[] if first is None else list(first.shape[1:]),
                files=files,
                dropped=[list(frame) for frame in prepared.dropped],
            )
            results.append((entry, True))
    return results
