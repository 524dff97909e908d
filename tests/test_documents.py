"""What the documents say is so: their commands and Python run, their links, targets and config names exist.

A ```bash block holds one plain command a line, and every one is run with small arguments appended (later options win).
A ```console block is shown only. A ```yaml or ```python block whose first line is a comment with a file name is written
to that file, for the commands after it; every other ```python block is run by itself.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opengait import cli, demo, load_config
from opengait import main as program
from opengait.evaluation import protocol
from opengait.plugins import REGISTRIES

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    path.relative_to(PROJECT_ROOT).as_posix()
    for pattern in ("README.md", "docs/**/*.md", "datasets/*/README.md")
    for path in PROJECT_ROOT.glob(pattern)
)

TINY_WALKERS = "--subjects 4 --train-subjects 2 --frames 6 8 --view 000 --view 090 --workers 1"
RECORDED_WALKS = "--frames 6 8 --view 000 --view 090 --workers 1"
TINY_RUN = " ".join(
    f"--set {override}"
    for override in (
        "trainer_cfg.total_iter=2",
        "trainer_cfg.save_iter=2",
        "trainer_cfg.log_iter=1",
        "trainer_cfg.sampler.batch_size=[2,2]",
        "trainer_cfg.sampler.frames_num_fixed=4",
        "scheduler_cfg.total_steps=2",
        "evaluator_cfg.restore_hint=2",
        "data_cfg.num_workers=0",
    )
)
# Beginning of a command -> what is appended to it here; the longest beginning that fits is taken.
SMALL_ARGUMENTS = {
    "opengait synthesize": TINY_WALKERS,
    # People of a motion file are all test subjects.
    "opengait synthesize --out data/recorded": RECORDED_WALKS,
    "opengait synthesize --out data/recorded-own": RECORDED_WALKS,
    "opengait synthesize-raw": "--subjects 2 --frames 5 5",
    "opengait prepare": "--workers 1",
    "opengait check": f"{TINY_RUN} --device cpu",
    "opengait pack": "--workers 1",
    "opengait train": f"{TINY_RUN} --device cpu",
    "opengait test": f"{TINY_RUN} --device cpu",
    "opengait bench": f"{TINY_RUN} --device cpu --iterations 1",
    "opengait checkpoint": "",
    "opengait demo": "--train-subjects 2 --test-subjects 2 --iterations 1 --device cpu",
    "torchrun --nproc_per_node=2 opengait/main.py": f"{TINY_RUN} --device cpu",
    "python my_net.py": "",
}
DEMO = "configs/gaitset/gaitset_demo.yaml"
# Where the first torchrun starts its processes, which takes many seconds; all others run as one process, in this one.
WITH_PROCESSES = ("README.md",)

ADVICE = (
    "give it small arguments in SMALL_ARGUMENTS of tests/test_documents.py, or make its block ```console if it is only "
    "to be shown"
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the document that its text starts at, from 1."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the first line names: `# walkers.yaml`."""
        named = re.match(r"# ([\w./-]+\.(?:yaml|py))\n", self.text)
        return named[1] if named else None

    def commands(self) -> Iterator[tuple[int, str]]:
        """Line and text of each command, lines that end in a backslash joined."""
        command, start = "", 0
        for number, line in enumerate(self.text.splitlines(), self.line):
            start = start if command else number
            command += line.strip().removesuffix("\\")
            if command and not command.startswith("#") and not line.endswith("\\"):
                yield start, command
            command = command if line.endswith("\\") else ""


def read(document: str) -> str:
    return (PROJECT_ROOT / document).read_text(encoding="utf-8")


def blocks_of(document: str) -> list[Block]:
    fence = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    text = read(document)
    return [Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1) for found in fence.finditer(text)]


def runnable(document: str) -> bool:
    return any(block.language in ("bash", "python") for block in blocks_of(document))


