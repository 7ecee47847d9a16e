"""The front of the site: pages of names, the landing page, diagrams and templates."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd  # type: ignore[import-untyped]
import pytest
from docutils.utils import new_document
from sphinx import addnodes
from sphinx.cmd.build import build_main

import tfdoc

from .conftest import EXTENSIONS, ROOT  # which lets the next line find `front`

from front import theme  # isort: skip

DOCS = ROOT / "docs"
CONF = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["front.diagrams"]
html_theme = "basic"
"""
DIAGRAM = """
<svg xmlns="http://www.w3.org/2000/svg" aria-label="Two parts.">
  <a href="learn/one"><text>one</text></a>
</svg>
"""


def documented() -> dict[str, list[str]]:
    """Public names by the API page that documents them."""
    entry = re.compile(r"^\.\. auto(?:class|function):: tfdoc\.(\w+)", re.MULTILINE)
    return {
        page.stem: entry.findall(page.read_text(encoding="utf-8"))
        for page in sorted((DOCS / "api").glob("*.rst"))
    }


def test_api_pages_document_every_public_name_once() -> None:
    names = [name for page in documented().values() for name in page]
    assert sorted(names) == sorted(tfdoc.__all__)


def test_a_module_stands_on_one_api_page() -> None:
    pages: dict[str, set[str]] = {}
    for page, names in documented().items():
        for name in names:
            home = getattr(tfdoc, name).__module__.split(".")[1]
            pages.setdefault(home, set()).add(page)
    assert all(len(found) == 1 for found in pages.values()), pages


def test_every_public_name_has_its_pages_below_it() -> None:
    for page, names in documented().items():
        text = (DOCS / "api" / f"{page}.rst").read_text(encoding="utf-8")
        assert re.findall(r"minigallery:: tfdoc\.(\w+)", text) == names


def test_the_example_on_the_landing_page_runs() -> None:
    results = doctest.testfile(str(DOCS / "index.rst"), module_relative=False)
    assert results.attempted > 3
    assert not results.failed


def test_the_landing_page_leads_to_every_section() -> None:
    text = (DOCS / "index.rst").read_text(encoding="utf-8")
    sections = {path.parent.name for path in ROOT.glob("gallery/*/GALLERY_HEADER.rst")}
    assert set(re.findall(r"</learn/(\w+)/index>", text)) == sections


