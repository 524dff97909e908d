"""Every random number of a synthetic data set comes from a generator keyed by what it is for."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """A generator that depends on its arguments alone: not on workers, order, or how many subjects there are."""
    words = [seed & 0xFFFFFFFF, seed >> 32, zlib.crc32(purpose.encode())]
    words += [key if isinstance(key, int) else zlib.crc32(key.encode()) for key in keys]
    return np.random.default_rng(np.random.SeedSequence(words))
