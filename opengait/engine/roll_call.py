"""Which process is missing, when the others wait for it in vain or have lost their connection to it.

A collective that fails says that it timed out, or that a socket was closed, but not which of the processes is to blame:
neighbours of neighbours fail too. So every process that finds itself cut off reports in the group's store, and those
that have not reported after a while are the ones that did not arrive.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0  # that a process which notices later than the others has for reporting
WATCH_S = 2.0
# torch's collectives raise RuntimeErrors of no class of their own on gloo.
_SIGNS = ("gloo", "nccl", "connection closed", "connection reset", "pair closure", "timed out waiting")


class LostProcessError(ConnectionError):
    """Other processes of the run are gone or hang; the message names them."""


def is_of_communication(error: BaseException) -> bool:
    """Whether torch raised it because other processes could not be reached."""
    signs = any(sign in str(error).lower() for sign in _SIGNS)
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and signs)


class RollCall:
    """One process's part in finding out who is missing.

    A thread looks every two seconds whether others have called the roll. Where they have, and this process's own work
    does not come to its next message to them, it shows where the work stands and ends the process: whatever it hangs
    in, nobody is left to wait for it.

    Args:
        store: of the process group; this class's keys have a prefix of their own.
        rank, world_size: of the group.
        timeout: seconds that a process waits for the others.
        leave: ends the process, with a status.
    """

    def __init__(
        self, store: Any, rank: int, world_size: int, timeout: float, leave: Callable[[int], Any] = os._exit
    ) -> None:
        self._store = dist.PrefixStore("opengait roll call", store)
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self.patience = min(timeout / 2, PATIENCE_S)
        self._leave = leave
        self._store.set(f"about {rank}", f"host {socket.gethostname()}, process {os.getpid()}")
        self._waiting_since: float | None = None
        self._reported, self._closed = threading.Event(), threading.Event()
        self._worker = threading.current_thread()
        self._watcher = threading.Thread(target=self._watch, name="roll call", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """The group comes to its end."""
        self._closed.set()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside the `with` block the host waits for others where no error reaches it, as in reading from a GPU what
        a collective has not delivered."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def explain(self, error: BaseException) -> LostProcessError | None:
        """The error that says who is missing, for one of a collective; None for any other, which is left in the store
        for the others to name."""
        own = not is_of_communication(error)
        if own:
            text = f"{type(error).__name__}: {error}"
            self._ask(lambda: self._store.set(f"state {self.rank}", f"has failed: {text[:2000]}"))
            self._reported.set()
            return None
        timed_out = "timed out" in str(error).lower()
        reason = (str(error).strip().splitlines() or [""])[0]
        return LostProcessError(self._call(timed_out, reason))

    def _call(self, timed_out: bool, reason: str) -> str:
        """Reports, waits for the others to do so, and says who has not."""
        self._reported.set()
        cause = (
            f"rank {self.rank} waited {self.timeout:g} s in vain (trainer_cfg.dist_timeout_s)"
            if timed_out
            else f"rank {self.rank} lost its connection"
        )
        message = self._ask(lambda: self._missing(cause, reason))
        return message or (
            f"{cause}, and the store of the {self.world_size} processes, on the machine of rank 0 or of the "
            f"rendezvous, does not answer either ({reason})"
        )

    def _missing(self, cause: str, reason: str) -> str:
        self._store.set(f"state {self.rank}", "")
        cause = self._store.compare_set("called", "", cause).decode()  # the first one's, in everybody's message
        deadline = time.monotonic() + self.patience
        while (absent := self._absent()) and time.monotonic() < deadline:
            time.sleep(0.1)
        others = [number for number in range(self.world_size) if number not in absent]
        states = {number: self._store.get(f"state {number}").decode() for number in others}
        how = "did not arrive" if "in vain" in cause else "is gone"
        lost = dict.fromkeys(absent, how) | {number: state for number, state in states.items() if state}
        if not lost:
            return f"{cause}, though all {self.world_size} processes are there: {reason}"
        named = "; ".join(f"rank {n} of {self.world_size} ({self._about(n)}) {lost[n]}" for n in sorted(lost))
        return f"{named}: {cause}. Its own log may say why; --resume auto goes on from the last checkpoint"

    def _absent(self) -> list[int]:
        return [number for number in range(self.world_size) if not self._store.check([f"state {number}"])]

    def _about(self, number: int) -> str:
        return self._store.get(f"about {number}").decode() if self._store.check([f"about {number}"]) else "not known"

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The store's answer; None where it has none, or none in time: its machine may be the one that is gone."""
        answers: list[Any] = []

        def ask() -> None:
            with contextlib.suppress(dist.DistError, RuntimeError):
                answers.append(question())

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(self.patience + PATIENCE_S)
        return answers[0] if answers else None

    def _watch(self) -> None:
        over_since: float | None = None
        while not self._closed.wait(min(WATCH_S, self.timeout / 4)):
            if self._reported.is_set():
                return
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self.timeout:
                logger.error("%s", self._call(True, "the device waits for a collective"))
                self._leave(1)
                return
            if over_since is None:
                over_since = time.monotonic() if self._is_over() else None
            elif time.monotonic() - over_since > self.patience + WATCH_S:
                logger.error("rank %d: the others have given up waiting; it stands at\n%s", self.rank, self._place())
                self._leave(1)
                return

    def _is_over(self) -> bool:
        """Whether others have called the roll, or the store has ended with its process."""
        try:
            return bool(self._store.check(["called"]))
        except (dist.DistError, RuntimeError):
            return True

    def _place(self) -> str:
        """Where this process's work stands."""
        frame = sys._current_frames().get(self._worker.ident or 0)
        return "".join(traceback.format_stack(frame)[-12:]) if frame is not None else "an unknown place"
