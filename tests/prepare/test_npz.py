"""npz files are read without running anything, those that hold objects too."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest

from opengait.data.errors import DataError, UnsafePickleError
from opengait.prepare.npz import LARGEST_ARRAY, read_npz


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def objects(*items: Any) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def with_member(content: bytes, name: str = "a.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


class Runs:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _run, ()


def _run() -> None:
    Runs.ran = True


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.float32(3), np.zeros((0, 4)), np.array([True])],
)
def test_arrays_of_numbers_come_back(array):
    found = read_npz(npz(a=array), "x.npz")["a"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.asarray(array).dtype


@pytest.mark.parametrize("compressed", [False, True])
def test_objects_come_back_as_a_list(compressed):
    person = {"cam": np.arange(3, dtype=np.float32), "name": "one", "boxes": [np.eye(2), (1, 2.5, None)]}
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, results=objects(person, {"cam": np.ones(3)}))
    one, two = read_npz(buffer.getvalue(), "x.npz")["results"]
    np.testing.assert_array_equal(one["cam"], [0, 1, 2])
    np.testing.assert_array_equal(one["boxes"][0], np.eye(2))
    assert (one["name"], one["boxes"][1]) == ("one", (1, 2.5, None))
    np.testing.assert_array_equal(two["cam"], np.ones(3))


def test_an_object_without_axes_and_objects_within_objects_come_back():
    nothing = np.array(None, dtype=object)
    nothing[()] = {"people": objects({"cam": 1}, {"cam": 2})}
    assert read_npz(npz(a=nothing), "x.npz")["a"] == [{"people": [{"cam": 1}, {"cam": 2}]}]


def test_nothing_that_a_file_names_is_run():
    with pytest.raises(UnsafePickleError, match="_run"):
        read_npz(npz(a=objects({"cam": Runs()})), "x.npz")
    assert not Runs.ran
    # NumPy's own way does run it, so the refusal was ours.
    np.load(io.BytesIO(npz(a=objects(Runs()))), allow_pickle=True)["a"]
    assert Runs.ran
    Runs.ran = False


def test_what_is_no_whole_file_is_refused_by_name():
    whole = npz(a=np.arange(100), b=objects({"cam": 1}))
    for content in (b"", b"abc", whole[:-30], whole[: len(whole) // 2], pickle.dumps({"a": 1})):
        with pytest.raises(DataError, match=r"x\.npz"):
            read_npz(content, "x.npz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (with_member(b"no array"), "not an npy file"),
        (with_member(npz(a=np.arange(3))[:40]), "not an npy file"),
        (npz(a=np.array(["text"])), "array of numbers"),
        (npz(a=np.zeros(2, dtype=[("x", "f4")])), "array of numbers"),
    ],
)
def test_what_holds_no_numbers_is_refused(content, words):
    with pytest.raises(DataError, match=words):
        read_npz(content, "x.npz")


def test_a_header_that_promises_more_than_the_file_holds_allocates_nothing():
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with pytest.raises(DataError, match="cannot have 8 bytes"):
        read_npz(with_member(buffer.getvalue() + bytes(8)), "x.npz")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(LARGEST_ARRAY + 1))
    with pytest.raises(DataError, match="at most"):
        read_npz(bomb.getvalue(), "x.npz")
