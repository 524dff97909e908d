"""Every input that anyone changed is read or refused by one clear error that names the file: never another exception, a
hang, or more memory than the limit."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from engine_tiny import tiny_config, write_tree
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from input_process import InputProcess
from mutations import changed_bytes, changed_tree

from opengait.data.tree_packing import pack_tree
from opengait.engine.inspection import convert_checkpoint
from opengait.engine.run_folder import run_folder
from opengait.engine.trainer import Trainer

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_GROWTH = 400 << 20  # bytes of memory in use, of the process over all cases of a kind
SHORT, LONG = 16, 320  # cases of a kind; seven in ten of them at least are different, 2,000 of all kinds

Write = Callable[[st.DataObject], str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid inputs: a tree of two modalities, its packed store, a config, a checkpoint of a run on another tree."""
    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(3)
    for subject in ("001", "002", "003"):
        for view in ("000", "090"):
            folder = root / "small" / "tree" / subject / "nm-01" / view
            folder.mkdir(parents=True)
            frames = rng.integers(0, 256, (int(rng.integers(3, 6)), 6, 4), dtype=np.uint8)
            (folder / "0_sil.pkl").write_bytes(pickle.dumps(frames))
            (folder / "1_ratio.pkl").write_bytes(pickle.dumps(frames.mean((1, 2))))
    (root / "small/partition.json").write_text(
        json.dumps({"TRAIN_SET": ["001", "002"], "TEST_SET": ["003"], "PROBE_SET": ["003-nm-01-000"]})
    )
    pack_tree(root / "small/tree", root / "small/store", progress=False)
    write_tree(root / "run")
    config = tiny_config(root / "run", trainer_cfg__total_iter=3, optimizer_cfg={"solver": "Adam", "lr": 0.01})
    done = Trainer(config, run_folder(config, "trainer_cfg", root / "output"), device=torch.device("cpu")).fit()
    assert done.checkpoint is not None
    shutil.copy(done.checkpoint, root / "checkpoint.pt")
    convert_checkpoint(done.checkpoint, root / "checkpoint.safetensors")
    return root


@pytest.fixture(scope="module")
def process() -> Iterator[InputProcess]:
    started = InputProcess()
    yield started
    started.close()


def fresh(base: Path, kind: str) -> Path:
    folder = base / "run" / "case" if kind in ("checkpoint", "safetensors") else base / f"case-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


