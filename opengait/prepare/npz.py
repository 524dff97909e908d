"""Reads npz files, those that hold objects too, without running anything that they ask for.

NumPy can read arrays of objects only by unpickling them, and a pickle can run any code. Here such an array is read by
the project's own machine: what it holds may be numbers, text, plain containers and numeric arrays, nothing else.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from opengait.data import pickles
from opengait.data.errors import DataError
from opengait.data.npy import read_header
from opengait.data.pickle_machine import Machine
from opengait.data.pickle_values import Array, Name

LARGEST_ARRAY = 1 << 24
"""bytes of one array's file; SMPL estimates of a frame have thousands"""


class _Objects:
    """Stands for the dtype of an array of objects."""


class _ObjectMachine(Machine):
    """Admits arrays of objects beside those of numbers; such an array becomes the flat list of what it holds."""

    def reduce(self) -> None:
        arguments, function = self.stack[-1], self.stack[-2]
        if isinstance(function, Name) and function.call == "dtype" and arguments and arguments[0] in ("O8", "O4", "O"):
            del self.stack[-2:]
            self.stack.append(_Objects())
        else:
            super().reduce()

    def build(self) -> None:
        state, target = self.stack[-1], self.stack[-2]
        if isinstance(target, _Objects):
            self.stack.pop()
        elif isinstance(target, Array) and _holds_objects(state):
            shape, _, _, items = state[-4:]
            if not isinstance(items, list) or math.prod(shape) != len(items):
                raise DataError("an array of objects without its items")
            self.stack[-2:] = [items]
        else:
            super().build()


def _holds_objects(state: object) -> bool:
    return (
        isinstance(state, tuple)
        and len(state) in (4, 5)
        and isinstance(state[-3], _Objects)
        and isinstance(state[-4], tuple)
        and all(type(size) is int for size in state[-4])
    )


def read_npz(content: bytes, name: str) -> dict[str, Any]:
    """The arrays of an npz file by their names; an array of objects is the list of what it holds.

    Raises:
        UnsafePickleError: an object that is no number, text, plain container or numeric array.
        DataError: not an npz file, or an array that is cut off, too large or not of numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if member.file_size > LARGEST_ARRAY:
                    raise DataError(f"{name}: {member.filename} has {member.file_size} bytes, at most {LARGEST_ARRAY}")
            return {
                member.filename.removesuffix(".npy"): _array(archive.read(member), f"{name}: {member.filename}")
                for member in archive.infolist()
            }
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, NotImplementedError,
            RuntimeError, ValueError, LookupError, OverflowError, MemoryError) as error:  # fmt: skip
        raise DataError(f"{name}: not a whole npz file ({error})") from error


def _array(content: bytes, name: str) -> Any:
    try:
        header = read_header(content)
    except DataError as error:
        raise DataError(f"{name}: not an npy file ({error})") from error
    shape, dtype, data = header.shape, header.dtype, content[header.size :]
    if dtype.hasobject:
        return pickles.parse(data, name, _ObjectMachine)
    if dtype.kind not in "biuf":
        raise DataError(f"{name}: an array of numbers was expected, found dtype {dtype}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise DataError(f"{name}: an array of shape {shape} and dtype {dtype} cannot have {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if header.fortran else "C")
