"""A tiny site, made of the real extensions, that a test fills and builds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[2]
EXTENSIONS = ROOT / "docs" / "_ext"
sys.path.insert(0, str(EXTENSIONS))

CONF = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(EXTENSIONS)!r}, str(Path(__file__).parents[1])]
from executed import gallery

extensions = ["sphinx_design", "executed"]
executed_package = "../parcel"
suppress_warnings = ["sphinx_gallery.space_in_filename"]
exclude_patterns = ["_inventories"]
sphinx_gallery_conf = gallery.settings(doc_module=("parcel",))
html_theme = "basic"
html_copy_source = False
html_baseurl = "https://example.org/tiny/"
html_context = {{"repository": "https://example.org/tiny.git"}}
html_math_renderer = "mathml"
"""

PAGE = '''"""
{title}
{line}

What the page is about.
"""
import matplotlib.pyplot as plt

fig, ax = plt.subplots()
_ = ax.plot([0, 1])
fig.set_label("A straight line that rises from zero to one.")
assert ax.lines

# %%
# Some text.
{code}
'''


@dataclass
class Built:
    """How a build ended, and all that it said."""

    status: int
    log: str


@dataclass
class Site:
    """A site in `root`: give it pages, build it, look at what came out."""

    root: Path
    capture: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        """Lay the site out, with one empty section."""
        self.write("docs/conf.py", CONF)
        self.write("docs/index.rst", "Tiny\n====\n\n.. toctree::\n\n   learn/index\n")
        self.write("gallery/GALLERY_HEADER.rst", "Learn\n=====\n")
        self.write("gallery/1_one/GALLERY_HEADER.rst", "One\n===\n")
        self.write("docs/_inventories/torch.txt", "https://example.org/torch/\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file of the site."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def page(self, name: str, code: str = "", title: str = "A page") -> Path:
        """Write a page that is fine but for what `code` does in its last cell."""
        text = PAGE.format(title=title, line="=" * len(title), code=code)
        return self.write(f"gallery/1_one/{name}.py", text)

    def configure(self, old: str, new: str) -> None:
        """Change the site's configuration."""
        conf = self.root / "docs/conf.py"
        text = conf.read_text(encoding="utf-8")
        assert old in text
        conf.write_text(text.replace(old, new), encoding="utf-8")

    def build(self) -> Built:
        """Build as the site is built: every warning is an error."""
        self.capture.readouterr()
        options = ["-W", "--keep-going", "-n", "-b", "html", "--no-color"]
        folders = [self.root / "doctrees", self.root / "docs", self.html]
        status = build_main([*options, "-d", *map(str, folders)])
        said = self.capture.readouterr()
        return Built(status, said.out + said.err)

    @property
    def html(self) -> Path:
        """Where the built site is."""
        return self.root / "html"

    def read(self, name: str) -> str:
        """Read a file of the built site."""
        return (self.html / name).read_text(encoding="utf-8")

    def runs(self) -> dict[str, int]:
        """When each page last ran."""
        records = (self.root / "docs/learn").rglob("*.run.json")
        return {r.name.removesuffix(".run.json"): r.stat().st_mtime_ns for r in records}

    def copy(self, target: Path) -> Path:
        """Copy what the site is made of, without what builds made of it."""
        ignore = shutil.ignore_patterns("learn", "html", "doctrees", "__pycache__")
        shutil.copytree(self.root, target, ignore=ignore)
        return target


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    """Give a test a tiny site of its own."""
    path = list(sys.path)
    yield Site(tmp_path / "site", capsys)
    sys.path[:] = path
    sys.modules.pop("parcel", None)
