"""Looks through the pickles of a checkpoint before torch reads them.

torch's own reader (`weights_only=True`) runs no code of a file, but calls some functions that it names with whatever
arguments it gives, such as `torch.Tensor(10**12)`. Here the same machine that reads data files goes over the pickle
first: it makes nothing, admits the forms in which torch writes tensors, optimisers and schedules, and finds out whether
the file has the bytes that its tensors claim.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, cast

from opengait.data.errors import DataError, UnsafePickleError
from opengait.data.pickle_machine import Machine
from opengait.data.pickle_values import short

PICKLES_OF_OLD_FILES = 5  # magic number, protocol, system, contents, storage keys
DEEPEST_NESTING = 64
LARGEST_TREE = 10_000_000  # values, each counted as often as it is referred to
SMALL = 1 << 20  # elements that a tensor may have beyond those stored, as an expanded one has

BYTES = {
    **dict.fromkeys(("Byte", "Char", "Bool", "Untyped"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double", "int8", "uint8", "int16", "int32",
          "int64", "bool", "complex64", "complex128")  # fmt: skip
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
PERSISTENT_ID = ord("Q")

ADMITTED = {
    *(("torch", f"{kind}Storage") for kind in BYTES),
    ("torch.storage", "UntypedStorage"),
    *(("torch", name) for name in DTYPES),
    *(("torch._utils", name) for name in (*TENSORS, *PARAMETERS)),
    ("torch", "Size"),
    ("torch", "device"),
    ("collections", "OrderedDict"),
    ("collections", "Counter"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "bytearray")),
    ("_codecs", "encode"),
}


class _Global:
    """Stands for an admitted class, function or dtype; never the thing itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Storage:
    """The elements of one or more tensors."""

    __slots__ = ("elements",)

    def __init__(self, elements: int) -> None:
        self.elements = elements


class _Tensor:
    """Something that has no parts of interest: a tensor, a device."""


