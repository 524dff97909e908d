"""Files that travel with the project: configs and partition files, in a source tree or inside the wheel."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

PACKAGE = Path(__file__).resolve().parent.parent


def root() -> Path:
    """The folder that holds `configs/` and `datasets/`: `opengait/shipped/` in a wheel, else the source tree."""
    inside = PACKAGE / "shipped"
    return inside if inside.is_dir() else PACKAGE.parent


def find(relative: str | Path) -> Path | None:
    """A shipped file or folder, such as `configs/default.yaml`; None where there is none."""
    parts = PurePosixPath(Path(relative).as_posix())
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or parts.parts[0] not in ("configs", "datasets"):
        return None
    path = root() / parts
    return path if path.exists() else None
