"""Every page of the gallery keeps the rules of the house, and runs for readers too."""

from __future__ import annotations

import ast
import os
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from executed import gallery, notebooks, state
from sphinx_gallery import py_source_parser  # type: ignore[import-untyped]

from .conftest import ROOT

SCRIPTS = sorted((ROOT / "gallery").glob("*/*.py"))
SHUFFLED = random.Random(7).sample(SCRIPTS, len(SCRIPTS))  # noqa: S311
# Calls that a page has no business with: the site draws, closes and colours figures.
FOREIGN = re.compile(
    r"plt\.(show|close|style|switch_backend|rcParams)|savefig|rcParams|sys\.exit|"
    r"input\(|open\(|requests|urllib|warnings\.|set_default_d|cuda|"
    r"""(color=|, )["'](k|black|w|white)["']"""
)


class Script(NamedTuple):
    """A page cut into its cells, without what only the build sees."""

    path: Path
    text: str
    cells: list[tuple[str, str]]

    def of(self, kind: str) -> list[str]:
        """Return the cells of one kind, "text" or "code"."""
        return [content for found, content in self.cells if found == kind]


def read(path: Path) -> Script:
    """Cut a script into cells."""
    _, blocks = py_source_parser.split_code_and_text_blocks(path)
    shown = [
        (
            kind,
            py_source_parser.remove_config_comments(
                py_source_parser.remove_ignore_blocks(content)
            )
            if kind == "code"
            else content,
        )
        for kind, content, _ in blocks
    ]
    return Script(path, path.read_text(encoding="utf-8"), shown)


def broken_form(page: Script) -> Iterator[str]:
    """Say which rules about lines and cells a page breaks."""
    lines = py_source_parser.remove_ignore_blocks(page.text).splitlines()
    if not 120 <= len(lines) <= 220:
        yield f"has {len(lines)} lines to read, not 120 to 220"
    for number, line in enumerate(page.text.splitlines(), 1):
        if len(line) > 79:
            yield f"line {number} has {len(line)} columns, not 79 at most"
        if not line.isascii():
            yield f"line {number} is not ASCII: {line!r}"
    for code in page.of("code"):
        if (length := len(code.strip().splitlines())) > 25:
            yield f"a cell has {length} lines, not 25 at most: {code.strip()[:40]!r}"
    for text in page.of("text"):
        if "sphinx_gallery_" in text:
            yield "a text cell has a setting of sphinx-gallery, which would show"


def broken_content(page: Script) -> Iterator[str]:
    """Say what a page lacks or must not have."""
    paragraphs = page.of("text")[0].strip().split("\n\n")
    if len(paragraphs) < 2 or "`" in paragraphs[1] or len(paragraphs[1]) < 80:
        yield "its first paragraph, its description elsewhere, is not plain sentences"
    figures = len(re.findall(r"\.set_label\(", page.text))
    if not 1 <= figures <= 4:
        yield f"describes {figures} figures, not 1 to 4"
    if not any(map(asserts, page.of("code"))):
        yield "shows the reader no assertion"
    exercise = re.search(r"^# Exercise.*\n# -{6,}$", page.text, re.MULTILINE)
    solution = page.text.find(".. dropdown:: Solution")
    if not exercise or solution < exercise.start():
        yield "has no exercise with a solution in a dropdown after it"
    elif not any(map(asserts, hidden(page.text[exercise.start() : solution]))):
        yield "does not assert the solution in an ignored block"
    for found in FOREIGN.finditer("\n".join(page.of("code"))):
        yield f"has no business with {found[0]!r}"


def asserts(code: str) -> bool:
    """Say whether a piece of code asserts anything."""
    return gallery.asserts(ast.parse(code))


def hidden(text: str) -> list[str]:
    """Return the ignored blocks in `text`."""
    return [str(block) for block in py_source_parser.IGNORE_BLOCK_PATTERN.findall(text)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_keeps_the_rules(path: Path) -> None:
    page = read(path)
    broken = [*broken_form(page), *broken_content(page)]
    assert not broken, "\n".join([f"{path.name}:", *broken])


def test_names_are_unique() -> None:
    assert len({path.name for path in SCRIPTS}) == len(SCRIPTS) > 0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_runs_alone_from_anywhere(path: Path, tmp_path: Path) -> None:
    shown = [
        "error",
        "ignore::DeprecationWarning",
        "error::DeprecationWarning:__main__",
    ]
    ran = subprocess.run(  # noqa: S603
        [sys.executable, *(f"-W{rule}" for rule in shown), str(path)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.isascii()
    assert list(tmp_path.iterdir()) == [], "a page writes no files"


@pytest.fixture
def fresh(path: Path) -> Iterator[None]:
    """Give the page the state that the build gives it, and clean up after it."""
    state.reset({}, path.name, "before")
    yield
    state.reset({}, path.name, "after")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("path", SHUFFLED, ids=lambda path: path.stem)
def test_runs_after_any_other(path: Path) -> None:
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("path", SHUFFLED, ids=lambda path: path.stem)
def test_runs_as_a_notebook(path: Path) -> None:
    (kind, install), *cells = notebooks.sources(path, {}, "https://example.org/t.git")
    assert kind == "code"
    assert install.startswith("%pip install")
    namespace = {"__name__": "__main__"}
    for number, (kind, source) in enumerate(cells, 1):
        if kind == "code":
            exec(compile(source, f"cell {number}", "exec"), namespace)  # noqa: S102
