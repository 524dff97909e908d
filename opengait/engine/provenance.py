"""What a run was made with: versions, source revision, data, command line; kept in the run's folder."""

from __future__ import annotations

import datetime
import json
import logging
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from opengait.engine.checkpoint_files import whole_file

logger = logging.getLogger(__name__)

PACKAGE = "opengait"
PROJECT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 10


def record_start(path: Path, about: Mapping[str, Any]) -> None:
    """Adds a start to the list in a JSON file: a run that is resumed has one for each.

    Args:
        about: what this room does not know itself: data, device, processes, where it goes on.

    Raises:
        OSError: the file cannot be written.
    """
    starts: Any = []
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        logger.warning("%s: cannot be read (%s); it starts anew", path, error)
    starts = starts if isinstance(starts, list) else []
    with whole_file(path) as file:
        file.write((json.dumps([*starts, {**this_program(), **about}], indent=2) + "\n").encode())


def this_program() -> dict[str, Any]:
    """Time, command line, machine, versions of Python and of what is depended on, and revision of the source."""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "working_folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "git": source_revision(),
    }


def package_versions() -> dict[str, str]:
    """The installed version of this package and of each that it depends on."""
    try:
        needed = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:  # run from its source, not installed
        needed = ["torch", "torchvision", "numpy", "pydantic", "kornia", "opencv-python-headless"]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed if "extra ==" not in line]
    versions = {}
    for name in (PACKAGE, *names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def source_revision(root: Path = PROJECT) -> dict[str, Any] | None:
    """Commit of the source that runs, and whether files differ from it; None where that is not known."""
    if (root / ".git").exists():
        commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
        return None if commit is None else {"commit": commit.strip(), "changed": bool(changes)}
    try:
        origin = json.loads(metadata.distribution(PACKAGE).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return {"commit": commit, "changed": False} if commit else None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
