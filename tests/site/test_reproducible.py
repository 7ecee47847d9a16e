"""Two builds of the same sources are the same bytes, wherever and whenever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from executed import inventories
from sphinx.util.inventory import InventoryFile

from .conftest import Site

TABLE = "Run times\n=========\n\n.. runtimes::\n"


def build(root: Path, **environment: str) -> dict[str, bytes]:
    """Build the site in `root` in a process of its own and return its files."""
    html = root / "html"
    subprocess.run(  # noqa: S603
        [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html",
         "-d", str(root / "doctrees"), str(root / "docs"), str(html)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    return {
        file.relative_to(html).as_posix(): file.read_bytes()
        for file in sorted(html.rglob("*"))
        if file.is_file()
    }


def test_builds_are_byte_identical(site: Site, tmp_path: Path) -> None:
    site.page("01_first", "# %%\n# Some :math:`x^2`.\n\n# %%\nprint(ax.lines != [])")
    site.page("02_second", "ax.imshow([[0, 1]])")
    site.write("docs/runtimes.rst", f":orphan:\n\n{TABLE}")
    elsewhere = site.copy(tmp_path / "a much longer name" / "elsewhere")
    epoch = "1700000000"
    one = build(site.root, SOURCE_DATE_EPOCH=epoch, TZ="UTC", LC_ALL="C.UTF-8")
    two = build(
        elsewhere, SOURCE_DATE_EPOCH=epoch, TZ="Asia/Tokyo", LC_ALL="POSIX",
        PYTHONHASHSEED="7",
    )  # fmt: skip
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    here = str(tmp_path).encode()
    assert [name for name, content in one.items() if here in content] == []


def test_run_times_are_told_unless_builds_must_be_identical(site: Site) -> None:
    site.page("01_first", title="The first")
    site.write("docs/runtimes.rst", f":orphan:\n\n{TABLE}")
    assert site.build().status == 0
    table = site.read("runtimes.html")
    assert 'href="learn/1_one/01_first.html"' in table
    assert "The first" in table
    assert "Seconds" in table
    assert "Memory in MiB" in table


def test_inventories_are_made_of_the_listings(tmp_path: Path) -> None:
    listing = tmp_path / "torch.txt"
    listing.write_text(
        "https://example.org/torch/\n\npy:function made/$.html#$\n  torch.arange\n"
        "  torch.odd elsewhere.html#$\n"
    )
    site, entries = inventories.parse(listing)
    inventories.write("torch", entries, tmp_path / "torch.inv")
    content = (tmp_path / "torch.inv").read_bytes()
    items = InventoryFile.loads(content, uri=site).data["py:function"]
    assert items["torch.arange"].uri == (
        "https://example.org/torch/made/torch.arange.html#torch.arange"
    )
    assert (
        items["torch.odd"].uri == "https://example.org/torch/elsewhere.html#torch.odd"
    )
