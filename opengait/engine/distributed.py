"""One process or many: every function here also works where no process group was ever made.

Processes are started by `torchrun` (rank, world size and rendezvous come from the environment). A process holds one
device, chosen by its local rank; several machines and more processes than GPUs (on CPUs) are fine. Small host-side
messages (counts, figures, errors) travel over gloo also on CUDA, so that exchanging them never waits for a device.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import socket
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from opengait.engine.meeting import meet
from opengait.engine.roll_call import RollCall

logger = logging.getLogger(__name__)

NCCL_GRACE_S = 60.0


def is_distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process among all, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Whether this process logs and writes files."""
    return rank() == 0


def launched_rank() -> int:
    """The rank the launcher gave, also before the process group is made."""
    return rank() if is_distributed() else int(os.environ.get("RANK", 0))


def choose_device(device: str = "auto") -> torch.device:
    """'auto' | 'cpu' | 'cuda' | 'cuda:1' -> this process's device.

    `auto` and `cuda` mean the GPU with the number of the local rank; `auto` falls back to the CPU where there is none.

    Raises:
        ValueError: a name that is no device, or a GPU that this machine does not have.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    count = torch.cuda.device_count()
    if device == "auto":
        if count and local_rank >= count:
            raise ValueError(
                f"process {local_rank} of this machine has no GPU of its own: {count} visible. "
                f"Start at most {count} processes here (--nproc_per_node={count}), or choose the CPU"
            )
        return torch.device("cuda", local_rank) if count else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:<number>") from error
    if chosen.type == "cuda":
        index = local_rank if chosen.index is None else chosen.index
        if index >= count:
            raise ValueError(f"device {device!r} means GPU {index}, and {count} GPUs are visible")
        return torch.device("cuda", index)
    if chosen.type != "cpu":
        raise ValueError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:<number>")
    return chosen


@contextlib.contextmanager
def init_from_environment(device: torch.device, timeout: float = 1800.0) -> Iterator[RollCall | None]:
    """Process group of the launcher's processes for the time of a `with` block.

    Nothing is made for a single process, or where a group exists already (which is then left as it is).

    Args:
        device: this process's device.
        timeout: seconds after which a collective that other processes do not join is an error.

    Yields:
        What finds out who is missing; None where no group was made.

    Raises:
        MissingProcessError: not all processes started; the message names those.
        LostProcessError: a collective failed; the message names the processes that did not take part.
    """
    if is_distributed() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield None
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    # NCCL ends a process by itself, without a word about the others: the roll call comes before that.
    patience = datetime.timedelta(seconds=timeout if backend == "gloo" else timeout + NCCL_GRACE_S)
    store, own, processes = meet(timeout)
    dist.init_process_group(backend, store=store, rank=own, world_size=processes, timeout=patience)
    logger.info("%d processes, back end %s, rank 0 on %s", world_size(), backend, socket.gethostname())
    roll_call = RollCall(store, own, processes, timeout)
    try:
        yield roll_call
    except Exception as error:
        lost = roll_call.explain(error)
        if lost is not None:
            raise lost from error
        raise
    finally:
        roll_call.close()
        dist.destroy_process_group()


def barrier() -> None:
    """Waits on the host until every process is here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def gather_counts(counts: Sequence[int]) -> list[list[int]]:
    """This process's numbers -> one list of numbers a process, in rank order; no device is waited for."""
    if world_size() == 1:
        return [list(counts)]
    own = torch.tensor(list(counts), dtype=torch.int64)
    gathered = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(gathered, own)
    return [one.tolist() for one in gathered]


def gather_rows(rows: Tensor, shares: Sequence[int] | None = None) -> Tensor:
    """[n of this process, ...] -> [n of all processes, ...] in rank order; only this process's rows carry gradient.

    Args:
        rows: any dtype, on any device of the process group; the number of rows may differ between processes.
        shares: rows of every process, where known; otherwise they are exchanged first.

    Raises:
        ValueError: `shares` does not hold one number a process, or not this process's number of rows.
    """
    if world_size() == 1:
        return rows
    shares = [count for (count,) in gather_counts([len(rows)])] if shares is None else list(shares)
    if len(shares) != world_size() or shares[rank()] != len(rows):
        raise ValueError(f"shares {shares} do not fit rank {rank()} of {world_size()} with {len(rows)} rows")
    largest = max(shares)
    sent = rows.detach()
    if sent.dtype == torch.bool:
        sent = sent.to(torch.uint8)
    # Collectives want equal shapes: smaller shares travel with rows that are cut off again.
    padded = sent.new_zeros((largest, *rows.shape[1:]))
    padded[: len(rows)] = sent
    received = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(received, padded)
    parts = [part[:share].to(rows.dtype) for part, share in zip(received, shares, strict=True)]
    parts[rank()] = rows
    return torch.cat(parts)


def collect_rows(rows: Tensor, indices: Tensor, total: int) -> Tensor | None:
    """Rows of all processes, each at its index -> [total, ...] on the main process, None on the others.

    Args:
        rows: [n, ...] on the CPU.
        indices: int64 [n], where each row belongs.
        total: number of rows over all processes.

    Raises:
        ValueError: an index is missing or comes twice, over all processes (on the main process only).
    """
    everyone = gather_counts([len(rows), rows.dim(), *(rows.shape[1:] + (0,) * 8)[:8]])
    if not is_main():
        if len(rows):
            dist.send(indices.contiguous(), 0)
            dist.send(rows.contiguous(), 0)
        return None
    shape = next((counts[2 : 1 + counts[1]] for counts in everyone if counts[0]), [])
    table = rows.new_zeros((total, *shape))
    seen = torch.zeros(total, dtype=torch.int64)
    for source, (count, *_) in enumerate(everyone):
        if not count:
            continue
        if source:
            part_indices = torch.empty(count, dtype=torch.int64)
            part = rows.new_empty((count, *shape))
            dist.recv(part_indices, source)
            dist.recv(part, source)
        else:
            part_indices, part = indices, rows
        table[part_indices] = part
        seen.index_add_(0, part_indices, torch.ones_like(part_indices))
    if not bool((seen == 1).all()):
        missing, twice = (seen == 0).nonzero().flatten().tolist(), (seen > 1).nonzero().flatten().tolist()
        raise ValueError(
            f"of {total} rows {len(missing)} are missing {missing[:5]} and {len(twice)} repeated {twice[:5]}"
        )
    return table


