"""Batches on their way to a GPU while it computes the one before."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Protocol

import torch

from opengait.data.batch import Batch


class Lane(Protocol):
    """A way to a device beside that of the computation."""

    def sending(self) -> contextlib.AbstractContextManager[object]:
        """A `with` block in which work for the device is queued on this lane."""
        ...

    def send(self, batch: Batch) -> Batch:
        """The batch on the device; it need not be there yet. Called within `sending`."""
        ...

    def receive(self, batch: Batch) -> None:
        """Makes the device's computation from now on wait for everything that was queued on this lane."""
        ...


class CudaLane:
    """A stream of its own. The host waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        # What resident frames are gathered from may still be on its way.
        self.stream.wait_stream(torch.cuda.current_stream(device))

    def sending(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self.stream)

    def send(self, batch: Batch) -> Batch:
        return batch.to(self.device)

    def receive(self, batch: Batch) -> None:
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        for tensor in (*batch.frames, batch.labels):
            # Else its memory would be given to another batch as soon as the host lets go of it.
            tensor.record_stream(computing)


def one_ahead(batches: Generator[Batch, None, None], lane: Lane) -> Generator[Batch, None, None]:
    """The same batches on the device, each sent before the one in front of it is handed out.

    What goes wrong with a batch is raised in its turn, so that the one in front of it is still computed.
    """
    try:
        coming = _next(batches, lane)
        while coming is not None:
            if isinstance(coming, Exception):
                raise coming
            # Waited for before the next is queued behind it.
            lane.receive(coming)
            batch, coming = coming, _next(batches, lane)
            yield batch
    finally:
        batches.close()


def _next(batches: Generator[Batch, None, None], lane: Lane) -> Batch | Exception | None:
    try:
        with lane.sending():
            batch = next(batches, None)
            return None if batch is None else lane.send(batch)
    except Exception as error:  # noqa: BLE001 - raised when it is this batch's turn
        return error
