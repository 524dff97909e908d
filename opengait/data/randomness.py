"""Random numbers as pure functions of (purpose, seed, iteration, position).

Nothing is drawn from global state: a batch is the same for every number of processes and workers, and a resumed run
needs the number of the iteration, not a replay.
"""

from __future__ import annotations

import hashlib

import numpy as np

WORD = 1 << 64


def generator(purpose: str, seed: int, iteration: int = 0, position: int = 0) -> np.random.Generator:
    """The generator that belongs to one purpose at one place of a run.

    Args:
        purpose: what is drawn ("subjects", "frames"); two purposes never share numbers.
        seed, iteration, position: 0 or more, below 2^64.

    Raises:
        ValueError: a number is negative or too large.
    """
    for number in (seed, iteration, position):
        if not 0 <= number < WORD:
            raise ValueError(f"seed, iteration and position must be 0 or more and below 2^64, found {number}")
    # Every part takes two 32-bit words whatever its value, so that no two keys spell the same sequence of words.
    key = np.array([_purpose_number(purpose), seed, iteration, position], dtype="<u8").view("<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def uniforms(purpose: str, seed: int, iteration: int, positions: np.ndarray) -> np.ndarray:
    """One number in [0, 1) per position, for a whole batch at once; float64 [n].

    A generator per sequence costs tens of microseconds, which adds up on the thread that feeds the device; here the
    position goes through the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) twice, keyed by the rest.
    """
    text = f"{purpose}/{seed}/{iteration}".encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:8], dtype="<u8")[0]
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        bits = _mix(_mix(positions.astype(np.uint64) * golden + golden) ^ key)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _purpose_number(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
