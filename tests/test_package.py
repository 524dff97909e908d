"""A wheel carries all that a run needs: configs, partition files, protocols; it works where there is nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("opengait", "configs", "datasets", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")

# What a user does first, without torch: a config, its base, a partition file, a protocol.
USE = """
import sys
from pathlib import Path

import opengait
assert "torch" not in sys.modules, "import opengait imports torch"
assert Path(opengait.__file__).is_relative_to(sys.argv[1]), opengait.__file__

from opengait import load_config
from opengait.data.partition import find_partition, read_partition
from opengait.evaluation import eval_funcs

config = load_config("configs/gaitset/gaitset.yaml")
assert config.trainer_cfg.save_name == "GaitSet"
Path("mine.yaml").write_text("_base_: configs/gaitset/gaitset.yaml\\ntrainer_cfg: {save_name: mine}\\n")
assert load_config("mine.yaml").model_cfg == config.model_cfg
assert find_partition(config.data_cfg.dataset_partition).is_relative_to(sys.argv[1])
assert len(read_partition(config.data_cfg.dataset_partition).test) == 50
assert "evaluate_indoor_dataset" in eval_funcs()
"""

# Every network, named and built from the first shipped config that has it, where three packages cannot be imported.
NETWORKS = """
import re
import sys

HEAVY = ("kornia", "torchvision", "cv2")
sys.modules.update(dict.fromkeys(HEAVY))  # None: importing one is an error

import torch

from opengait import build_model, load_config
from opengait.config import shipped
from opengait.registry import BACKBONES, LOSSES, MODELS, SAMPLERS, TRANSFORMS

for registry in (MODELS, BACKBONES, LOSSES, SAMPLERS, TRANSFORMS):
    for name in registry.names():
        registry.get(name)
        assert all(sys.modules[heavy] is None for heavy in HEAVY), name

built = {}
for path in sorted(shipped.find("configs").rglob("*.yaml")):
    named = re.search(r"^ +model: (\\w+)", path.read_text(), re.MULTILINE)
    if named and named[1] not in built and path.name != "default.yaml":
        model_cfg = load_config(path).model_cfg
        with torch.device("cpu" if named[1] == "GaitEdge" else "meta"):  # numbers only for the one that is run
            built[named[1]] = build_model(model_cfg)
assert sorted(built) == MODELS.names(), sorted(set(MODELS.names()) - set(built))

# The one that uses one of them: the crop of the silhouette is torchvision's.
edge = built["GaitEdge"]
frames = torch.rand(1, 3, 128, 128).round()
inputs = [torch.full((1, 3), 0.4), torch.rand(1, 3, 3, 128, 128), frames], None, None, None, None
try:
    edge(inputs)
    raise SystemExit("GaitEdge ran without torchvision")
except ModuleNotFoundError:
    del sys.modules["torchvision"]
assert edge(inputs)["inference_feat"]["embeddings"].shape[0] == 1
assert sys.modules["kornia"] is sys.modules["cv2"] is None
"""


@pytest.mark.slow
def test_networks_import_kornia_torchvision_and_opencv_only_where_they_use_them():
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", NETWORKS]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing left over from an earlier build, and nothing built here, gets mixed up."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        origin = PROJECT_ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(unpacked: Path, cwd: Path, *arguments: str) -> str:
    """What an interpreter prints that finds the project in the unpacked wheel alone."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_wheel_holds_every_shipped_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "datasets"):
        shipped = {path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / folder).rglob("*.*")}
        assert shipped
        assert {f"opengait/shipped/{name}" for name in shipped} <= names
    protocols = {path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / "opengait").rglob("*.yaml")}
    assert "opengait/evaluation/protocols/casia_b.yaml" in protocols
    assert protocols <= names
    assert "opengait/py.typed" in names
    modules = {path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / "opengait").rglob("*.py")}
    assert modules <= names


def test_wheel_holds_nothing_else(wheel):
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"opengait"}


def test_wheel_works_in_an_empty_folder(unpacked, tmp_path):
    python(unpacked, tmp_path, "-c", USE, str(unpacked))


def test_command_line_of_the_wheel_shows_its_help_without_torch(unpacked, tmp_path):
    as_module = "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['opengait', '--help']; "
    as_module += "runpy.run_module('opengait.cli', run_name='__main__')"
    said = python(unpacked, tmp_path, "-c", as_module)
    for verb in ("train", "test", "check", "synthesize", "demo"):
        assert verb in said