class Writers:
    """Each method writes one changed input into a folder and says which names an error may give it by."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def pickle(self, data: st.DataObject, folder: Path) -> str:
        rng = np.random.default_rng(0)
        values: list[Any] = [
            rng.integers(0, 256, (3, 4, 4), dtype=np.uint8),
            np.asfortranarray(rng.random((3, 2))),
            [rng.random((count, 3)) for count in (2, 4, 1)],
            [[0, 1, 2], [3, 4, 5]],
            {"a": np.zeros(2), "b": (1, "x", None)},
        ]
        value = data.draw(st.sampled_from(values))
        if data.draw(st.integers(0, 2)) == 0:
            value = data.draw(changed_tree([value, 1]))
        content = pickle.dumps(value, data.draw(st.integers(0, 5)))
        (folder / "case.pkl").write_bytes(data.draw(changed_bytes(content)))
        return "case.pkl"

    def partition(self, data: st.DataObject, folder: Path) -> str:
        (folder / "tree").symlink_to(self.base / "small/tree")
        content = (self.base / "small/partition.json").read_bytes()
        if data.draw(st.booleans()):
            content = json.dumps(data.draw(changed_tree(json.loads(content)))).encode()
        else:
            content = data.draw(changed_bytes(content))
        (folder / "partition.json").write_bytes(content)
        return f"{folder}|partition.json"

    def packed(self, data: st.DataObject, folder: Path) -> str:
        shutil.copytree(self.base / "small/store", folder / "store")
        shutil.copy(self.base / "small/partition.json", folder)
        names = sorted(path.name for path in (folder / "store").iterdir())
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
            path = folder / "store" / name
            how = data.draw(st.sampled_from(["bytes", "values", "values", "absent", "longer"]))
            if how == "absent":
                path.unlink()
            elif how == "longer":
                os.truncate(path, data.draw(st.integers(0, 2 * path.stat().st_size)))
            elif how == "values" and name == "index.json":
                path.write_text(json.dumps(data.draw(changed_tree(json.loads(path.read_bytes())))))
            elif how == "values" and name == "sequences.npz":
                self._columns(data, path)
            else:
                path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
        return str(folder)

    def _columns(self, data: st.DataObject, path: Path) -> None:
        with np.load(path) as found:
            columns: dict[str, Any] = {name: found[name].tolist() for name in found.files}
            kinds = {name: found[name].dtype for name in found.files}
        columns = data.draw(changed_tree(columns))
        arrays = {}
        for name, values in columns.items():
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                arrays[name.replace("/", "_").replace("\0", "_") or "_"] = np.asarray(values, dtype=kinds.get(name))
        with contextlib.suppress(ValueError, TypeError, UnicodeEncodeError, pickle.PicklingError):
            np.savez(path, **{name.encode("ascii", "replace").decode(): one for name, one in arrays.items()})

    def config(self, data: st.DataObject, folder: Path) -> str:
        shipped = sorted((ROOT / "configs").rglob("*_casiab.yaml"))[:4]
        source = data.draw(st.sampled_from([*shipped, None]))
        if source is None:
            tree = tiny_config(self.base / "run").to_dict()
            for leftover in (self.base / "run").glob("config-*.yaml"):
                leftover.unlink()
        else:
            tree = yaml.safe_load(source.read_text())
        if data.draw(st.booleans()):
            try:
                text = yaml.safe_dump(data.draw(changed_tree(tree)), allow_unicode=True)
                content = text.encode("utf-8", "surrogatepass")
            except (yaml.YAMLError, RecursionError):
                content = b"a: [b"
        else:
            content = data.draw(changed_bytes(yaml.safe_dump(tree).encode()))
        (folder / "case.yaml").write_bytes(content)
        return "case.yaml"

    def protocol(self, data: st.DataObject, folder: Path) -> str:
        source = data.draw(st.sampled_from(sorted((ROOT / "opengait/evaluation/protocols").glob("*.yaml"))))
        content = source.read_bytes()
        if data.draw(st.booleans()):
            with contextlib.suppress(yaml.YAMLError, RecursionError):
                content = yaml.safe_dump(data.draw(changed_tree(yaml.safe_load(content)))).encode()
        else:
            content = data.draw(changed_bytes(content))
        (folder / "case.yaml").write_bytes(content)
        return "case.yaml"

    def checkpoint(self, data: st.DataObject, folder: Path) -> str:
        path = folder / "checkpoints" / "tiny-00003.pt"
        path.parent.mkdir()
        whole = (self.base / "checkpoint.pt").read_bytes()
        how = data.draw(st.sampled_from(["bytes", "pickle", "values", "values", "old"]))
        if how == "bytes":
            content = data.draw(changed_bytes(whole))
        elif how == "pickle":
            content = _rezipped(whole, lambda program: data.draw(changed_bytes(program)))
        else:
            state = torch.load(io.BytesIO(whole), weights_only=True)
            buffer = io.BytesIO()
            changed = data.draw(changed_tree(state)) if how == "values" else state
            torch.save(changed, buffer, _use_new_zipfile_serialization=how == "values")
            content = buffer.getvalue()
            content = data.draw(changed_bytes(content)) if how == "old" else content
        path.write_bytes(content)
        return "tiny-00003.pt|case.safetensors"

    def safetensors(self, data: st.DataObject, folder: Path) -> str:
        whole = (self.base / "checkpoint.safetensors").read_bytes()
        size = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + size])
        if data.draw(st.booleans()):
            metadata = header["__metadata__"]
            if data.draw(st.booleans()):
                metadata["opengait"] = json.dumps(data.draw(changed_tree(json.loads(metadata["opengait"]))))
            else:
                header = data.draw(changed_tree(header))
            text = json.dumps(header).encode()
            whole = len(text).to_bytes(8, "little") + text + whole[8 + size :]
        else:
            whole = data.draw(changed_bytes(whole))
        (folder / "case.safetensors").write_bytes(whole)
        return "case.safetensors"

    def npz(self, data: st.DataObject, folder: Path) -> str:
        buffer = io.BytesIO()
        person = {"smpl": np.zeros(85, np.float32), "box": [1.0, 2.0], "name": "x"}
        np.savez(buffer, plain=np.arange(6).reshape(2, 3), results=np.array([person, person], dtype=object))
        content = buffer.getvalue()
        if data.draw(st.booleans()):
            members = _members(content)
            name = data.draw(st.sampled_from(sorted(members)))
            content = _zipped({**members, name: data.draw(changed_bytes(members[name]))})
        else:
            content = data.draw(changed_bytes(content))
        (folder / "case.npz").write_bytes(content)
        return "case.npz"

    def archive(self, data: st.DataObject, folder: Path) -> str:
        frames = {f"001/nm-01/000/{number:03d}.png": bytes(range(40)) for number in range(3)}
        form = data.draw(st.sampled_from(["zip", "tar", "tar.gz"]))
        if form == "zip":
            content = _zipped(frames)
        else:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz" if form.endswith("gz") else "w") as file:
                for name, frame in frames.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(frame)
                    file.addfile(info, io.BytesIO(frame))
            content = buffer.getvalue()
        (folder / f"case.{form}").write_bytes(data.draw(changed_bytes(content)))
        return f"case.{form}"


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _rezipped(whole: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An archive of torch with another program in it, and sums that agree with it."""
    members = _members(whole)
    return _zipped({name: change(part) if name.endswith("data.pkl") else part for name, part in members.items()})


