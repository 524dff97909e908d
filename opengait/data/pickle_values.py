"""What the reader of pickles puts in place of NumPy's own classes and functions; none of those is ever called."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from opengait.data.errors import DataError, UnsafePickleError

NUMERIC = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")

Buffer = bytes | bytearray | memoryview


class Name:
    """Stands for one of the admitted globals; never the thing itself."""

    __slots__ = ("call",)

    def __init__(self, call: str) -> None:
        self.call = call


class Dtype:
    """A dtype that may still get its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, text: object) -> None:
        if isinstance(text, bytes):
            text = text.decode("latin1")
        if not isinstance(text, str) or not NUMERIC.fullmatch(text):
            raise DataError(f"arrays of numbers or booleans were expected, found dtype {short(text)}")
        self.dtype = np.dtype(text)

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise DataError("an array of plain numbers was expected, found a dtype with fields")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|"):
            raise DataError(f"{short(order)} is not a byte order")
        if order in ("<", ">"):
            self.dtype = np.dtype(order + self.dtype.str[1:])


class Array:
    """An array that may still get its data."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise DataError("the array's state is malformed")
        shape, dtype, fortran, data = state[-4:]
        self.array = _build_array(data, dtype, shape, "F" if fortran else "C")


def _build_array(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(dtype, Dtype):
        raise DataError("an array without a dtype")
    if isinstance(data, str):  # pickles written by Python 2
        data = data.encode("latin1")
    if not isinstance(data, Buffer):
        raise DataError(f"array data must be bytes, found {type(data).__name__}")
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, tuple) or not all(type(size) is int and size >= 0 for size in sizes) or len(sizes) > 16:
        raise DataError(f"{short(shape)} is not the shape of an array")
    expected = math.prod(sizes) * dtype.dtype.itemsize
    if expected != len(data):
        raise DataError(f"an array of shape {sizes} and dtype {dtype.dtype} has {expected} bytes, found {len(data)}")
    if order not in ("C", "F"):
        raise DataError(f"{short(order)} is not an order of array elements")
    return np.frombuffer(data, dtype=dtype.dtype).reshape(sizes, order=order)


def _from_buffer(data: object, dtype: object, shape: object, order: object, axes: object = None) -> Array:
    """NumPy's form in protocol 5; `axes` belongs to order K, arrays stored with permuted axes."""
    if order != "K":
        return Array(_build_array(data, dtype, shape, order))
    if not isinstance(axes, tuple) or not isinstance(shape, tuple) or sorted(axes) != list(range(len(shape))):
        raise DataError(f"{short(axes)} is not a permutation of the array's axes")
    return Array(_build_array(data, dtype, shape, "C").transpose(axes))


def _scalar(dtype: object, data: object) -> Any:
    return _build_array(data, dtype, (1,), "C")[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"refused, since it encodes text as {short(encoding)}")
    return text.encode("latin1")


def _bytearray(data: Buffer = b"") -> bytearray:
    if not isinstance(data, Buffer):
        raise DataError(f"a bytearray is made of bytes, found {type(data).__name__}")
    return bytearray(data)


# What stands in for a named function when a file calls it.
CALLS: dict[str, Callable[..., Any]] = {
    "_reconstruct": lambda kind, shape, code: Array(),
    "_frombuffer": _from_buffer,
    "scalar": _scalar,
    "dtype": lambda text, *flags: Dtype(text),
    "encode": _encode,
    "bytes": lambda: b"",  # how protocols below 3 write empty bytes
    "bytearray": _bytearray,
}
ADMITTED = {
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
    ("numpy", "ndarray"): "ndarray",  # named as an argument only, never called
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    **{(module, name): name for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
}


def short(value: object, quote: bool = True) -> str:
    """A value for a message; files choose it, so it is cut and printable."""
    text = repr(value) if quote or not isinstance(value, str) else ascii(value)[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."
