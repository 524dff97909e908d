"""The wheels to take along: what the project asks for and all it needs, without what torch brings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheels", PROJECT_ROOT / "benchmarks" / "wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(**projects: list[str]) -> Callable[[str], list[str] | None]:
    return {canonicalize_name(name): needed for name, needed in projects.items()}.get


def test_torch_and_what_it_brings_are_left_out_also_where_others_need_it(wheels: ModuleType) -> None:
    requires = environment(
        opengait=["torch>=2", "torchvision", "Plot_Ting>=3", "shell[fast]", "ruff; extra == 'dev'",
                  "old; python_version<'3'"],
        torch=["shared", "typing.x"], torchvision=["numbers"], shared=["below-shared"], below_shared=[], numbers=[],
        typing_x=[], plot_ting=["numbers", "torch", "pens"], pens=["shared", "plot-ting"],
        shell=["quick; extra == 'fast'", "slow; extra == 'slow'"], quick=[], slow=[], old=[], ruff=[],
        pytest=["plugins", "win; sys_platform == 'nowhere'"], plugins=[], win=[],
    )  # fmt: skip
    assert wheels.lacking(requires) == ["pens", "plot-ting", "plugins", "pytest", "quick", "shell"]


def test_a_requirement_that_is_not_installed_is_named(wheels: ModuleType) -> None:
    with pytest.raises(ValueError, match="not installed here: pens, pytest; `make install`"):
        wheels.lacking(environment(opengait=["torch", "pens"], torch=[]))
    with pytest.raises(ValueError, match="opengait is not installed"):
        wheels.lacking(environment())


def test_the_list_is_that_of_pyproject(wheels: ModuleType) -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    asked = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    found = set(wheels.lacking())
    left_out = wheels.closure([("torch", ""), ("torchvision", "")], wheels.installed)
    assert asked - left_out <= found
    assert {"pydantic", "pydantic-core", "kornia", "pytest"} <= found
    assert not found & {"torch", "torchvision", "numpy", "ruff", "mypy"}


def test_make_knows_both_targets() -> None:
    shown = subprocess.run(
        ["make", "-n", f"PYTHON={sys.executable}", "gpu-check", "wheels"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "benchmarks/wheels.py --out wheels" in shown
    assert f"{sys.executable} benchmarks/gpu_check.py" in shown
    assert "-m gpu" in shown
    assert "/wheels/" in (PROJECT_ROOT / ".gitignore").read_text().splitlines()
