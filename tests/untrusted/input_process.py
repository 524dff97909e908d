"""A warm process for `input_child.py`, started anew where a case hangs or kills it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LONGEST = 30.0  # seconds of processor time that one case may take
PATIENCE = 900.0  # seconds in all, on a machine that does other things too


class InputProcess:
    """Hands cases to a child process."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self.cases = self.refused = 0
        self.slowest = 0.0
        self.first_peak = self.last_peak = 0

    def attempt(self, kind: str, folder: Path) -> dict[str, Any]:
        """What became of one case: type and message of the exception, empty where it was read; seconds, peak bytes."""
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{kind} {folder}\n".encode())
        child.stdin.flush()
        ready = self._answers(child)
        line = child.stdout.readline() if ready else b""
        if not line:
            status = child.poll()
            self.close()
            return {"type": "hang" if not ready else "killed", "message": f"no answer, status {status}", "seconds": 0}
        answer = json.loads(line)
        self.cases += 1
        self.refused += bool(answer["type"])
        self.slowest = max(self.slowest, answer["seconds"])
        self.first_peak = self.first_peak or answer["peak"]
        self.last_peak = answer["peak"]
        return answer

    def _answers(self, child: subprocess.Popen[bytes]) -> bool:
        """Waits for an answer; False where the child computes for too long, or waits for something itself."""
        began, worked = time.monotonic(), _processor_time(child.pid)
        while time.monotonic() - began < PATIENCE and _processor_time(child.pid) - worked < LONGEST:
            if select.select([child.stdout], [], [], 1.0)[0]:
                return True
        return False

    def close(self) -> None:
        """Ends the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            paths = [str(HERE.parent.parent), str(HERE.parent / "engine"), os.environ.get("PYTHONPATH", "")]
            # One arena, so that the limit of address space is one of memory in use.
            more = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "OPENGAIT_CACHE": "/dev/null/none"}
            environment = {**os.environ, **more, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            self._child = subprocess.Popen(
                [sys.executable, str(HERE / "input_child.py")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._child.stdout is not None
            assert self._child.stdout.readline() == b"ready\n"
        return self._child


def _processor_time(process: int) -> float:
    """Seconds that a process has computed; those of one that has ended are none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
