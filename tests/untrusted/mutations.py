"""Changes to valid files: of bytes, and of values in a tree of plain containers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

PIECES = [
    b"\x00",
    b"\xff",
    b"\x00" * 8,
    b"\xff" * 8,
    b"../",
    b"\n",
    b".",
    b"R",
    b"0",
    b"9" * 40,
    b"[" * 200,
    b"\x80\x04",
]
NUMBERS = [0, 1, -1, 2, 7, 255, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63), 2**64, 10**30]
TEXTS = ["", ".", "..", "../../etc", "/etc/passwd", "a/b", "a\\b", "a\0b", "é", "\ud800", "x" * 5000, "null", "nan",
         "1e9", "!!python/object/apply:os.system", "*a", "&a", "001", "uint8", "object", "<i8", "O"]  # fmt: skip
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.sampled_from([0.0, -1.0, 0.5, 1e300, float("inf"), float("nan")])
    | st.sampled_from(TEXTS)
)
ODD = (
    SCALARS
    | st.lists(SCALARS, max_size=4)
    | st.dictionaries(st.sampled_from([*TEXTS[:8], "type", "name"]), SCALARS, max_size=3)
    | st.integers(1, 300).map(lambda depth: _nested(depth))
)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with a few bytes replaced, put in, taken out, doubled, and perhaps cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        how = draw(st.sampled_from(["set", "flip", "insert", "delete", "double", "cut"]))
        if how == "set":
            changed[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "flip" and changed:
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "insert":
            changed[place:place] = draw(st.sampled_from(PIECES) | st.binary(max_size=12))
        elif how == "delete":
            del changed[place : place + draw(st.integers(1, 16))]
        elif how == "double":
            part = changed[place : place + draw(st.integers(1, 64))]
            changed[place:place] = part
        elif draw(st.integers(0, 2)) == 0:
            del changed[place:]
    return bytes(changed)


@st.composite
def changed_tree(draw: st.DrawFn, tree: Any, odd: st.SearchStrategy[Any] = ODD) -> Any:
    """The tree with one to three values replaced, taken out, renamed, doubled or exchanged."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            return draw(odd)
        container, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "double", "exchange"]))
        if how == "replace":
            container[key] = draw(odd)
        elif how == "remove":
            del container[key]
        elif how == "rename" and isinstance(container, dict):
            container[draw(st.sampled_from(TEXTS))] = container.pop(key)
        elif how == "double" and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            other, other_key = places[draw(st.integers(0, len(places) - 1))]
            container[key] = copy.deepcopy(other[other_key])
    return changed


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in nested dicts and lists."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])
