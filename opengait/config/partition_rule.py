"""Which subjects train and which are tested, said by a rule: `{train: 001-074, test: 075-124}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

MAX_SUBJECTS = 1_000_000
FORM = "expected ids and ranges such as '001-074, 080', '00001-10305:2' or '00001train-20000train'"
# What comes before the last number of an id, the number, and what comes after it.
_ID = re.compile(r"(?P<before>.*?)(?P<number>[0-9]+)(?P<after>[^0-9]*)", re.DOTALL)


def subjects_of(rule: Any) -> list[str]:
    """The ids that a rule names, in its order, each once.

    A rule is text with parts between commas, or a list of such texts. A part is an id (`probe`), a range with both ends
    (`001-074`), or every so-manieth id of one (`00001-10305:2`). Numbers have the width of the first, as in `098-102`;
    what stands before and after them is that of both ends (`00001train-20000train`).

    Raises:
        ValueError: neither text nor a list of texts, a part of another form, a range whose ends do not fit together,
            more than MAX_SUBJECTS ids.
    """
    found: dict[str, None] = {}
    for text in rule if isinstance(rule, list | tuple) else [rule]:
        if not isinstance(text, str):
            raise ValueError(_not_text(text))
        for part in text.split(",") if text.strip() else ():
            for subject in _named_by(part.strip()):
                found[subject] = None
                if len(found) > MAX_SUBJECTS:
                    raise ValueError(f"{part.strip()!r}: more than {MAX_SUBJECTS} subjects")
    return list(found)


def check_apart(train: Iterable[str], test: Iterable[str]) -> None:
    """Refuses a subject that is in both.

    Raises:
        ValueError: there is one.
    """
    both = sorted(set(train).intersection(test))
    if both:
        more = f" and {len(both) - 3} more" if len(both) > 3 else ""
        some = ", ".join(repr(subject) for subject in both[:3]) + more
        raise ValueError(f"{some} under train and under test; a tested subject must never be trained on")


def _not_text(value: Any) -> str:
    if isinstance(value, bool) or value is None or not isinstance(value, int | float):
        return f"found {'null' if value is None else repr(value)}; {FORM}, as text or a list of texts"
    return f"found the number {value!r}; put ids in quotes, since YAML reads 075 as a number (and as an octal one)"


def _named_by(part: str) -> Iterator[str]:
    ends, colon, step = part.partition(":")
    first, dash, last = (text.strip() for text in ends.partition("-"))
    if not first or "-" in last or (dash and not last) or (colon and not dash):
        more = "; ids that hold '-', ',' or ':' need a partition file" if part else ""
        raise ValueError(f"{part!r} is neither an id nor a range; {FORM}{more}")
    if part in (".", "..") or any(mark in part for mark in "/\\\0"):
        raise ValueError(f"{part!r} is not the name of a folder in the dataset root")
    if not dash:
        return iter([first])
    if colon and not re.fullmatch("[1-9][0-9]*", step.strip()):
        raise ValueError(f"{part!r}: the step after ':' is a whole number from 1, found {step.strip()!r}")
    return _range(part, first, last, int(step) if colon else 1)


def _range(part: str, first: str, last: str, step: int) -> Iterator[str]:
    start, end = _ID.fullmatch(first), _ID.fullmatch(last)
    if start is None or end is None:
        raise ValueError(f"{part!r}: {(first if start is None else last)!r} holds no number to count with; {FORM}")
    before, after, width = start["before"], start["after"], len(start["number"])
    if (before, after) != (end["before"], end["after"]):
        raise ValueError(f"{part!r}: {first!r} and {last!r} differ in more than their last number; {FORM}")
    lowest, highest = int(start["number"]), int(end["number"])
    if f"{highest:0{width}d}" != end["number"]:
        raise ValueError(f"{part!r}: the numbers of {first!r} and {last!r} differ in their padding with zeros")
    if highest < lowest:
        raise ValueError(f"{part!r} runs backwards; write the smaller id first")
    return (f"{before}{number:0{width}d}{after}" for number in range(lowest, highest + 1, step))
