"""A training run in processes that end when a test wants it: killed at a moment, or at a place in the program.

Processes are forked from one that has imported everything, so that a life takes a second and not five.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import itertools
import math
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import engine_tiny  # noqa: F401 - registers its networks
import torch
import torch.utils.tensorboard
from engine_processes import free_port, process_environment

from opengait.config import load_config
from opengait.engine import run as engine_run

# Imported where first used; here, so that the processes forked off have them.
LATER = ("opengait.evaluation.runner", "torch.distributed", "torch.nn.parallel", "torchvision.utils", "rich.table")


STILL_S = 400  # for which a life may do nothing; alone on a machine it takes two seconds in all
NOTHING_S = 1.0  # of processor time: what threads take that look whether something has come
MOST_S = 300  # of processor time


@dataclass(frozen=True)
class End:
    """Where a process kills itself.

    Attributes:
        place: '<module>:<function or Class.method>'.
        call: at which call of it, from 1.
        after: when it has returned, not before it begins.
        rank: of the process that does so.
        number: the signal it sends itself; 0: none, it sleeps.
    """

    place: str
    call: int = 1
    after: bool = False
    rank: int = 0
    number: int = signal.SIGKILL

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} call {self.call} of {self.place} in rank {self.rank}"

    def come(self) -> None:
        """Now."""
        if not self.number:
            time.sleep(3600)
        os.kill(os.getpid(), self.number)


def end_at(end: End) -> None:
    """Has this process come to its end there."""
    module, _, name = end.place.partition(":")
    *owners, last = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original: Callable[..., Any] = getattr(owner, last)
    calls = itertools.count(1)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        due = next(calls) == end.call
        if due and not end.after:
            end.come()
        result = original(*arguments, **options)
        if due:
            end.come()
        return result

    setattr(owner, last, wrapped)


def train(config: str, output: str, resume: str, environment: dict[str, str], end: End | None, printed: str) -> None:
    """What a started process does."""
    with open(printed, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as in a run of its own
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(STILL_S - 10, exit=False)  # says where, should a life hang
    if end is not None and end.rank == int(environment.get("RANK", 0)):
        end_at(end)
    result = engine_run.train(load_config(config), resume=resume, device="cpu", output=output, log_to_file=True)
    sys.exit(128 + result.stop_signal if result.stop_signal else 0)


def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__, *LATER])
    # Before Python 3.14 the server looks for these modules in PYTHONPATH alone, and starts without those it misses.
    with mock.patch.dict(os.environ, PYTHONPATH=process_environment()["PYTHONPATH"]):
        forkserver.ensure_running()
    return found


class Run:
    """A config that is trained in one life after another.

    Args:
        config: file.
        output: of all its lives.
        processes: of each.
    """

    def __init__(self, config: Path, output: Path, processes: int = 1) -> None:
        self.config, self.output, self.processes = config, output, processes
        self.printed = output.with_suffix(".printed")
        self.lives = 0

    def start(self, *, resume: str = "auto", end: End | None = None) -> list[BaseProcess]:
        """Processes of a new life."""
        self.lives += 1
        group = {"WORLD_SIZE": str(self.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        started = []
        for rank in range(self.processes):
            own = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if self.processes > 1 else {}
            arguments = (str(self.config), str(self.output), resume, own, end, str(self.printed))
            # Not daemons: those may have no loader workers.
            started.append(context().Process(target=train, args=arguments))
            started[-1].start()
        return started

    def live(self, *, resume: str = "auto", end: End | None = None, killed_after: float | None = None) -> list[int]:
        """Exit statuses (-9 for killed) of a life that comes to its end by itself, or is killed after some seconds.

        Where one process fails, the others are killed, as a launcher does.
        """
        started = self.start(resume=resume, end=end)
        deadline = time.monotonic() + (math.inf if killed_after is None else killed_after)
        work = Work(started)
        while any(process.exitcode is None for process in started):
            failed = any(process.exitcode for process in started)
            if failed or time.monotonic() > deadline or work.hangs():
                for process in random.sample(started, len(started)):
                    process.kill()
                break
            time.sleep(0.002)
        for process in started:
            process.join(120)
        statuses = [process.exitcode for process in started]
        assert None not in statuses, f"a process outlives SIGKILL: {statuses}"
        assert not work.hung, f"a life does not come to its end\n{self.printed.read_text()}"
        return [int(status or 0) for status in statuses]


class Work:
    """Tells processes that hang from those that other programs keep waiting, by the processor time that they take."""

    def __init__(self, processes: list[BaseProcess]) -> None:
        self.processes, self.hung = processes, False
        self._since, self._then, self._next = time.monotonic(), 0.0, 0.0

    def hangs(self) -> bool:
        """Whether they have done next to nothing for long, or far too much; looks once a second."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 1
        done = sum(processor_time(process.pid) for process in self.processes if process.pid is not None)
        if done - self._then > NOTHING_S:
            self._since, self._then = now, done
        self.hung = now - self._since > STILL_S or done > MOST_S
        return self.hung


def processor_time(process: int) -> float:
    """Seconds that a process has computed; 0 for one that is gone, or where this is not known."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
