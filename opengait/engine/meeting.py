"""How the processes of one life of a run find each other in a store that also holds what earlier lives left there.

torchrun's store outlives the processes that it restarts, and each machine counts its restarts for itself. A process
that starts again would read the address that another had before, and call a port where nobody listens any more.
"""

from __future__ import annotations

import datetime
import time
import uuid

import torch.distributed as dist

PAUSE_S = 0.02


class MissingProcessError(ConnectionError):
    """Processes that never came to the start; the message names them."""


def meet(timeout: float) -> tuple[dist.Store, int, int]:
    """(store, rank, world size) of the launcher's processes; the store's keys are of this life alone.

    Each process but the first announces itself by a name that no other life has had, and is given the first one's.

    Args:
        timeout: seconds to wait for all to come.

    Raises:
        MissingProcessError: some did not.
    """
    patience = datetime.timedelta(seconds=timeout)
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=patience))
    except dist.DistError as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise MissingProcessError(f"no meeting with the other processes in {timeout:g} s: {reason}") from error
    store.set_timeout(patience)
    name = uuid.uuid4().hex
    life = _gather(store, name, world_size, timeout) if rank == 0 else _join(store, name, rank, timeout)
    return dist.PrefixStore(life, store), rank, world_size


def _join(store: dist.Store, name: str, rank: int, timeout: float) -> str:
    store.set(f"here {rank}", name)
    try:
        life = store.get(f"welcome {name}").decode()
    except dist.DistError as error:
        raise MissingProcessError(f"rank {rank}: rank 0 did not start within {timeout:g} s") from error
    store.set(f"{life} joined {rank}", "")
    return life


def _gather(store: dist.Store, name: str, world_size: int, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    awaited, welcomed = set(range(1, world_size)), set()
    while awaited:
        for rank in sorted(awaited):
            if store.check([f"{name} joined {rank}"]):
                awaited.remove(rank)
            elif store.check([f"here {rank}"]) and (other := store.get(f"here {rank}")) not in welcomed:
                # Perhaps the name of an earlier life, which takes no notice any more.
                store.set(f"welcome {other.decode()}", name)
                welcomed.add(other)
        if awaited and time.monotonic() > deadline:
            numbers = ", ".join(map(str, sorted(awaited)))
            raise MissingProcessError(f"of {world_size} processes these did not start within {timeout:g} s: {numbers}")
        time.sleep(PAUSE_S)
    return name