class _CheckpointMachine(Machine):
    """Goes over a checkpoint's pickle.

    Args:
        room: bytes of each storage by its key; None where only their sum is known.
        total: bytes that all storages have together at most.
    """

    def __init__(self, content: mmap.mmap | bytes, room: Mapping[str, int] | None, total: int) -> None:
        super().__init__(content)
        self.room, self.total = room, total
        self.claimed: dict[str, int] = {}

    def other(self, code: int) -> None:
        if code == PERSISTENT_ID:
            self.stack.append(self.storage(self.stack.pop()))
        else:
            super().other(code)

    def find(self, module: object, name: object) -> None:
        if (module, name) not in ADMITTED:
            raise UnsafePickleError(
                f"refused, since it asks for {short(module, quote=False)}.{short(name, quote=False)}; "
                "checkpoints hold tensors and plain containers only"
            )
        self.stack.append(_Global(str(name)))

    def storage(self, place: object) -> _Storage:
        """('storage', type, key, device, elements), and in old files the view of another storage."""
        if not isinstance(place, tuple) or len(place) < 5 or place[0] != "storage" or not isinstance(place[1], _Global):
            raise DataError(f"{short(place)} is no place of a tensor's elements")
        kind, key, elements = place[1].name.removesuffix("Storage"), place[2], place[4]
        if kind not in BYTES or not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise DataError(f"a storage of type {kind}, key {short(key)} and {short(elements)} elements")
        size = elements * BYTES[kind]
        if self.room is not None and size > self.room.get(key, -1):
            raise DataError(f"a tensor claims {size} bytes of storage {short(key)}, which has {self.room.get(key, 0)}")
        before = self.claimed.get(key, 0)
        self.claimed[key] = max(size, before)
        self.total -= self.claimed[key] - before
        if self.total < 0:
            raise DataError(f"a tensor claims {size} bytes of storage {short(key)}, more than the file has")
        return _Storage(elements)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise UnsafePickleError("refused, since it calls something that is no part of a checkpoint")
        self.stack.append(self.result(function.name, arguments))

    def result(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What stands for the result of a call."""
        if name in TENSORS and len(arguments) >= 4:
            return self.tensor(*arguments[:4])
        plain = not any(isinstance(one, _Global | _Storage) for one in arguments)
        if name in PARAMETERS and arguments and isinstance(arguments[0], _Tensor):
            return arguments[0]
        if name in ("OrderedDict", "Counter") and (not arguments or isinstance(arguments[0], dict)) and plain:
            return dict(*arguments[:1])
        if name == "OrderedDict" and isinstance(arguments[0], list):  # pairs, as Python 2 wrote them
            return dict(arguments[0])
        if name in ("Size", "set") and len(arguments) == 1 and isinstance(arguments[0], list | tuple):
            return list(arguments[0])
        if name == "device" and all(isinstance(one, str | int) for one in arguments):
            return _Tensor()
        if name == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
            return arguments[0].encode("latin1")
        if name == "bytearray" and len(arguments) <= 1 and all(isinstance(one, bytes) for one in arguments):
            return bytes(*arguments)
        raise UnsafePickleError(f"refused, since it calls {name} with {short(arguments)}")

    def tensor(self, storage: object, offset: object, size: object, stride: object) -> _Tensor:
        """Checks a tensor's place in its storage; torch checks its strides."""
        if not isinstance(storage, _Storage) or type(offset) is not int or offset < 0:
            raise DataError(f"a tensor at {short(offset)} of what is no storage")
        if not _are_sizes(size) or not _are_sizes(stride):
            raise DataError(f"a tensor of shape {short(size)} and strides {short(stride)}")
        if math.prod(cast(tuple[int, ...], size)) > max(storage.elements, SMALL):
            raise DataError(f"a tensor of shape {short(size)} in a storage of {storage.elements} elements")
        return _Tensor()

    def build(self) -> None:
        # How torch keeps the version of each layer beside a state dict.
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise UnsafePickleError(f"refused, since it sets the state of a {type(target).__name__.lstrip('_')}")


def _are_sizes(value: object) -> bool:
    return isinstance(value, tuple) and len(value) <= 64 and all(type(one) is int and one >= 0 for one in value)


def check_file(path: str | os.PathLike[str], *, sums: bool = True) -> None:
    """Raises where a checkpoint file is not what `torch.save` writes.

    Args:
        sums: compare every byte with the archive's own check sums; not needed where the whole file has been compared.

    Raises:
        UnsafePickleError: it asks for a class or function that no checkpoint needs; the message names that.
        DataError: damaged, compressed, or it claims to be larger than it is.
        OSError: cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) == b"PK\x03\x04":  # how torch decides, too
            _check_archive(file, size, sums)
            return
        if not size:
            raise DataError("the file is empty")
        machine = _CheckpointMachine(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), None, size)
        for _ in range(PICKLES_OF_OLD_FILES):
            machine.stack, machine.marks, machine.memo = [], [], {}  # each is a pickle of its own
            _look_through(machine)


def _check_archive(file: Any, size: int, sums: bool) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise DataError("two members have one name")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise DataError("its members are compressed, and torch stores them as they are")
            if sum(member.file_size for member in members) > size:
                raise DataError("its members claim more bytes than the file has")
            broken = archive.testzip() if sums else None
            if broken is not None:
                raise DataError(f"{broken} does not match its check sum")
            pickles = [member for member in members if member.filename.endswith("data.pkl")]
            if len(pickles) != 1:
                raise DataError(f"one member data.pkl was expected, found {len(pickles)}")
            folder = pickles[0].filename.removesuffix("data.pkl") + "data/"
            room = {
                member.filename.removeprefix(folder): member.file_size
                for member in members
                if member.filename.startswith(folder)
            }
            _look_through(_CheckpointMachine(archive.read(pickles[0]), room, size))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError, RuntimeError) as error:
        raise DataError(str(error) or type(error).__name__) from error


def _look_through(machine: _CheckpointMachine) -> None:
    try:
        _values(machine.run(), {}, DEEPEST_NESTING)
    except DataError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, struct.error) as error:
        raise DataError(f"not a whole pickle ({type(error).__name__}: {short(str(error), quote=False)})") from error


def _values(value: Any, done: dict[int, int], depth: int) -> int:
    """How many values a tree has, those that are referred to many times counted as often."""
    if not isinstance(value, list | tuple | dict):
        return 1
    if id(value) not in done:
        if depth == 0:
            raise DataError(f"containers nested more than {DEEPEST_NESTING} deep, or one that contains itself")
        count = 1
        for item in value.values() if isinstance(value, dict) else value:
            count += _values(item, done, depth - 1)
        if count > LARGEST_TREE:
            raise DataError(f"more than {LARGEST_TREE} values")
        done[id(value)] = count
    return done[id(value)]
