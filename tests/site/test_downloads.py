"""What readers download: notebooks that run anywhere, and zips of sections."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import Site

TEXT = """
assert plt
# sphinx_gallery_start_ignore
assert "hidden"
# sphinx_gallery_end_ignore

# %%
# Heading
# -------
# See :func:`torch.softmax`, :doc:`the other page <02_other>`, :doc:`02_other`,
# :func:`parcel.helper` and ``code``.
#
# .. math:: a &= b \\\\ &= c
#
# .. dropdown:: Solution
#
#    Use :func:`torch.softmax` and :math:`x`.
#
# The end.

# %%
# sphinx_gallery_thumbnail_number = 1
"""


@pytest.fixture
def cells(site: Site) -> list[dict[str, Any]]:
    """Build a page with everything in it and return the cells of its notebook."""
    inventory = "https://example.org/torch/\n\npy:function $.html#$\n  torch.softmax\n"
    site.write("docs/_inventories/torch.txt", inventory)
    site.write("docs/api.rst", "Api\n===\n\n.. py:function:: parcel.helper\n")
    index = (site.root / "docs/index.rst").read_text()
    site.write("docs/index.rst", f"{index}   api\n")
    site.page("01_page", TEXT)
    site.page("02_other", title="The other")
    built = site.build()
    assert built.status == 0, built.log
    (path,) = (site.html / "_downloads").rglob("01_page.ipynb")
    notebook = json.loads(path.read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    found: list[dict[str, Any]] = notebook["cells"]
    return found


def source(cells: list[dict[str, Any]], kind: str) -> str:
    """Return all that is in the cells of a kind."""
    chosen = [cell for cell in cells if cell["cell_type"] == kind]
    return "\n\n".join("".join(cell["source"]) for cell in chosen)


def test_the_first_cell_installs(cells: list[dict[str, Any]]) -> None:
    assert cells[0]["cell_type"] == "code"
    repository = "https://example.org/tiny.git"
    assert "".join(cells[0]["source"]) == (
        f'%pip install -q "tfdoc[pages] @ git+{repository}"'
    )


def test_cells_are_valid(cells: list[dict[str, Any]]) -> None:
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    for cell in cells:
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        wanted = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            wanted |= {"execution_count", "outputs"}
        assert set(cell) == wanted
        assert "".join(cell["source"]).strip()


def test_code_is_what_the_page_shows(cells: list[dict[str, Any]]) -> None:
    code = source(cells, "code")
    assert "assert ax.lines" in code
    assert "hidden" not in code
    assert "sphinx_gallery" not in code


def test_text_is_plain_markdown(cells: list[dict[str, Any]]) -> None:
    text = source(cells, "markdown")
    assert "# A page" in text
    assert "## Heading" in text
    softmax = "[`torch.softmax()`](https://example.org/torch/torch.softmax.html#torch.softmax)"
    assert text.count(softmax) == 2
    other = "https://example.org/tiny/learn/1_one/02_other.html"
    assert f"[the other page]({other})" in text
    assert f"[The other]({other})" in text
    helper = "https://example.org/tiny/api.html#parcel.helper"
    assert f"[`parcel.helper()`]({helper})" in text
    assert "$$\n\\begin{aligned}a &= b" in text
    assert re.search(
        r"<details><summary>Solution</summary>\n\nUse \[.*and \$x\$\.\n\n</details>",
        text,
    )
    assert not re.search(r"^\.\. |:\w+:`", text, re.MULTILINE)


def test_a_directive_unknown_to_notebooks_fails_the_build(site: Site) -> None:
    site.page("01_page", "assert plt\n\n# %%\n# .. rubric:: Aside\n#\n# Text.\n")
    built = site.build()
    assert built.status != 0
    assert "its notebook would show '.. rubric:: Aside' as it stands" in built.log
    assert "01_page" in built.log


def test_a_section_is_one_zip_always_the_same(site: Site) -> None:
    site.page("02_second")
    site.page("01_first")
    assert site.build().status == 0
    (path,) = (site.html / "_downloads").rglob("1_one.zip")
    with zipfile.ZipFile(path) as archive:
        stems = ("01_first", "02_second")
        names = [f"1_one/{stem}.{kind}" for stem in stems for kind in ("ipynb", "py")]
        assert archive.namelist() == names
        assert {entry.date_time for entry in archive.infolist()} == {
            (1980, 1, 1, 0, 0, 0)
        }
        script = (site.root / "gallery/1_one/01_first.py").read_bytes()
        assert archive.read("1_one/01_first.py") == script
    first = path.read_bytes()
    assert site.build().status == 0
    assert path.read_bytes() == first


@pytest.mark.parametrize("page", ["01_first", "index"])
def test_pages_and_sections_offer_their_files(site: Site, page: str) -> None:
    site.page("01_first")
    assert site.build().status == 0
    html = site.read(f"learn/1_one/{page}.html")
    offered = re.findall(r'href="\.\./\.\./(_downloads/\w+/([\w.]+))"', html)
    files = {"1_one.zip"}
    if page != "index":
        files |= {"01_first.py", "01_first.ipynb"}
    assert {name for _, name in offered} == files
    assert all(Path(site.html, path).exists() for path, _ in offered)