def test_the_mark_in_the_sidebar_is_the_mark_of_the_site() -> None:
    drawing = re.compile(r'<path fill="[^"]*" d="[^"]*"/>')
    sidebar = DOCS / "_templates/sidebar/brand.html"
    marks = [
        drawing.findall(path.read_text(encoding="utf-8"))
        for path in (DOCS / "_static/mark.svg", sidebar)
    ]
    assert marks[0]
    assert marks[0] == marks[1]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of two pages, the second in a folder, and a diagram."""
    files = {
        "conf.py": CONF,
        "index.rst": "Home\n====\n\n.. toctree::\n\n   learn/one\n",
        "learn/one.rst": "One\n===\n\n.. linked-svg:: parts\n",
        "_diagrams/parts.svg": DIAGRAM,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def build(site: Path, builder: str = "html") -> int:
    return build_main(["-q", "-W", "-E", "-b", builder, str(site), str(site / "out")])


def test_a_diagram_leads_to_its_pages_from_anywhere(site: Path) -> None:
    home = "Home\n====\n\n.. toctree::\n\n   learn/one\n\n.. linked-svg:: parts\n"
    (site / "index.rst").write_text(home)
    assert build(site) == 0
    assert '<a href="learn/one.html">' in (site / "out/index.html").read_text()
    assert '<a href="#">' in (site / "out/learn/one.html").read_text()


def test_a_diagram_is_its_description_where_there_are_only_words(site: Path) -> None:
    assert build(site, "text") == 0
    assert "Two parts." in (site / "out/learn/one.txt").read_text()


def test_a_diagram_that_leads_nowhere_fails_the_build(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = site / "_diagrams/parts.svg"
    drawing.write_text(DIAGRAM.replace("learn/one", "learn/two"), encoding="utf-8")
    assert build(site) != 0
    assert "leads to no page: 'learn/two'" in capsys.readouterr().err


def test_an_unknown_diagram_fails_the_build_and_names_the_known(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "learn/one.rst").write_text("One\n===\n\n.. linked-svg:: party\n")
    assert build(site) != 0
    assert "no diagram 'party'; there are ['parts']" in capsys.readouterr().err


LANDMARKS = "".join(theme.LABELS)


def test_a_theme_that_changed_is_noticed() -> None:
    assert 'aria-label="On this page"' in theme.mended(LANDMARKS)
    with pytest.raises(ValueError, match=r"furo no longer writes.*toc-drawer"):
        theme.mended(LANDMARKS.replace("toc-drawer", "toc"))


def test_variables_are_no_links_but_functions_are() -> None:
    variable = '<a class="sphx-glr-backref-instance x" href="b"><i>weights</i></a>'
    function = (
        '<a class="sphx-glr-backref-type-py-function" href="a"><i>softmax</i></a>'
    )
    mended = theme.mended(f"{LANDMARKS}|{function} {variable} {variable}")
    assert mended.endswith(f"|{function} <i>weights</i> <i>weights</i>")


def test_tables_of_pandas_follow_the_standard() -> None:
    table = "<style scoped>\n  th {}\n</style>\n<tr><th></th><th>a</th></tr>"
    assert theme.mended(f"{LANDMARKS}|{table}").endswith(
        "|<tr><td></td><th>a</th></tr>"
    )


def test_tables_of_a_styler_are_plain_and_the_same_in_every_build() -> None:
    frame = pd.DataFrame({"a": [1.0, None]}, index=["x", "y"]).rename_axis(columns="b")
    styled = frame.style.format(precision=1, na_rep="")
    styled.set_table_attributes('class="dataframe sortable"')
    first, second = (theme.mended(f"{LANDMARKS}|{styled.to_html()}") for _ in range(2))
    assert first == second
    table = re.sub(r"\s*\n\s*", "", first.partition("|")[2])
    assert table == (
        '<table class="dataframe sortable"><thead><tr><th>b</th><th>a</th></tr></thead>'
        "<tbody><tr><th>x</th><td>1.0</td></tr><tr><th>y</th><td></td></tr></tbody>"
        "</table>"
    )


def test_the_page_for_missing_pages_works_at_any_depth(tmp_path: Path) -> None:
    page = tmp_path / "404.html"
    page.write_text('<a href="a.html"><a href="#b"><a href="https://c"><img src="d">')
    config = SimpleNamespace(html_baseurl="https://example.org/deep/")
    app = cast(Any, SimpleNamespace(outdir=tmp_path, config=config))
    theme.root_addresses(app, None)
    assert page.read_text() == (
        '<a href="/deep/a.html"><a href="#b"><a href="https://c"><img src="/deep/d">'
    )


def test_the_page_behind_a_program_knows_where_it_lies() -> None:
    doctree = new_document("page")
    for suffix in ("py", "ipynb"):
        node = addnodes.download_reference(filename=f"0f/01_a.{suffix}")
        doctree.append(node)
    options = {"source_repository": "https://github.com/who/what"}
    app = cast(Any, SimpleNamespace(config=SimpleNamespace(html_theme_options=options)))
    links = theme.gallery_links(app, "learn/1_start/01_a", doctree)
    assert links["edit"] == (
        "https://github.com/who/what/edit/main/gallery/1_start/01_a.py"
    )
    assert links["colab"] == (
        "https://colab.research.google.com/github/who/what/blob/notebooks"
        "/learn/1_start/01_a.ipynb"
    )
    assert links["script"] == "_downloads/0f/01_a.py"
    assert theme.gallery_links(app, "glossary", new_document("page")) == {}
