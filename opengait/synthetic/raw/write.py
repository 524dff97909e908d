"""Writes look-alikes of raw distributions."""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opengait.prepare.dataset import plain_name
from opengait.registry import nearest
from opengait.synthetic import arguments
from opengait.synthetic.keys import generator
from opengait.synthetic.raw.faults import ABSENT, FATAL, SHORT, Fault
from opengait.synthetic.raw.film import Walk
from opengait.synthetic.raw.layout import Cast, Layout, Recording, Take, chosen

# Name -> where its class lies; imported when it is named.
LAYOUTS = {
    "CASIA-B": "opengait.synthetic.raw.casia_b:CasiaB",
    "CASIA-B*": "opengait.synthetic.raw.casia_b:CasiaBStar",
    "OUMVLP": "opengait.synthetic.raw.oumvlp:Oumvlp",
    "GREW": "opengait.synthetic.raw.grew:Grew",
    "HID2022": "opengait.synthetic.raw.hid:Hid2022",
    "HID2023": "opengait.synthetic.raw.hid:Hid2023",
    "Gait3D": "opengait.synthetic.raw.gait3d:Gait3d",
}


@dataclass(frozen=True)
class RawReport:
    """What `write` wrote, for comparison with what a preparation finds and keeps."""

    dataset: str
    out: Path
    train: list[str]
    """subjects by their names in the training layout, those of the data set's training side"""
    test: list[str]
    sequences: int
    """sequences in the raw tree, empty ones included"""
    frames: int
    """frames in the raw tree, damaged ones included; of pickled sets, those that can be read"""
    faults: tuple[Fault, ...]
    """what was put in on purpose"""
    kept: dict[str, int]
    """subject/type/view -> frames that a preparation should keep; sequences without any are not there"""


def write(
    dataset: str,
    out: str | Path,
    subjects: int = 4,
    *,
    seed: int = 0,
    archives: bool = False,
    frames: tuple[int, int] = (6, 8),
    types: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    faults: Sequence[str] | None = None,
) -> RawReport:
    """Writes walkers into a folder laid out as a raw distribution: names, nesting, image sizes, file formats, faults.

    Half of the subjects are on the training side of the data set's own partition, half on its test side (HID2023 has
    test subjects only). The same arguments give the same bytes.

    Args:
        dataset: a name of LAYOUTS.
        out: new or empty folder.
        subjects: how many, two or more.
        seed: of walkers, cameras and faults.
        archives: the archives that the owners ship instead of the unpacked folders.
        frames: fewest and most frames of a sequence.
        types, views: of CASIA-B, CASIA-B* and OUMVLP; default all.
        faults: kinds of `opengait.synthetic.raw.faults` to put in, each once, in a sequence of its own; default all
            that such a data set can have.

    Raises:
        ValueError: unknown name, arguments that make no data set, fewer sequences than faults, or a folder in use.
    """
    layout = find_layout(dataset)
    if archives and not layout.ships_archives:
        raise ValueError(f"{layout.name} comes in no archives that can be written here; leave archives out")
    train, test = layout.subjects(arguments.whole("subjects", subjects, 2))
    cast = Cast(
        train,
        test,
        chosen("types", types, layout.types, layout.name),
        chosen("views", views, layout.views, layout.name),
        arguments.whole("seed", seed, 0),
    )
    frames = arguments.frame_range(frames)
    takes = layout.takes(cast)
    places = _assigned(layout, takes, faults, seed)
    out = _new_folder(Path(out))
    tree: dict[str, bytes | None] = dict(layout.extras(cast, takes))
    found, kept, sequences, count = [], {}, 0, 0
    for take, fault, recording in _filmed(layout, takes, places, seed, frames):
        if fault is not None:
            found.append(fault)
        if fault is None or fault.kind != ABSENT:
            sequences += 1
            tree.update(recording.files or dict.fromkeys(layout.folders(take)))
        count += recording.found
        if recording.kept:
            kept[take.sequence] = recording.kept
    _store(out, layout.archived(tree) if archives else tree)
    return RawReport(layout.name, out, train, test, sequences, count, tuple(found), kept)


def _filmed(
    layout: Layout, takes: list[Take], places: Mapping[int, str], seed: int, frames: tuple[int, int]
) -> Iterator[tuple[Take, Fault | None, Recording]]:
    """Each sequence, with the fault that was put in."""
    for (walker, kind), takes_of_walk in itertools.groupby(enumerate(takes), lambda item: item[1][:2]):
        walk = Walk(seed, walker, kind, frames)
        for place, take in takes_of_walk:
            recording, fault = layout.record(take, walk), None
            if place in places:
                fault = Fault(places[place], layout.spoil(places[place], take, recording), take.sequence)
            yield take, fault, recording


def find_layout(dataset: str) -> Layout:
    """The layout of that name; capitals, hyphens and the like are not looked at, as `opengait prepare` does it.

    Raises:
        ValueError: no such layout; the message gives the nearest name and all of them.
    """
    known = {plain_name(name): name for name in LAYOUTS}
    if plain_name(str(dataset)) not in known:
        near = nearest(str(dataset), LAYOUTS)
        hint = f" (did you mean '{near}'?)" if near else ""
        raise ValueError(f"no raw look-alike of '{dataset}'{hint}; known: {', '.join(LAYOUTS)}")
    module, _, name = LAYOUTS[known[plain_name(str(dataset))]].partition(":")
    layout: Layout = getattr(importlib.import_module(module), name)()
    return layout


def _assigned(layout: Layout, takes: list[Take], asked: Sequence[str] | None, seed: int) -> dict[int, str]:
    """Place among the takes -> the fault it gets; subjects share the faults evenly."""
    kinds = layout.faults if asked is None else chosen("faults", asked, layout.faults, layout.name) if asked else ()
    free = generator(seed, "raw fault places", layout.name).permutation(len(takes)).tolist()
    of_subject: Counter[int] = Counter()
    places: dict[int, str] = {}
    # What leaves least of a sequence chooses first.
    for kind in sorted(kinds, key=lambda kind: (kind not in FATAL, kind != SHORT)):
        fitting = [index for index in free if kind not in FATAL or not takes[index].fixed]
        if not fitting:
            raise ValueError(
                f"{len(kinds)} faults need a sequence each, {layout.name} would have {len(takes)}; ask for more "
                "subjects, types or views, or name fewer faults"
            )
        place = min(fitting, key=lambda index: of_subject[takes[index].walker])
        places[place] = kind
        of_subject[takes[place].walker] += 1
        free.remove(place)
    return places


def _new_folder(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; a raw look-alike needs a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _store(out: Path, tree: Mapping[str, bytes | None]) -> None:
    for path, content in tree.items():
        target = out / path
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
