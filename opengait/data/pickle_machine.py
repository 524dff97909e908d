"""The stack machine of pickles, without the instructions that can run anything."""

from __future__ import annotations

import mmap
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from opengait.data.errors import DataError, UnsafePickleError
from opengait.data.pickle_values import ADMITTED, CALLS, Array, Dtype, Name, short

SIZES = {"B": 1, "H": 2, "i": 4, "I": 4, "d": 8, "Q": 8}
LONGEST_NUMBER = 64  # bytes or digits; longer ones are no data, and turning digits into a number is quadratic


class Machine:
    """Runs the harmless instructions of a pickle and refuses all others by name."""

    def __init__(self, content: mmap.mmap | bytes) -> None:
        self.content = content
        self.data = memoryview(content)
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, size = self.data, len(self.data)
        while self.at < size:
            code = data[self.at]
            self.at += 1
            step = STEPS.get(code)
            if step is not None:
                step(self)
            elif code == STOP:
                return self.stack.pop()
            else:
                self.other(code)
        raise DataError("the file ends in the middle of a pickle")

    def other(self, code: int) -> None:
        """An instruction that is not in STEPS."""
        known = next((op.name for op in pickletools.opcodes if op.code == chr(code)), None)
        if known is None:
            raise DataError(f"byte {self.at - 1} is no pickle instruction; is this a pickle?")
        raise UnsafePickleError(f"refused, since it holds the pickle instruction {known}")

    # Reading.

    def take(self, size: int) -> memoryview:
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise DataError(f"the file ends after {len(self.data)} bytes, {end} were expected")
        part = self.data[self.at : end]
        self.at = end
        return part

    def line(self) -> bytes:
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise DataError("the file ends in the middle of a line")
        text = bytes(self.data[self.at : end])
        self.at = end + 1
        return text

    def number(self, form: str) -> int:
        start = self.at
        self.at += SIZES[form[1]]
        return struct.unpack_from(form, self.data, start)[0]

    def digits(self) -> str:
        text = self.line()
        if len(text) > LONGEST_NUMBER:
            raise DataError(f"a number of {len(text)} digits")
        return text.decode("ascii").strip()

    def text_int(self) -> int | bool:
        text = self.digits()
        return text == "01" if text in ("00", "01") else int(text.rstrip("L"))

    def long_int(self, size: int) -> int:
        if size > LONGEST_NUMBER:
            raise DataError(f"a number of {size} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    def string(self, size: int, encoding: str = "utf-8") -> str:
        return str(self.take(size), encoding, "surrogatepass" if encoding == "utf-8" else "strict")

    # The stack.

    def items(self) -> list[Any]:
        """What lies above the last mark, taken off."""
        height = self.marks.pop()
        found = self.stack[height:]
        del self.stack[height:]
        return found

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise DataError("a tuple without its items")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise DataError(f"items for a list were put on a {type(target).__name__}")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise DataError(f"entries for a dictionary were put on a {type(target).__name__}")
        target.update(zip(items[::2], items[1::2], strict=True))

    def pairs(self) -> dict[Any, Any]:
        items = self.items()
        return dict(zip(items[::2], items[1::2], strict=True))

    def pair(self) -> list[Any]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    # What pickles use to make objects.

    def find(self, module: object, name: object) -> None:
        call = ADMITTED.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if call is None:
            raise UnsafePickleError(
                f"refused, since it asks for {short(module, quote=False)}.{short(name, quote=False)}; "
                "data files hold NumPy arrays and plain containers only"
            )
        self.stack.append(Name(call))

    def named_by_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        call = CALLS.get(function.call) if isinstance(function, Name) else None
        if call is None or not isinstance(arguments, tuple):
            raise UnsafePickleError("refused, since it calls something that is no part of an array")
        self.stack.append(call(*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Array | Dtype):
            raise UnsafePickleError(f"refused, since it sets the state of a {type(target).__name__}")
        target.set_state(state)


def _push(read: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine.stack.append(read(machine))

    return step


def _remember(key: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine.memo[key(machine)] = machine.stack[-1]

    return step


# The instructions that make up most of an array's pickle, without the detour over the general forms.


def _none(machine: Machine) -> None:
    machine.stack.append(None)


def _byte(machine: Machine) -> None:
    machine.stack.append(machine.data[machine.at])
    machine.at += 1


def _short_text(machine: Machine) -> None:
    start = machine.at + 1
    machine.at = end = start + machine.data[start - 1]
    if end > len(machine.data):
        raise DataError("the file ends in the middle of a text")
    machine.stack.append(str(machine.data[start:end], "utf-8", "surrogatepass"))


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


STOP = ord(".")
STEPS: dict[int, Callable[[Machine], Any]] = {
    ord(code): step
    for code, step in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME: only a hint for readers that buffer
        # Numbers.
        "N": _none,
        "\x88": _push(lambda m: True),
        "\x89": _push(lambda m: False),
        "I": _push(Machine.text_int),
        "L": _push(Machine.text_int),
        "J": _push(lambda m: m.number("<i")),
        "K": _byte,
        "M": _push(lambda m: m.number("<H")),
        "\x8a": _push(lambda m: m.long_int(m.number("<B"))),
        "\x8b": _push(lambda m: m.long_int(m.number("<i"))),
        "F": _push(lambda m: float(m.digits())),
        "G": _push(lambda m: m.number(">d")),
        # Strings and bytes. The long ones stay views of the file.
        "T": _push(lambda m: m.string(m.number("<i"), "latin1")),
        "U": _push(lambda m: m.string(m.number("<B"), "latin1")),
        "V": _push(lambda m: str(m.line(), "raw-unicode-escape")),
        "X": _push(lambda m: m.string(m.number("<I"))),
        "\x8c": _short_text,
        "\x8d": _push(lambda m: m.string(m.number("<Q"))),
        "C": _push(lambda m: bytes(m.take(m.number("<B")))),
        "B": _push(lambda m: m.take(m.number("<I"))),
        "\x8e": _push(lambda m: m.take(m.number("<Q"))),
        "\x96": _push(lambda m: m.take(m.number("<Q"))),
        # Containers.
        "(": lambda m: m.marks.append(len(m.stack)),
        "]": _push(lambda m: []),
        "l": _push(Machine.items),
        "a": lambda m: m.append([m.stack.pop()]),
        "e": lambda m: m.append(m.items()),
        ")": _push(lambda m: ()),
        "t": _push(lambda m: tuple(m.items())),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "}": _push(lambda m: {}),
        "d": _push(lambda m: m.pairs()),
        "s": lambda m: m.update(m.pair()),
        "u": lambda m: m.update(m.items()),
        # Stack and memo.
        "0": Machine.pop,
        "1": Machine.items,
        "2": _push(lambda m: m.stack[-1]),
        "p": _remember(lambda m: int(m.digits())),
        "q": _remember(lambda m: m.number("<B")),
        "r": _remember(lambda m: m.number("<I")),
        "\x94": _memoize,
        "g": _push(lambda m: m.memo[int(m.digits())]),
        "h": _push(lambda m: m.memo[m.number("<B")]),
        "j": _push(lambda m: m.memo[m.number("<I")]),
        # Objects.
        "c": lambda m: m.find(str(m.line(), "utf-8"), str(m.line(), "utf-8")),
        "i": lambda m: m.find(str(m.line(), "utf-8"), str(m.line(), "utf-8") + " (as an instance)"),
        "\x93": Machine.named_by_stack,
        "R": lambda m: m.reduce(),  # looked up on the machine: one that admits more overrides these two
        "b": lambda m: m.build(),
    }.items()
}