def gather_targets(targets: Tensor) -> tuple[Tensor, int]:
    """[n of this process, ...] -> those of all processes in rank order, without gradient, and the place of the
    first own.

    For networks that contrast their sequences with those of the whole batch (`BaseModel.gather_targets`).
    """
    shares = [count for (count,) in gather_counts([len(targets)])]
    return gather_rows(targets.detach(), shares), sum(shares[: rank()])


def broadcast_text(text: str) -> str:
    """The main process's text, on every process."""
    if world_size() == 1:
        return text
    payload = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
    size = torch.tensor([len(payload)])
    dist.broadcast(size, 0)
    if not is_main():
        payload = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(payload, 0)
    return bytes(payload.tolist()).decode()


_MISTAKE = "mistake: "


def on_main(work: Callable[[], Any]) -> Any:
    """Runs `work` on the main process while the others wait; its result there, None elsewhere.

    Raises:
        Whatever `work` raises on the main process; the same text on the others, so that no process waits for one that
        has failed: ValueError for a ValueError (a person's mistake, shown once), else RuntimeError.
    """
    if not is_main():
        failure = broadcast_text("")
        if failure.startswith(_MISTAKE):
            raise ValueError(f"rank 0 failed: {failure.removeprefix(_MISTAKE)}")
        if failure.strip():
            raise RuntimeError(f"rank 0 failed: {failure}")
        return None
    try:
        result = work()
    except ValueError as mistake:
        broadcast_text(f"{_MISTAKE}{mistake}")
        raise
    except BaseException as error:
        broadcast_text(f"{type(error).__name__}: {error}")
        raise
    broadcast_text("")
    return result


class GatheredLoss:
    """A loss that knows nothing of processes, made exact over all of them.

    Distributed training averages the gradients of all processes. So that this average is the gradient one process
    would have on the whole batch:

    - A pairwise loss (`loss.pairwise`) sees the tensors of all processes, in rank order, of which the own rows carry
      gradient, and is multiplied by the number of processes.
    - A mean over sequences is multiplied by (own rows x processes / all rows), which is 1 for equal shares.

    `info` stays as the loss reports it: of the whole batch for a pairwise loss, of the own rows otherwise.

    Args:
        loss: module called with keyword arguments, returning (loss, info).
        shares: sequences of every process, where they are the same in each iteration; saves an exchange of counts.
    """

    def __init__(self, loss: nn.Module, shares: Sequence[int] | None = None) -> None:
        self.loss = loss
        self.pairwise = bool(getattr(loss, "pairwise", False))
        self.shares = None if shares is None else list(shares)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loss"], name)

    def __call__(self, **arguments: Any) -> tuple[Tensor, Any]:
        processes = world_size()
        if processes == 1:
            return self.loss(**arguments)
        names = [name for name, value in arguments.items() if isinstance(value, Tensor) and value.dim() > 0]
        if not names:
            return self.loss(**arguments)
        shares = self._shares([len(arguments[name]) for name in names])
        if self.pairwise:
            gathered = {name: gather_rows(arguments[name], counts) for name, counts in zip(names, shares, strict=True)}
            loss, info = self.loss(**{**arguments, **gathered})
            return loss * processes, info
        loss, info = self.loss(**arguments)
        return loss * (shares[0][rank()] * processes / sum(shares[0])), info

    def _shares(self, rows: list[int]) -> list[list[int]]:
        """Rows of every tensor of this process -> for every tensor, the rows of all processes."""
        if self.shares is not None and all(count == self.shares[rank()] for count in rows):
            return [self.shares] * len(rows)
        return [list(counts) for counts in zip(*gather_counts(rows), strict=True)]


def wrap_network(
    network: nn.Module,
    device: torch.device,
    *,
    find_unused_parameters: bool,
    sync: bool,
    apart: Collection[str] = (),
) -> nn.Module:
    """The network as trained by all processes together; itself where there is one process or nothing to train.

    Args:
        sync: batch-norm buffers are equal on all processes anyway (synchronised or frozen), so they are not sent.
        apart: names of parameters that every process has for itself: neither they nor their gradients are sent.
    """
    averaged = [parameter for name, parameter in network.named_parameters() if name not in apart]
    if world_size() == 1 or not any(parameter.requires_grad for parameter in averaged):
        return network
    wrapper = nn.parallel.DistributedDataParallel
    if apart:
        wrapper._set_params_and_buffers_to_ignore_for_model(network, list(apart))
    # The older name is deprecated where the newer one exists.
    name = "forward_sync_buffers" if "forward_sync_buffers" in signature(wrapper).parameters else "broadcast_buffers"
    options: dict[str, Any] = {name: not sync, "find_unused_parameters": find_unused_parameters}
    with warnings.catch_warnings():
        # Asked for by the config; the hint that nothing was unused in the first iteration is not an error.
        warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")
        return wrapper(
            network,
            device_ids=[device.index] if device.type == "cuda" else None,
            **options,
            gradient_as_bucket_view=True,
        )
