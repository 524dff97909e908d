"""Puts the shipped configs and partition files, which live at the project's root, inside the wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ("configs", "datasets")


class BuildWithShippedFiles(build_py):
    """Copies `configs/` and `datasets/` to `opengait/shipped/`, where `opengait.config.shipped` looks second."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in SHIPPED:
            target = Path(self.build_lib) / "opengait" / "shipped" / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target)


setup(cmdclass={"build_py": BuildWithShippedFiles})