KINDS = ["pickle", "partition", "packed", "config", "protocol", "checkpoint", "safetensors", "npz", "archive"]


def judge(answer: dict[str, Any], names: str) -> None:
    """A case that was not read was refused by a ValueError that names the file."""
    if answer["type"]:
        said = f"{answer['type']}: {answer['message']}\n{answer.get('where', '')}"
        assert answer.get("mistake"), said
        assert any(name in answer["message"] for name in names.split("|")), said
        assert len(answer["message"]) < 20_000, said


def attempt_cases(kind: str, number: int, base: Path, process: InputProcess, *, derandomize: bool) -> None:
    writers = Writers(base)

    @settings(
        max_examples=number,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        folder = fresh(base, kind)
        names = getattr(writers, kind)(data, folder)
        judge(process.attempt(kind, folder), names)

    one()


def try_cases(kind: str, number: int, base: Path, process: InputProcess, *, anew: bool = False) -> None:
    """`anew`: other cases in every run."""
    cases, refused = process.cases, process.refused
    process.first_peak, process.slowest = 0, 0.0
    attempt_cases(kind, number, base, process, derandomize=not anew)
    log.info(
        "%s: %d cases, %d of them refused, the slowest took %.1f s, %d MiB more than at the first",
        kind,
        process.cases - cases,
        process.refused - refused,
        process.slowest,
        (process.last_peak - process.first_peak) >> 20,
    )
    assert process.cases - cases >= number * 0.7  # few kinds of change are so alike that they are not tried again
    assert process.refused - refused >= number * 0.2  # or nothing was changed
    assert process.last_peak - process.first_peak < MOST_GROWTH


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_nobody_changed_are_read(
    kind: str, base: Path, process: InputProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the others would be refused for a reason of the tests' own."""
    for name in ("changed_bytes", "changed_tree"):
        monkeypatch.setitem(globals(), name, st.just)
    cases, refused = process.cases, process.refused
    attempt_cases(kind, 6, base, process, derandomize=True)
    mixed = kind in ("pickle", "packed")  # values that are no frames, files that are absent
    assert process.refused - refused < (process.cases - cases if mixed else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_inputs_are_read_or_refused_by_name(kind: str, base: Path, process: InputProcess) -> None:
    try_cases(kind, SHORT, base, process)


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_many_changed_inputs_are_read_or_refused_by_name(kind: str, base: Path, process: InputProcess) -> None:
    try_cases(kind, LONG, base, process, anew=True)
