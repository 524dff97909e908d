"""Headers of NumPy's array files, read without NumPy's loader, which takes any size that a header claims."""

from __future__ import annotations

import io
import tokenize
import warnings
from typing import NamedTuple

import numpy as np

from opengait.data.errors import DataError

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Header(NamedTuple):
    """What stands before the numbers of an array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    size: int
    """bytes of the header, after which the numbers begin"""


def read_header(content: bytes) -> Header:
    """The header of an array file's content.

    Raises:
        DataError: there is none, of a known version.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _READERS:
            raise DataError(f"format {version[0]}.{version[1]} of NumPy's array files is not read")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on headers of Python 2, which are no worse than others
            shape, fortran, dtype = _READERS[version](stream)
    except (ValueError, TypeError, LookupError, OverflowError, SyntaxError, RecursionError, MemoryError,
            tokenize.TokenError) as error:  # fmt: skip
        raise DataError(f"no header of an array: {error}") from error
    if any(type(size) is not int or size < 0 for size in shape):
        raise DataError(f"{shape} is not the shape of an array")
    return Header(shape, fortran, dtype, stream.tell())
