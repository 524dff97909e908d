"""Arrays of every protocol come back; everything that is no array or plain container is refused and never run."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengait.data import pickles
from opengait.data.errors import DataError, UnsafePickleError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    np.arange(10)[::-2],
    np.arange(4, dtype=">i4"),
    np.array([True, False]),
    np.array([0.5, np.nan], dtype=np.float16),
    np.zeros((0, 64, 64), dtype=np.uint8),
    np.float32(2.5) * np.ones(()),
    np.arange(300000, dtype=np.uint16),
]
PLAIN = {
    "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**40, -(2**63), 1.5, float("inf"), True, False, None],
    "text": ["", "frames", "é\n\\u", "x" * 300],
    "bytes": [b"", b"\x00\xff", b"y" * 300, bytearray(b"z")],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "scalars": [np.float64(1.25), np.uint8(7), np.bool_(True)],
}


def same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected) or isinstance(expected, bytearray)
    np.testing.assert_array_equal(found, expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_come_back(protocol: int) -> None:
    for array in ARRAYS:
        same(pickles.parse(pickle.dumps(array, protocol), "x"), array)
    together = pickles.parse(pickle.dumps([*ARRAYS, ARRAYS[0]], protocol), "x")
    for found, expected in zip(together, [*ARRAYS, ARRAYS[0]], strict=True):
        same(found, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_containers_come_back(protocol: int) -> None:
    assert pickles.parse(pickle.dumps(PLAIN, protocol), "x") == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_module_names_of_both_numpy_generations(protocol: int) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    written = pickle.dumps(array, protocol)
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        if protocol < 4:
            renamed = written.replace(old, new)
        else:  # the length of the name stands before it, that of the frame before all
            renamed = re.sub(
                b"\x8c.(" + re.escape(old) + b"[a-z]+)",
                lambda found, old=old, new=new: short_text(found[1].replace(old, new)),  # type: ignore[misc]
                written,
                flags=re.DOTALL,
            )
        same(pickles.parse(renamed, "x"), array)


def short_text(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


def test_array_data_is_a_view_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(np.arange(100000, dtype=np.uint8)))
    array = pickles.load(path)
    assert not array.flags.owndata
    assert not array.flags.writeable


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


class Slotted:
    def __init__(self) -> None:
        self.value = 1


def harmful(marker: Path) -> dict[str, bytes]:
    """Pickles that would write the marker, or get at something they should not have."""
    touch = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w').close()"
    array = np.zeros(3)
    dotted = b"\x80\x04" + short_text(b"numpy") + short_text(b"ndarray.__class__") + b"\x93."
    state_on_name = b"\x80\x02cnumpy\ndtype\n}q\x00X\x04\x00\x00\x00callq\x01X\x04\x00\x00\x00evalq\x02sb."
    return {
        **{f"os.system {p}": pickle.dumps(Calls(os.system, touch), p) for p in PROTOCOLS},
        "subprocess": pickle.dumps(Calls(subprocess.call, ["touch", str(marker)])),
        "eval": pickle.dumps(Calls(eval, python)),
        "exec": pickle.dumps(Calls(exec, python)),
        "open": pickle.dumps(Calls(open, str(marker), "w")),
        "getattr": pickle.dumps(Calls(getattr, array, "tofile")),
        "import": pickle.dumps(Calls(builtins.__import__, "os")),
        "numpy loader": pickle.dumps(Calls(np.load, str(marker))),
        "numpy memmap": pickle.dumps(Calls(np.memmap, str(marker), "uint8", "w+", 0, (4,))),
        "numpy fromfile": pickle.dumps(Calls(np.fromfile, str(marker))),
        "nested": pickle.dumps([array, {"x": (Calls(os.system, touch),)}]),
        "nested in arguments": pickle.dumps(Calls(np.dtype, Calls(os.system, touch))),
        "dotted": dotted,
        "instance": b"(V" + touch.encode() + b"\nios\nsystem\n.",
        "object instruction": b"(cos\nsystem\nV" + touch.encode() + b"\no.",
        "new object": pickle.dumps(Slotted(), 4),
        "class": pickle.dumps(collections.OrderedDict),
        "ordered": pickle.dumps(collections.OrderedDict(a=1)),
        "object array": pickle.dumps(np.array([1, "a", None], dtype=object)),
        "object array with call": pickle.dumps(np.array([Calls(os.system, touch)], dtype=object)),
        "text array": pickle.dumps(np.array(["a", "b"])),
        "record array": pickle.dumps(np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])),
        "dates": pickle.dumps(np.zeros(2, dtype="datetime64[s]")),
        "masked": pickle.dumps(np.ma.masked_array([1, 2], [True, False])),
        "persistent id": b"Pname\n.",
        "persistent id on the stack": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "extension": b"\x80\x02\x82\x01.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "call of a class": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        "call of a string": b"\x80\x02X\x04\x00\x00\x00evalX\x01\x00\x00\x001\x85R.",
        "state on a name": state_on_name,
        "state on a list": b"\x80\x02]}b.",
        "other encoding": pickle.dumps(Calls(__import__("_codecs").encode, "a", "punycode")),
        "set": pickle.dumps({1, 2}),
        "complex": pickle.dumps(1j),
    }


def test_harmful_pickles_are_refused_and_nothing_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for form, content in harmful(marker).items():
        path = tmp_path / "attack.pkl"
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            pickles.load(path)
        assert str(error.value).startswith(str(path)), form
        assert "\n" not in str(error.value), form
        assert not marker.exists(), form


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (os.system, "posix.system"),
        (eval, "builtins.eval"),
        (np.load, "numpy.load"),
        (subprocess.call, "subprocess.call"),
    ],
)
def test_the_offending_global_is_named(call: Any, name: str) -> None:
    with pytest.raises(UnsafePickleError, match=re.escape(name)):
        pickles.parse(pickle.dumps(Calls(call, "x")), "x.pkl")


def array_pickle(shape: bytes, data: bytes) -> bytes:
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\nX\x02\x00\x00\x00u1K\x00K\x01\x87R"
        b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + data + b"tb."
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x80\x04", "ends in the middle"),
        (b"\x93NUMPY\x01\x00", "not a whole pickle"),
        (b"hello", "not a whole pickle|instruction"),
        (array_pickle(b"K\x03\x85", b"C\x02ab"), "has 3 bytes, found 2"),
        (array_pickle(b"J\xff\xff\xff\xff\x85", b"C\x02ab"), "not the shape"),
        (array_pickle(b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86", b"C\x02ab"), "not the shape"),
        (array_pickle(b"\x8a\x09" + b"\xff" * 8 + b"\x00\x85", b"C\x02ab"), "found 2"),
        (array_pickle(b"K\x02\x85", b"\x8e" + struct.pack("<Q", 2**60) + b"ab"), "the file ends after"),
        (array_pickle(b"K\x02\x85", b"X\x02\x00\x00\x00\xe2\x82"), "not a whole pickle"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "number of"),
        (b"I" + b"9" * 100000 + b"\n.", "number of"),
        (b"\x80\x02]r\xff\xff\xff\xff0j\xfe\xff\xff\xff.", "not a whole pickle"),
        (b"\x80\x02]q\x00h\x00a.", "contains itself"),
        (b"\x80\x02" + b"]" * 500 + b"a" * 499 + b".", "nested"),
        (b"\x80\x02cnumpy\ndtype\n.", "only the name of a type"),
        (b"\x80\x02.", "not a whole pickle"),
        (b"\x80\x02K\x01t.", "not a whole pickle"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "broken.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        pickles.load(path)
    assert str(error.value).startswith(str(path))


def test_shared_containers_do_not_multiply() -> None:
    nested: list[Any] = [0]
    for _ in range(30):
        nested = [nested, nested]
    found = pickles.parse(pickle.dumps(nested), "x")
    assert found[0] is found[1]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(DataError, match="no regular file"):
        pickles.load(tmp_path / "pipe.pkl")
    with pytest.raises(DataError, match="cannot be read"):
        pickles.load(tmp_path / "absent.pkl")


def load_or_refuse(content: bytes) -> None:
    try:
        pickles.parse(content, "x")
    except DataError as error:
        if not str(error).startswith("x: "):
            raise


@settings(max_examples=300, deadline=None)
@given(data=st.data(), protocol=st.sampled_from(PROTOCOLS))
def test_damaged_pickles_either_load_or_are_refused(data: st.DataObject, protocol: int) -> None:
    whole = bytearray(pickle.dumps([np.arange(6, dtype=np.uint8), {"a": (1, "b")}], protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    load_or_refuse(content)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(min_size=1, max_size=60))
def test_any_bytes_either_load_or_are_refused(content: bytes) -> None:
    load_or_refuse(content)
