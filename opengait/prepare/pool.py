"""Work on many sequences in several processes, which end with the one that started them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TypeVar

import cv2

Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 4  # tasks a process that wait for it: a data set has hundreds of thousands


class Pool:
    """Calls functions in `workers` processes, or in this one where that is one; a context manager."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = cv2.getNumThreads()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        if self.workers == 1:
            cv2.setNumThreads(1)
        else:
            # Fresh interpreters: forking a process that holds threads (torch's) can hang.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start_worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is None:
            cv2.setNumThreads(self._threads)
        else:
            self._executor.shutdown(wait=kind is None, cancel_futures=True)

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, in the order in which they are done.

        Raises:
            ChildProcessError: a process was killed.
        """
        if self._executor is None:
            for task in tasks:
                yield task, function(task)
            return
        waiting = iter(tasks)
        running: dict[Future[Result], Task] = {}
        try:
            while True:
                for task in waiting:
                    running[self._executor.submit(function, task)] = task
                    if len(running) >= self.workers * _AHEAD:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"one of {self.workers} processes was killed, most likely for want of memory; "
                "the same command goes on where this one stopped, with fewer --workers"
            ) from error


def worker_count(workers: int | None) -> int:
    """Processes to use; by default one a processor.

    Raises:
        ValueError: not a positive whole number.
    """
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if type(workers) is not int or workers < 1:
        raise ValueError(f"workers must be a whole number of 1 or more, found {workers!r}")
    return workers


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that hands out the tasks
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
