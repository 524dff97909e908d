"""Files that carry code: data pickles, arrays of objects and checkpoints, in the forms attacks are known to take. Each
would make a marker file if any of it were run; each is refused by one line that names the file and what it asks for."""

from __future__ import annotations

import collections
import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opengait.data import pickles
from opengait.data.errors import DataError, UnsafePickleError
from opengait.engine.checkpoint import CheckpointError, load_checkpoint
from opengait.prepare.npz import read_npz

MARKER = b"MARKER"  # stands for the path of the marker in the forms below; of the length of the path that replaces it


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Sets:
    """Pickles as an object that is given a state."""

    def __init__(self, target: Any, state: Any) -> None:
        self.target, self.state = target, state

    def __reduce__(self) -> Any:
        return self.target.__class__, (), self.state


class Builds:
    """Pickles as an object with a `__setstate__` of its own, by NEWOBJ_EX."""

    marker = ""

    def __getnewargs_ex__(self) -> Any:
        return (), {}

    def __new__(cls, **named: Any) -> Builds:
        return super().__new__(cls)

    def __getstate__(self) -> Any:
        return {"path": self.marker}

    def __setstate__(self, state: Any) -> None:
        Path(state["path"]).touch()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def attacks(marker: Path) -> dict[str, tuple[bytes, str]]:
    """Form -> pickle, and what its refusal has to name."""
    touch, python = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    path, array = str(marker), np.zeros(3)
    Builds.marker = path
    by_hand = {
        # Names in parts: Python's own reader follows the dots from protocol 4 on.
        "dotted name": (b"\x80\x04" + short("os") + short("path.os.system") + b"\x93" + short(touch) + b"\x85R.",
                        "os.path.os.system"),
        "dotted numpy name": (b"\x80\x04" + short("numpy") + short("load.__globals__") + b"\x93.", "numpy.load"),
        # The harmful name is put in the memo, and called from there after harmless work.
        "from the memo": (b"\x80\x02cos\nsystem\nq\x00K\x01K\x02\x86q\x01h\x00" + text(touch) + b"\x85R.", "os.system"),
        "memo put over": (b"\x80\x02cnumpy\ndtype\nq\x00cos\nsystem\nq\x00h\x00" + text(touch) + b"\x85R.",
                          "os.system"),
        "memo of a far number": (b"\x80\x02cos\nsystem\nr\xff\xff\xff\x7fj\xff\xff\xff\x7f" + text(touch) + b"\x85R.",
                                 "os.system"),
        "name from pieces in the memo": (b"\x80\x04" + short("os") + b"\x94" + short("system") + b"\x94h\x00h\x01\x93"
                                         + short(touch) + b"\x85R.", "os.system"),
        # Instructions other than REDUCE that call something.
        "INST": (b"(" + text(touch) + b"ios\nsystem\n.", "os.system"),
        "OBJ": (b"(cos\nsystem\n" + text(touch) + b"o.", "os.system"),
        "NEWOBJ": (b"\x80\x02csubprocess\nPopen\n(" + text(touch) + b"l\x85\x81.", "subprocess.Popen"),
        "NEWOBJ_EX": (pickle.dumps(Builds(), 4), "Builds"),
        "EXT1": (b"\x80\x02\x82\x01)R.", "EXT1"),
        "EXT2": (b"\x80\x02\x83\x01\x00)R.", "EXT2"),
        "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00)R.", "EXT4"),
        "PERSID": (b"Pos.system\n.", "PERSID"),
        "BINPERSID": (b"\x80\x02" + text("os.system") + b"Q.", "PERSID"),
        "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        # Where only the end of the file is harmless, or the harm comes after it.
        "thrown away": (b"\x80\x02cos\nsystem\n" + text(touch) + b"\x85R0K\x01.", "os.system"),
        "behind a mark": (b"\x80\x02(cos\nsystem\n" + text(touch) + b"\x85R1K\x01.", "os.system"),
        # A state: set where `__setstate__` or attributes would act.
        "state on a function": (b"\x80\x02cos\nsystem\n}" + text("x") + text(touch) + b"sb.", "os.system"),
        "state of an array": (b"\x80\x02cnumpy\nndarray\n}" + text("__class__") + text(touch) + b"sb.", "state"),
        "another encoding": (b"\x80\x02c_codecs\nencode\n" + text(touch) + text("rot13") + b"\x86R.", "encode"),
    }  # fmt: skip
    made: dict[str, tuple[Any, str]] = {
        **{f"os.system {p}": ((Calls(os.system, touch), p), "system") for p in range(6)},  # type: ignore[dict-item]
        "os.popen": (Calls(os.popen, touch), "os.popen"),
        "eval": (Calls(eval, python), "eval"),
        "exec": (Calls(exec, python), "exec"),
        "compile": (Calls(compile, python, "x", "exec"), "compile"),
        "getattr": (Calls(getattr, array, "tofile"), "getattr"),
        "import": (Calls(__import__, "os"), "__import__"),
        "open": (Calls(open, path, "w"), "open"),
        "subprocess": (Calls(subprocess.check_output, ["touch", path]), "subprocess.check_output"),
        "partial": (Calls(functools.partial, os.system, touch), "partial"),
        "map": (Calls(map, os.system, [touch]), "map"),
        "apply": (Calls(operator.call, os.system, touch) if hasattr(operator, "call") else
                  Calls(operator.methodcaller("touch"), marker), "operator"),
        "numpy.load": (Calls(np.load, path, None, True), "numpy.load"),
        "numpy.save": (Calls(np.save, path, array), "numpy.save"),
        "numpy.fromfile": (Calls(np.fromfile, path), "fromfile"),
        "numpy.memmap": (Calls(np.memmap, path, "uint8", "w+", 0, (4,)), "memmap"),
        "numpy.vectorize": (Calls(np.vectorize, os.system), "vectorize"),
        "nested": ([array, {"x": (Calls(os.system, touch),)}], "system"),
        "nested in arguments": (Calls(np.dtype, Calls(os.system, touch)), "system"),
        "nested in a state": (Sets(collections.UserDict(), {"data": Calls(os.system, touch)}), "UserDict"),
        "array of objects": (np.array([Calls(os.system, touch)], dtype=object), "system"),
        "torch loader": (Calls(torch.load, path), "torch"),
        "torch storage": (torch.zeros(2).untyped_storage(), "torch"),
        "torch tensor": (torch.zeros(2), "torch._utils._rebuild_tensor_v2"),
    }  # fmt: skip
    written = {}
    for form, (value, named) in made.items():
        value, protocol = value if isinstance(value, tuple) else (value, 4)
        written[form] = pickle.dumps(value, protocol), named
    return {**by_hand, **written}


