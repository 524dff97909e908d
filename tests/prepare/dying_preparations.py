"""Run as a script: for each line `number dataset raw out packed` of its input, prepares in a process of its own that is
killed before its nth change of the file system, and writes how many changes there were (0 where it was killed).

A fresh interpreter without threads, since a process that has some must not be forked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import opengait.data.tree_packing  # noqa: F401 (here once, and not in every process)
from opengait.prepare import prepare

CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}


def prepare_and_die(last: int, dataset: str, raw: str, out: str, packed: bool) -> int:
    changes = 0
    place = str(Path(out).parent)

    def count(event: str, arguments: tuple) -> None:
        nonlocal changes
        if event in CHANGES and place in str(arguments[0]):
            changes += 1
            if changes == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    prepare(dataset, raw, out, packed=packed, workers=1, progress=False)
    return changes


def main() -> None:
    for line in sys.stdin:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            sys.stdout.write(f"{prepare_and_die(*json.loads(line))}\n")
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            sys.stdout.write("0\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
