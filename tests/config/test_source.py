"""Reading YAML: the same values as a safe loader, with lines, and nothing dangerous."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from opengait.config.problems import Report
from opengait.config.source import MAX_DEPTH, PlainDumper, parse

# Text without line breaks of foreign scripts, which a YAML dumper folds.
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


def read(text: str | bytes) -> tuple[object, list[str]]:
    report = Report()
    node = parse(text, "file.yaml", 1, report)
    return (None if node is None else node.plain()), [str(problem) for problem in report.problems]


@given(TREES)
@example({"-.0": "1e5", "on": "-.5e3"})  # text that one reader takes for a number and another does not
def test_what_is_written_is_read_back(tree):
    assert read(yaml.dump(tree, Dumper=PlainDumper)) == (tree, [])


@given(TREES)
def test_other_readers_read_the_same(tree):
    assert yaml.safe_load(yaml.dump(tree, Dumper=PlainDumper)) == tree


@pytest.mark.parametrize(
    "text",
    [
        "a: {b: [1, 2.5, -3, 0x10, 0b11, 010], c: ~, d: no, e: 'no'}",
        "a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}\nc: *x",
        "a: &x {k: 1}\ny: &y {k: 5, m: 2}\nb: {<<: [*x, *y], n: 3}",
        "a: |\n  two\n  lines\nb: >\n  folded\n  text\nc: 1_000\nd: 1.5e+3\ne: .5",
        "",
        "# only a comment",
    ],
)
def test_agrees_with_the_safe_loader(text):
    assert read(text) == (yaml.safe_load(text), [])


def test_exponents_without_a_point_are_numbers_and_dates_are_text():
    assert read("{lr: 1e-4, eps: 1E5, day: 2024-05-01, time: 12:30}") == (
        {"lr": 1e-4, "eps": 1e5, "day": "2024-05-01", "time": "12:30"},
        [],
    )


def test_every_value_knows_the_line_of_its_key():
    node = parse("a:\n  b: 1\n\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n", "f.yaml", 1, Report())
    lines = {key: found.line for key, found in node.walk()}
    assert lines == {"": 1, "a": 1, "a.b": 2, "a.c": 4, "a.c.0": 5, "a.c.1": 6, "a.c.1.d": 6, "a.c.1.e": 7}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "key 'a' is given twice, first in line 1"),
        ("a:\n\tb: 1", 2, "not valid YAML"),
        ("a: [1, 2\nb: 3", 2, "not valid YAML"),
        ("a: 1\n b: 2", 2, "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", 1, "tag '!!python/object/apply:os.system' is not allowed"),
        ("a: !env HOME", 1, "tag '!env' is not allowed"),
        ("a: !!binary aGk=", 1, "tag '!!binary' is not allowed"),
        ("a: !!set {b}", 1, "tag '!!set' is not allowed"),
        ("a: !!int twelve", 1, "cannot read 'twelve' as int"),
        ("a: " + "9" * 5000, 1, "cannot read"),
        ("a: *b", 1, "alias '*b' has no anchor"),
        ("a: &a [1, *a]", 1, "stands inside its own anchor"),
        ("a: 1\n---\nb: 2", 2, "one YAML document"),
        ("1: a", 1, "key 1 is not text"),
        ("? [a, b]\n: c", 1, "is not text"),
        ("a: " + "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5), 1, f"deeper than {MAX_DEPTH}"),
        ("a: {<<: 3}", 1, "'<<' takes a mapping"),
    ],
)
def test_refusals_name_the_line(text, line, words):
    _, problems = read(text)
    assert len(problems) == 1
    assert problems[0].startswith(f"file.yaml:{line}: ")
    assert words in problems[0]


def test_duplicate_keys_are_all_reported():
    assert len(read("a: 1\na: 2\nb: {c: 1, c: 2}")[1]) == 2


def test_aliases_cannot_multiply_without_bound():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    _, problems = read(bomb)
    assert len(problems) == 1
    assert "aliases counted as often as they are used" in problems[0]


def test_bytes_that_are_not_text_are_refused():
    _, problems = read(b"a: \xff\xfe\xfa")
    assert len(problems) == 1


@given(st.text(max_size=40))
def test_no_text_raises(text):
    read(text)


def test_importing_the_config_room_does_not_import_torch():
    code = "import sys, opengait.config; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
