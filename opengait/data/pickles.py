"""Reads pickled arrays without running anything that a pickle asks for.

A pickle is a program for a small stack machine. The machine here knows only the instructions that build numbers,
strings, bytes, lists, tuples and dictionaries, and the forms in which NumPy writes arrays, dtypes and scalars
(protocols 0 to 5, module names of NumPy 1 and 2). No class or function named in a file is ever imported or called, and
nothing is larger than the file that holds it. Array data is not copied: an array is a view of the mapped file, so that
taking thirty frames touches the pages of thirty frames, and asking for the shape touches none.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from typing import Any

from opengait.data.errors import DataError
from opengait.data.pickle_machine import Machine
from opengait.data.pickle_values import Array, Dtype, Name

DEEPEST_NESTING = 32


def load(path: str | os.PathLike[str]) -> Any:
    """The object in a pickle file: read-only views of the file for arrays, plain Python objects for the rest.

    Raises:
        UnsafePickleError: the file names a class or function that is not part of a numeric array.
        DataError: no such file, not a whole pickle, or an array of another than a numeric dtype.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without the flag, opening a pipe would wait for ever
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{path}: is no regular file")
            if status.st_size == 0:
                raise DataError(f"{path}: the file is empty")
            content = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse(content, os.fspath(path))


def parse(content: mmap.mmap | bytes, name: str, machine: type[Machine] = Machine) -> Any:
    """The object in the bytes of a pickle; `name` stands for it in messages, `machine` may admit more than arrays."""
    try:
        return _finish(machine(content).run(), {}, DEEPEST_NESTING)
    except DataError as error:
        raise type(error)(f"{name}: {error}") from None
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error, MemoryError) as error:
        raise DataError(f"{name}: not a whole pickle of an array ({type(error).__name__}: {error})") from None


def _finish(value: Any, done: dict[int, Any], depth: int) -> Any:
    """Replaces the machine's own objects by what they stand for.

    A container that the file names many times is finished once, so that nested references cannot multiply.
    """
    if isinstance(value, Array):
        if value.array is None:
            raise DataError("an array without data")
        return value.array
    if isinstance(value, memoryview):
        return bytes(value)
    if not isinstance(value, list | tuple | dict):
        if isinstance(value, Name | Dtype):
            raise DataError("an array was expected, found only the name of a type")
        return value
    if id(value) in done:
        if done[id(value)] is None:
            raise DataError("a container that contains itself")
        return done[id(value)]
    if depth == 0:
        raise DataError(f"containers nested more than {DEEPEST_NESTING} deep")
    done[id(value)] = None
    result: Any
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int | float | bytes | None):
                raise DataError(f"a dictionary key of type {type(key).__name__}")
        result = {key: _finish(item, done, depth - 1) for key, item in value.items()}
    else:
        result = type(value)(_finish(item, done, depth - 1) for item in value)
    done[id(value)] = result
    return result
