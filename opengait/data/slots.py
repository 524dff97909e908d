"""Memory through which workers hand over the frames of batches: mapped once on either side and used again.

A shared file for every batch would cost the process that takes it more than anything else it does with a loader: it is
sent over a connection of its own, mapped page by page, and given back to the system page by page.

A slot is an anonymous file that its worker makes and sends once; afterwards its number is enough. The first byte says
whether it may be written: the receiving process clears it when the last array, tensor or view over the slot is gone.
Nobody has to promise anything, and as no slot has a name, nothing is left behind however a process ends.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import reduction
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from opengait.data.batch import Batch

HEADER = 64  # bytes before the frames, which so are aligned
FREE, TAKEN = 0, 1
BATCHES = 5  # one read into, one it is cut into, one that waits, the consumer's, and what its names held before
ROOM = 1 / 8  # that a slot is made larger by, since batches of drawn lengths differ
SLACK = 4  # a slot is given up where it is so many times larger than what it is wanted for
GRAIN = 1 << 16  # bytes; sizes are multiples of it


def slots_exist() -> bool:
    """Whether this system has anonymous files that can be sent to another process (Linux)."""
    return reduction.HAVE_SEND_HANDLE and hasattr(os, "memfd_create") and hasattr(mmap, "MADV_REMOVE")


class Outbox:
    """A worker's slots.

    Args:
        name: of the inbox they are for.
        modalities: tensors of frames in a batch.
    """

    def __init__(self, name: str, modalities: int) -> None:
        self._inbox = name
        self._most = BATCHES * modalities
        self._slots: dict[int, _Slot] = {}

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """An array whose values are undefined: a free slot's memory, or new memory where there is none."""
        slot = self._find(math.prod(shape) * dtype.itemsize)
        return np.empty(shape, dtype) if slot is None else slot.lend(shape, dtype)

    def post(self, batch: Batch) -> Batch:
        """The batch ready to be sent. Frames that are not in a slot are copied into one, if there is one."""
        return replace(batch, frames=[cast(Tensor, self._posted(frames)) for frames in batch.frames])

    def _posted(self, frames: Tensor) -> Tensor | Posted:
        slot = next((one for one in self._slots.values() if one.begins_with(frames)), None)
        if slot is None:
            array = frames.numpy()
            slot = self._find(array.nbytes)
            if slot is None:
                return frames.contiguous()  # of a view, torch would send all that lies behind it
            slot.lend(array.shape, array.dtype)[...] = array
        return Posted(self._inbox, slot.number, slot.send(), tuple(frames.shape), frames.numpy().dtype.str)

    def _find(self, size: int) -> _Slot | None:
        free = [slot for slot in self._slots.values() if slot.free]
        fitting = [slot for slot in free if size <= slot.size <= max(SLACK * size, GRAIN)]
        if fitting:
            return min(fitting, key=lambda slot: slot.size)
        if len(self._slots) == self._most:
            if not free:
                return None
            self._slots.pop(free[0].number).close()
        number = next(number for number in range(self._most) if number not in self._slots)
        try:
            slot = _Slot(number, math.ceil(size * (1 + ROOM)))
        except OSError:
            return None
        self._slots[number] = slot
        return slot


class _Slot:
    """Shared memory on the side of the worker that writes it.

    Raises:
        OSError: there is no memory, or no file can be opened.
    """

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        whole = -(-(HEADER + size) // GRAIN) * GRAIN
        self.size = whole - HEADER
        self._file = os.memfd_create("opengait-frames")
        try:
            # A page that cannot be had while frames are written would end the process.
            os.posix_fallocate(self._file, 0, whole)
            self._memory = mmap.mmap(self._file, whole)
        except OSError:
            os.close(self._file)
            raise
        self._start = _frames(self._memory, (1,), np.dtype(np.uint8)).__array_interface__["data"][0]
        self._sent = False
        self._user: weakref.ref[np.ndarray] | None = None

    @property
    def free(self) -> bool:
        """Whether neither side uses it."""
        return bool(self._memory[0] == FREE) and (self._user is None or self._user() is None)

    def lend(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """The frames' memory. A tensor made of it, and its views, keep this very array."""
        array = _frames(self._memory, shape, dtype)
        self._user = weakref.ref(array)
        return array

    def begins_with(self, frames: Tensor) -> bool:
        """Whether frames lie in this slot as they will be looked for, and it has not been left to the other side."""
        return self._memory[0] == FREE and frames.data_ptr() == self._start and frames.is_contiguous()

    def send(self) -> Any:
        """Leaves it to the other side; gives the file where that has not got it yet."""
        self._memory[0] = TAKEN
        if self._sent:
            return None
        self._sent = True
        file = reduction.DupFd(self._file)
        self._close_file()
        return file

    def close(self) -> None:
        """Gives the memory back as soon as the other side does."""
        if not self._sent:
            self._close_file()

    def _close_file(self) -> None:
        os.close(self._file)


@dataclass(frozen=True)
class Posted:
    """Frames in a slot, on their way; they come out of the pickle as a tensor.

    Attributes:
        inbox: its name.
        number: of the slot.
        file: of a slot that is new.
        shape, dtype: of the frames.
    """

    inbox: str
    number: int
    file: Any
    shape: tuple[int, ...]
    dtype: str

    def __reduce__(self) -> tuple[Any, ...]:
        return Inbox.deliver, (self.inbox, os.getpid(), self.number, self.file, self.shape, self.dtype)


class Inbox:
    """The slots of all workers of a loader, in the process that takes their batches.

    Attributes:
        name: by which messages find it.
    """

    # A message is unpickled by whichever thread reads the queue, and can hold no reference to what it is for.
    _by_name: ClassVar[weakref.WeakValueDictionary[str, Inbox]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self._slots: dict[tuple[int, int], mmap.mmap] = {}
        self._by_name[self.name] = self

    @staticmethod
    def deliver(name: str, sender: int, number: int, file: Any, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Frames that were posted. Their slot is free again when nothing uses them any more.

        Raises:
            MemoryError: a new slot cannot be mapped.
        """
        slots = Inbox._by_name[name]._slots
        if file is not None:
            slots[sender, number] = _mapped(file.detach())
        memory = slots[sender, number]
        array = _frames(memory, shape, np.dtype(dtype))
        weakref.finalize(array, _set_free, memory, os.getpid()).atexit = False
        return torch.from_numpy(array)  # keeps this very array

    def relax(self) -> None:
        """Gives the pages of free slots back to the system; for when no worker is writing."""
        for memory in self._slots.values():
            if memory[0] == FREE:
                with contextlib.suppress(OSError):  # they stay where a system cannot do that
                    memory.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Forgets all slots. What is in use stays as it is."""
        self._slots.clear()


def _mapped(file: int) -> mmap.mmap:
    try:
        return mmap.mmap(file, 0)
    except OSError as error:
        raise MemoryError(f"no memory to take a batch from a worker: {error}") from error
    finally:
        os.close(file)


def _frames(memory: mmap.mmap, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(memory, dtype, math.prod(shape), HEADER).reshape(shape)


def _set_free(memory: mmap.mmap, owner: int) -> None:
    # A process forked from the owner has copies of its arrays, which say nothing of the owner's.
    if os.getpid() == owner:
        memory[0] = FREE