def refused(read: Callable[[], Any], path: Path, named: str, form: str, marker: Path, error: type[Exception]) -> None:
    with pytest.raises(error) as found:
        read()
    said = str(found.value)
    assert said.startswith(str(path)), f"{form}: {said}"
    assert named in said, f"{form}: {said}"
    assert "\n" not in said, f"{form}: {said}"
    assert not marker.exists(), form


def test_data_pickles_that_carry_code_are_refused_by_name(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "data.pkl"
    forms = attacks(marker)
    assert len(forms) > 40
    for form, (content, named) in forms.items():
        path.write_bytes(content)
        error: type[Exception] = UnsafePickleError
        if form == "array of objects":  # the dtype comes before what it holds
            error, named = DataError, "dtype 'O8'"
        refused(lambda: pickles.load(path), path, named, form, marker, error)


def test_the_forms_would_act_if_they_were_run(tmp_path: Path) -> None:
    """Otherwise their refusal would say nothing."""
    marker = tmp_path / "marker"
    for form in (
        "os.system 2",
        "from the memo",
        "INST",
        "OBJ",
        "NEWOBJ_EX",
        "thrown away",
        "nested in arguments",
        "eval",
    ):
        content, _ = attacks(marker)[form]
        try:
            pickle.loads(content)
        except TypeError:  # after the harm: what a call gives is no argument of the next
            assert form == "nested in arguments"
        assert marker.exists(), form
        marker.unlink()


def test_arrays_of_objects_that_carry_code_are_refused_by_name(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "smpl.npz"
    for form, (content, named) in attacks(marker).items():
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("results.npy", buffer.getvalue() + content)
        if form in ("array of objects", "state of an array"):  # objects are what these arrays hold, and looked into
            named = ""
        refused(lambda: read_npz(path.read_bytes(), str(path)), path, named, form, marker, DataError)


def zipped(path: Path, program: bytes, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/data.pkl", program)
        archive.writestr("run/version", b"3\n")
        for name, content in members.items():
            archive.writestr(f"run/data/{name.removeprefix('_')}", content)


def old_form(program: bytes) -> bytes:
    """As torch wrote files before it used archives: magic number, protocol, system, contents, keys of storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    first = [0x1950A86A20F9469CFC6C, 1001, system]
    return b"".join(pickle.dumps(one, 2) for one in first) + program + pickle.dumps([], 2)


@pytest.mark.parametrize("form", ["archive", "old"])
def test_checkpoints_that_carry_code_are_refused_by_name(tmp_path: Path, form: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "run-00001.pt"
    for name, (content, named) in attacks(marker).items():
        if name == "torch tensor":
            continue
        if form == "archive":
            zipped(path, content)
        else:
            path.write_bytes(old_form(content))
        if name in ("memo put over", "nested", "nested in arguments", "array of objects", "state of an array"):
            named = "numpy"  # what it asks for first
        elif name == "BINPERSID":  # the one form that tensors take, too
            named = "no place of a tensor"
        refused(lambda: load_checkpoint(path), path, named, f"{form}, {name}", marker, CheckpointError)


def tensor(
    size: bytes, *, kind: bytes = b"FloatStorage", elements: bytes = b"K\x02", offset: bytes = b"K\x00"
) -> bytes:
    """The pickle of {'model': {'w': a tensor}}, its place in the storage '0' as given."""
    place = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + elements + b"tQ"
    made = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + place
        + offset
        + size
        + b"K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}" + text("model") + b"}" + text("w") + made + b"ss."


def model_of(value: bytes) -> bytes:
    return b"\x80\x02}" + text("model") + b"}" + text("w") + value + b"ss."


FAR = b"\x8a\x08" + struct.pack("<q", 1 << 40)
LESS = b"J\xff\xff\xff\xff"
FALSE_TENSORS = {
    "more elements than stored": (tensor(FAR + b"\x85", elements=FAR), "claims"),
    "larger than its storage": (tensor(FAR + b"\x85"), "in a storage of 2 elements"),
    "negative size": (tensor(LESS + b"\x85"), "shape"),
    "negative elements": (tensor(b"K\x02\x85", elements=LESS), "-1 elements"),
    "negative offset": (tensor(b"K\x02\x85", offset=LESS), "a tensor at -1"),
    "offset behind the end": (tensor(b"K\x02\x85", offset=FAR), "damaged"),
    "storage of another kind": (tensor(b"K\x02\x85", kind=b"dtype"), "torch.dtype"),
    "storage that is not there": (tensor(b"K\x02\x85").replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x001"), "claims"),
    "constructor with a size": (model_of(b"ctorch\nTensor\n" + FAR + b"\x85R"), "torch.Tensor"),
    "storage by its constructor": (model_of(b"ctorch\nFloatStorage\n" + FAR + b"\x85R"), "FloatStorage"),
    "bytes by number": (model_of(b"cbuiltins\nbytearray\n" + FAR + b"\x85R"), "bytearray"),
    "tensor of no memory": (model_of(b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R"), "_rebuild_meta"),
    "tensor of another class": (model_of(b"ctorch._tensor\n_rebuild_from_type_v2\n)R"), "_rebuild_from_type_v2"),
    "hooks of a tensor": (model_of(b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\nK\x00K\x00K\x00tR"), "os.system"),
    "a name, no storage": (model_of(b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch\nSize\nK\x00))tR"), "no storage"),
    "a state for a class": (model_of(b"ctorch._utils\n_rebuild_tensor_v2\n}" + text("x") + text("y") + b"sb"), "state"),
    "contains itself": (b"\x80\x02}q\x00" + text("model") + b"h\x00s.", "contains itself"),
    "nested without end": (b"\x80\x02}" + text("model") + b"]" * 3000 + b"a" * 2999 + b"s.", "nested"),
    "multiplied by references": (b"\x80\x02]q\x00K\x01a" + b"".join(
        b"]q" + bytes([n]) + b"(h" + bytes([n - 1]) + b"h" + bytes([n - 1]) + b"e" for n in range(1, 40)) + b".",
        "values"),
}  # fmt: skip


@pytest.mark.parametrize("form", FALSE_TENSORS)
def test_tensors_that_claim_what_the_file_has_not_are_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / "run-00001.pt"
    content, said = FALSE_TENSORS[form]
    zipped(path, content, _0=bytes(8))
    refused(lambda: load_checkpoint(path), path, said, form, tmp_path / "marker", CheckpointError)


def test_a_tensor_made_by_hand_loads(tmp_path: Path) -> None:
    """Otherwise the forms above would be refused for what they have in common."""
    path = tmp_path / "run-00001.pt"
    zipped(path, tensor(b"K\x02\x85"), _0=struct.pack("<2f", 1.5, -2))
    assert load_checkpoint(path)["model"]["w"].tolist() == [1.5, -2]


def test_archives_that_grow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run-00001.pt"
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(1 << 16)}}, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    refused(lambda: load_checkpoint(path), path, "compressed", "compressed", tmp_path / "marker", CheckpointError)
    content = bytearray(buffer.getvalue())
    # A second entry of the table of contents for the same bytes, under another name.
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/data.pkl", pickle.dumps({"model": {}}, 2))
        archive.writestr("run/data/0", bytes(1 << 16))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    end = content.index(b"PK\x05\x06")
    again = bytes(content[start:end]).replace(b"run/data/0", b"run/data/1")
    entries, size = struct.unpack_from("<H", content, end + 10)[0] + 1, end - content.index(b"PK\x01\x02") + len(again)
    content[end:end] = again
    struct.pack_into("<HHI", content, end + len(again) + 8, entries, entries, size)
    path.write_bytes(content)
    refused(
        lambda: load_checkpoint(path), path, "claim more bytes", "overlapping", tmp_path / "marker", CheckpointError
    )


@pytest.mark.parametrize("old", [False, True])
def test_what_torch_writes_of_a_run_loads(tmp_path: Path, old: bool) -> None:
    """Every kind of entry that checkpoints of this framework and of others hold, in both forms of torch's files."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    dtypes = [torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]
    dtypes += [torch.float64, torch.complex64]
    halves = {f"of {dtype}": torch.ones(3, 2, dtype=dtype)[:, 1] for dtype in dtypes}
    state = {
        "model": collections.OrderedDict(**net.state_dict(), **halves, empty=torch.zeros(0, 4)),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "shared": [halves["of torch.int8"], torch.zeros(2).expand(3, 2)],
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "iteration": 3,
        "size": torch.Size([1, 2]),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "text": {"é", "x" * 300},
        "bytes": bytearray(b"abc"),
    }
    path = tmp_path / "run-3.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    found = load_checkpoint(path)
    assert found.keys() == state.keys()
    for key, value in state["model"].items():  # type: ignore[attr-defined]
        assert torch.equal(found["model"][key], value)
    assert found["scheduler"] == state["scheduler"]
    assert found["text"] == state["text"]
    assert found["size"] == (1, 2)
