"""Sizes of memory as people write them."""

from __future__ import annotations

import re

DEFAULT_MEMORY = 1 << 30
_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_FORM = re.compile(r"(\d+(?:\.\d*)?)\s*([KMGT]?)I?B?", re.IGNORECASE)


def parse_memory(size: str | int) -> int:
    """`2GB`, `512 MiB`, `1.5g` or a number of bytes -> bytes; a unit is 1024 times the one before.

    Raises:
        ValueError: no size, or less than one byte.
    """
    found = _FORM.fullmatch(str(size).strip())
    amount = 0 if found is None else int(float(found[1]) * _UNITS[found[2].upper()])
    if amount < 1:
        raise ValueError(f"memory is '{size}'; expected a size such as 2GB, 512MB, or a number of bytes")
    return amount