class Runner:
    """Runs the blocks of one document in the working directory, its commands in this process where that is possible."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shared: Callable[[str], Path], with_processes: bool) -> None:
        self.monkeypatch, self.shared, self.with_processes = monkeypatch, shared, with_processes
        self.started: set[str] = set()

    def run(self, block: Block, where: str) -> None:
        # Files of the documents' recipe are named by its last iteration, and those made here by theirs.
        last = f"-{load_config(DEMO).trainer_cfg.total_iter:05d}."
        block = Block(block.language, block.text.replace(last, "-00002."), block.line)
        if block.language in ("yaml", "python") and block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, where, "exec"), {"__name__": "document"})
        elif block.language == "bash":
            for line, command in block.commands():
                status = self.command(command, f"{where}:{line}")
                assert status == 0, f"{where}:{line}: `{command}` ended with status {status}"

    def command(self, command: str, where: str) -> int:
        """Exit status of one line."""
        assert not re.search(r"[|<>;`$&]", command), (
            f"{where}: `{command}` needs a shell; write one plain command a line"
        )
        words = [self.found(word) for word in shlex.split(command)]
        fitting = [start for start in SMALL_ARGUMENTS if words[: len(start.split())] == start.split()]
        assert fitting, f"{where}: `{command}` is not known: {ADVICE}"
        words += shlex.split(SMALL_ARGUMENTS[max(fitting, key=len)])
        self.started.update(words)
        start: dict[str, Callable[[list[str]], int]] = {
            "opengait": self.opengait,
            "python": self.python,
            "torchrun": self.torchrun,
        }
        assert words[0] in start, f"{where}: {words[0]} is none of {', '.join(start)}"
        return start[words[0]](words[1:])

    def found(self, word: str) -> str:
        """The path itself; one in the shared folder where that is (else the test is skipped)."""
        return str(self.shared(word.removeprefix("../shared/"))) if word.startswith("../shared/") else word

    def opengait(self, words: list[str]) -> int:
        self.monkeypatch.setattr(sys, "argv", ["opengait", *words])
        return status_of(cli.main)

    def python(self, words: list[str]) -> int:
        self.monkeypatch.setattr(sys, "argv", words)
        return status_of(lambda: runpy.run_path(words[0], run_name="__main__"))

    def torchrun(self, words: list[str]) -> int:
        if not self.with_processes:
            return status_of(lambda: program.main(words[words.index("opengait/main.py") + 1 :]))
        self.with_processes = False
        # A free port in place of torchrun's fixed one, so that tests may run side by side.
        words = ["--standalone", *(str(PROJECT_ROOT / word) if word == "opengait/main.py" else word for word in words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        sys.stderr.write(ended.stdout + ended.stderr)
        return ended.returncode


def status_of(run: Callable[[], object]) -> int:
    try:
        returned = run()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return returned if isinstance(returned, int) else 0


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if runnable(name)])
def test_what_is_shown_runs(document, tmp_path, monkeypatch, shared):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENGAIT_CACHE", str(tmp_path / "cache"))
    for registry in REGISTRIES:  # a document's own classes and protocols end with it
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(protocol, "_REGISTERED", {})
    monkeypatch.setattr(demo, "VIEWS", ("000", "090"))  # these two have no option
    monkeypatch.setattr(demo, "FRAMES", (6, 8))
    runner = Runner(monkeypatch, shared, document in WITH_PROCESSES)
    blocks = blocks_of(document)
    for block in blocks:
        runner.run(block, document)
    for block in blocks:
        if block.language == "python" and block.file:
            assert block.file in runner.started, f"{document}:{block.line}: no command runs {block.file}"


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as code forges make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_images_lead_somewhere(document):
    text = without_code(read(document))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (PROJECT_ROOT / document).parent / path if path else PROJECT_ROOT / document
        assert file.exists(), f"{document}: link to {target}"
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), f"{document}: no heading for {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_in_code_exist(document):
    text = read(document)
    targets = set(re.findall(r"^([\w-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert target in targets, f"{document}: `make {target}` is not in the Makefile: {', '.join(sorted(targets))}"
    verbs = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    verbs |= {group.name for group in cli.app.registered_groups}
    for verb in re.findall(r"(?:^|`)opengait ([a-z]\w*)", text, re.MULTILINE):
        assert verb in verbs, f"{document}: `opengait {verb}` is none of {', '.join(sorted(verbs))}"
    for name in re.findall(r"\bconfigs/[\w./-]+\.yaml\b", text):
        assert (PROJECT_ROOT / name).is_file(), f"{document}: {name}"


def test_a_command_without_small_arguments_is_refused(monkeypatch, shared):
    runner = Runner(monkeypatch, shared, with_processes=False)
    with pytest.raises(AssertionError, match="SMALL_ARGUMENTS"):
        runner.command("opengait fly --high", "README.md:1")
    with pytest.raises(AssertionError, match="one plain command a line"):
        runner.command("opengait demo | tee log", "README.md:1")
