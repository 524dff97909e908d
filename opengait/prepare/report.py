"""What a preparation found, wrote and dropped, beside the published counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opengait.prepare.dataset import LeftOut, Published, RawDataset
from opengait.prepare.output import Entry, sequences_of

SHORT = 5  # frames; the field's preparation warns below
_EXAMPLES = 5


@dataclass
class Tally:
    """How many, and the first few in the order of their names."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, names: Iterable[str]) -> Tally:
        ordered = sorted(names)
        return cls(len(ordered), ordered[:_EXAMPLES])

    def __str__(self) -> str:
        return f"{self.count} ({', '.join(self.examples)}{', ...' if self.count > len(self.examples) else ''})"


@dataclass(frozen=True)
class Comparison:
    """A published count beside what was found."""

    part: str
    what: str
    found: int
    published: int
    kind: str
    """how the published count is meant: nominal, approximate, the owners' figure"""

    def __str__(self) -> str:
        about = "about " if "approximate" in self.kind else "nominally " if "nominal" in self.kind else ""
        owners = " by the owners' account" if "owners" in self.kind else ""
        return f"{self.part} {self.what}: {self.found:,} of {about}{self.published:,}{owners}"


@dataclass(frozen=True)
class PrepareReport:
    """What lies in the output folder, and what of the raw folder does not.

    Counts are of the whole folder, also where several calls made it; `written`, `kept` and `seconds` are of this call.
    """

    dataset: str
    out: Path
    packed: bool
    subjects: int
    """people; a pseudo-subject such as `probe` is none"""
    sequences: int
    frames: int
    shapes: dict[str, int]
    """frame shape of the first modality -> sequences"""
    dropped_frames: dict[str, Tally]
    """reason -> files that are no frame of the result"""
    empty_sequences: Tally
    """nothing is written of them"""
    short_sequences: Tally
    """with fewer than five frames; they are written"""
    left_out: dict[str, Tally]
    """reason -> raw folders and archives that were not prepared"""
    not_in_raw: Tally
    """sequences that an earlier call made from another raw folder; they stay"""
    comparisons: list[Comparison]
    written: int = 0
    kept: int = 0
    """sequences that were there already"""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The same for the same data: without times, and without what this call in particular had to do."""
        fields = asdict(self)
        for name in ("out", "written", "kept", "seconds"):
            del fields[name]
        return fields

    @classmethod
    def from_json(cls, out: Path, fields: dict[str, Any]) -> PrepareReport:
        """A report that was written before; all of its sequences were there already."""
        tallies = {
            name: {reason: Tally(**tally) for reason, tally in fields[name].items()}
            for name in ("dropped_frames", "left_out")
        }
        single = {name: Tally(**fields[name]) for name in ("empty_sequences", "short_sequences", "not_in_raw")}
        comparisons = [Comparison(**comparison) for comparison in fields["comparisons"]]
        changed = {**fields, **tallies, **single, "comparisons": comparisons}
        return cls(**changed, out=out, kept=fields["sequences"] + single["empty_sequences"].count)

    def lines(self) -> Iterator[str]:
        """The report as text."""
        form = "packed store" if self.packed else "pickle tree"
        yield (
            f"{self.dataset} in {self.out} ({form}): {self.subjects:,} subjects, {self.sequences:,} sequences, "
            f"{self.frames:,} frames; {self.written:,} sequences written now, {self.kept:,} were there, "
            f"{self.seconds:.0f} s"
        )
        if self.shapes:
            yield "frames: " + ", ".join(f"{shape} in {count:,} sequences" for shape, count in self.shapes.items())
        for reason, tally in self.dropped_frames.items():
            yield f"dropped frames, {reason}: {tally}"
        if self.empty_sequences.count:
            yield f"empty sequences, not written: {self.empty_sequences}"
        if self.short_sequences.count:
            yield f"sequences of fewer than {SHORT} frames, written: {self.short_sequences}"
        for reason, tally in self.left_out.items():
            yield f"not prepared, {reason}: {tally}"
        if self.not_in_raw.count:
            yield f"from an earlier call, not in this raw folder: {self.not_in_raw}"
        for comparison in self.comparisons:
            yield str(comparison)


def make_report(
    dataset: RawDataset, out: Path, packed: bool, entries: dict[str, Entry], planned: set[str], left_out: list[LeftOut]
) -> PrepareReport:
    """The report on all sequences of the output folder."""
    written = sequences_of(entries.values())
    shapes = Counter("x".join(map(str, entry.shape)) for entry in written)
    reasons: dict[str, list[str]] = {}
    for entry in entries.values():
        for name, reason, detail in entry.dropped:
            text = f"{entry.sequence}/{name}" + (f": {detail}" if detail else "")
            reasons.setdefault(reason, []).append(text)
    folders: dict[str, list[str]] = {}
    for path, reason in left_out:
        folders.setdefault(reason, []).append(path or ".")
    return PrepareReport(
        dataset=dataset.name,
        out=out,
        packed=packed,
        subjects=len(_people(dataset, written)),
        sequences=len(written),
        frames=sum(entry.frames for entry in written),
        shapes=dict(sorted(shapes.items())),
        dropped_frames={reason: Tally.of(names) for reason, names in sorted(reasons.items())},
        empty_sequences=Tally.of(entry.sequence for entry in entries.values() if not entry.frames),
        short_sequences=Tally.of(entry.sequence for entry in written if entry.frames < SHORT),
        left_out={reason: Tally.of(paths) for reason, paths in sorted(folders.items())},
        not_in_raw=Tally.of(sequence for sequence in entries if sequence not in planned),
        comparisons=[_compared(dataset, published, written) for published in dataset.published],
    )


def _people(dataset: RawDataset, entries: Iterable[Entry]) -> set[str]:
    return {entry.sequence.split("/")[0] for entry in entries} - set(dataset.pseudo_subjects)


def _compared(dataset: RawDataset, published: Published, entries: list[Entry]) -> Comparison:
    of_part = [
        entry
        for entry in entries
        if published.part == "total" or dataset.part(*entry.sequence.split("/")) == published.part
    ]
    found = {
        "subjects": len(_people(dataset, of_part)),
        "sequences": len(of_part),
        "frames": sum(entry.frames for entry in of_part),
    }[published.what]
    kinds = [
        kind
        for kind, holds in (
            ("nominal", published.nominal),
            ("approximate", published.approximate),
            ("owners", published.owners),
        )
        if holds
    ]
    return Comparison(published.part, published.what, found, published.count, ", ".join(kinds) or "counted")
