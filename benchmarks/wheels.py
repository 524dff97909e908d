"""Collects the wheels that a machine with torch but without a network lacks: `make wheels`.

What pyproject.toml asks for, and pytest for the tests, with all that these need in turn, in the versions that are
installed here; of that everything which torch or torchvision is or needs is left out, since it is there already. The
rest is downloaded into a folder, with its list in `requirements.txt`. `--python` and `--platform` fetch the wheels of
another machine; best run by the Python version of that machine, since the one that runs judges conditions.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "opengait"
THERE = ("torch", "torchvision")
# Of what only developers need, the tests of a GPU take this.
TESTS = ("pytest",)

# Project -> its requirements as text; None where it is not installed.
Requires = Callable[[str], list[str] | None]


def installed(name: str) -> list[str] | None:
    """What a project asks for, by what is installed here."""
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        return None


def needs(requirements: Iterable[str], extra: str = "") -> Iterator[tuple[str, str]]:
    """(project, extra of it that is asked for) of the requirements that hold here."""
    for text in requirements:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            name = canonicalize_name(one.name)
            yield name, ""
            yield from ((name, canonicalize_name(wish)) for wish in one.extras)


def closure(roots: Iterable[tuple[str, str]], requires: Requires) -> set[str]:
    """The roots and what they need, directly or not."""
    seen: set[tuple[str, str]] = set()
    pending = list(roots)
    while pending:
        name, extra = pending.pop()
        found = requires(name)
        if found is None or (name, extra) in seen:
            continue
        seen.add((name, extra))
        pending.extend(needs(found, extra))
    return {name for name, _ in seen}


def lacking(requires: Requires = installed) -> list[str]:
    """Projects that a machine with torch and torchvision lacks, sorted.

    Raises:
        ValueError: a requirement of the project is not installed here, so that its version is not known.
    """
    asked = requires(PROJECT)
    if asked is None:
        raise ValueError(f"{PROJECT} is not installed here; `make install` does so")
    roots = {*needs(asked), *((name, "") for name in TESTS)}
    if missing := sorted({name for name, _ in roots if requires(name) is None}):
        raise ValueError(f"not installed here: {', '.join(missing)}; `make install` does so")
    return sorted(closure(roots, requires) - closure(((name, "") for name in THERE), requires))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("wheels"))
    options.add_argument("--python", help="version of the other machine, such as 3.12; default: this one's")
    options.add_argument("--platform", action="append", help="such as manylinux_2_28_x86_64; repeatable")
    options.add_argument("--list", action="store_true", help="only say what would be fetched")
    given = options.parse_args()
    pinned = [f"{name}=={distribution(name).version}" for name in lacking()]
    if given.list:
        print("\n".join(pinned))
        return
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(given.out)]
    command += ["--python-version", given.python] if given.python else []
    command += [part for platform in given.platform or () for part in ("--platform", platform)]
    subprocess.run([*command, *pinned], check=True)
    (given.out / "requirements.txt").write_text("\n".join(pinned) + "\n")
    print(f"{len(pinned)} wheels in {given.out}; on the other machine:")
    print(f"  python -m pip install --no-index --find-links {given.out} --requirement {given.out}/requirements.txt")


if __name__ == "__main__":
    main()
