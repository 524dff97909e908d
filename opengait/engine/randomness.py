"""Torch's global generators, keyed by (seed, iteration, rank) like all other randomness of a run."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from torch import Tensor

from opengait.engine.distributed import gather_rows, rank


def seed_everything(*key: int) -> None:
    """Seeds the global generators of Python, NumPy and PyTorch (all devices) with a key of any length."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    seed = int(state[0]) << 31 | int(state[1]) >> 1
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(state[0])


def seed_iteration(seed: int, iteration: int) -> None:
    """Before an iteration: dropout and the like repeat after a restart, and differ between processes.

    The iteration comes first after the seed, so that it can never equal the key a network is initialised with.
    """
    seed_everything(seed, 1 + iteration, rank())


def use_deterministic_algorithms(device: torch.device) -> None:
    """Identical bits run to run on one kind of device; an operation that cannot do so is an error."""
    # cuBLAS needs this workspace for it, set before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False


def rng_states(device: torch.device) -> dict[str, Tensor]:
    """Generator states of every process -> {'cpu': uint8 [processes, bytes], 'cuda': the same}; needs all processes."""
    states = {"cpu": gather_rows(torch.get_rng_state()[None])}
    if device.type == "cuda":
        states["cuda"] = gather_rows(torch.cuda.get_rng_state(device)[None])
    return states


def restore_rng_states(states: dict[str, Tensor], device: torch.device) -> None:
    """This process's own states, where the checkpoint has as many processes."""
    own = rank()
    # Copies: torch reads a row of a larger tensor from a wrong place in memory.
    if "cpu" in states and own < len(states["cpu"]):
        torch.set_rng_state(states["cpu"][own].cpu().clone())
    if device.type == "cuda" and "cuda" in states and own < len(states["cuda"]):
        torch.cuda.set_rng_state(states["cuda"][own].cpu().clone(), device)
