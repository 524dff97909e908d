"""One run at a time writes to a run's folder."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from opengait.engine.distributed import on_main

NAME = "run.lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, on the main process, for the time of a `with` block.

    It is the operating system's lock of a file by a process: it ends with the process, however that ends, and loader
    workers do not inherit it. The file itself stays, and means nothing.

    Raises:
        ValueError: another process holds it, with what it wrote about itself.
    """
    files: list[int] = []
    on_main(lambda: files.extend(_lock(folder)))
    try:
        yield
    finally:
        for descriptor in files:
            os.close(descriptor)


def _lock(folder: Path) -> list[int]:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 500).decode(errors="replace").strip()
        os.close(descriptor)
        if not isinstance(error, BlockingIOError | PermissionError):
            raise  # a file system without locks, a full one
        raise ValueError(
            f"{folder}: another run writes here ({holder or 'not known which'}); wait for its end, or give this one "
            "another trainer_cfg.save_name or --output"
        ) from error
    about = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.truncate(descriptor, 0)
    os.write(descriptor, (json.dumps(about) + "\n").encode())
    return [descriptor]
