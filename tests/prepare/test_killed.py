"""A preparation that is killed at any moment and run again gives the bytes of an uninterrupted one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from look_alikes import content, look_alike

from opengait.prepare import prepare


@pytest.fixture(scope="module")
def dying() -> Iterator[Callable[..., int]]:
    """Prepares in a process that is killed before its nth change; gives their number, 0 where it was killed."""
    script = Path(__file__).with_name("dying_preparations.py")
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def prepare_and_die(change: int, dataset: str, raw: Path, out: Path, packed: bool) -> int:
        process.stdin.write(json.dumps([change, dataset, str(raw), str(out), packed]) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with process:
        yield prepare_and_die
        process.stdin.close()


@pytest.mark.parametrize(
    ("dataset", "archives", "packed"), [("CASIA-B", False, False), ("GREW", True, False), ("CASIA-B", True, True)]
)
def test_killed_at_any_change_and_run_again(dataset, archives, packed, tmp_path, dying):
    raw = look_alike(dataset, archives).out
    whole = tmp_path / "whole/out"
    whole.parent.mkdir()
    changes = dying(0, dataset, raw, whole, packed)
    wanted = content(whole.parent)
    assert changes > 50
    for change in [*range(1, 6), *range(6, changes - 9, changes // 4), *range(changes - 9, changes + 1)]:
        again = tmp_path / "again/out"
        again.parent.mkdir()
        assert dying(change, dataset, raw, again, packed) == 0
        assert content(again.parent) != wanted or change > changes - 2
        prepare(dataset, raw, again, packed=packed, workers=1)
        assert content(again.parent) == wanted, f"killed before change {change} of {changes}"
        shutil.rmtree(again.parent)


def test_a_line_that_was_written_in_part_is_written_anew(tmp_path):
    raw = look_alike("CASIA-B").out
    prepare("CASIA-B", raw, tmp_path / "whole", workers=1)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    journal = tmp_path / "cut/prepare-sequences.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    report = prepare("CASIA-B", raw, tmp_path / "cut", workers=1)
    assert report.written == 1
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.slow
def test_its_processes_end_with_it(tmp_path):
    raw = look_alike("CASIA-B").out
    prepare("CASIA-B", raw, tmp_path / "whole", workers=1)
    code = (
        "import sys; from opengait.prepare import prepare\n"
        "if __name__ == '__main__': prepare('CASIA-B', sys.argv[1], sys.argv[2], workers=2)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    out = tmp_path / "out"
    running = subprocess.Popen([sys.executable, str(script), str(raw), str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(out.rglob("*.pkl")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    children = workers.read_text().split() if workers.exists() else []
    running.kill()
    running.wait()
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    prepare("CASIA-B", raw, out, workers=2)
    assert content(out) == content(tmp_path / "whole")
