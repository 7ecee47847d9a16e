"""Figures: one SVG for light pages and one for dark ones, and words for both.

A script describes each figure with ``fig.set_label("what it shows")``; a figure
without a description fails the build. Matplotlib draws once, in two sentinel
colours (see ``site.mplstyle``), which are then replaced for either mode. Colour maps
and the palette are the same in both.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator

# Text and lines, grid lines: sentinel -> (light, dark).
COLOURS = {"#010203": ("#1f2328", "#d7dbe0"), "#0a0b0c": ("#d0d7de", "#3d444d")}
MINIMUM_WORDS = 6
_METADATA = {"Date": None, "Creator": None}


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures that a cell left open and return the lines that show them.

    Parameters
    ----------
    block : sphinx_gallery.py_source_parser.Block
        The cell that just ran.
    block_vars, gallery_conf : dict
        What sphinx-gallery gives every scraper.

    Returns
    -------
    str
        reStructuredText with one image per figure.

    Raises
    ------
    ValueError
        If a figure has no description; names the script and the figure.
    """
    shown = []
    if sys.exception() is not None:  # the cell failed: its figures are of no interest
        plt.close("all")
    try:
        for number in plt.get_fignums():
            figure = plt.figure(number)
            alt = _description(figure, Path(block_vars["src_file"]).name, number, block)
            path = Path(block_vars["image_path_iterator"].next()).with_suffix(".svg")
            save(figure, path)
            uri = path.relative_to(gallery_conf["src_dir"]).as_posix()
            shown.append(f"\n.. image:: /{uri}\n   :alt: {alt}\n   :class: figure\n")
    finally:
        plt.close("all")
    return "\n".join(shown)


def _description(figure: Figure, script: str, number: int, block: Any) -> str:
    words = " ".join(str(figure.get_label()).split())
    if len(words.split()) < MINIMUM_WORDS:
        msg = (
            f"{script}: figure {number} of the cell at line {block.lineno} has no "
            f"description (its label is {words!r}). Say in a sentence what it shows: "
            'fig.set_label("...").'
        )
        raise ValueError(msg)
    return words


def save(figure: Figure, path: Path) -> None:
    """Draw `figure` once, as `path` for light pages and ``*_dark.svg`` for dark."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_METADATA)
    drawing = re.sub(
        r"<!--.*?-->\n? *|<metadata>.*?</metadata>\n? *",
        "",
        buffer.getvalue(),
        flags=re.DOTALL,
    )
    for mode, target in enumerate((path, dark(path))):
        svg = drawing
        for sentinel, colours in COLOURS.items():
            svg = svg.replace(sentinel, colours[mode])
        target.write_text(svg, encoding="utf-8", newline="\n")


def dark(path: Path) -> Path:
    """Return where the dark version of `path` lies."""
    return path.with_name(f"{path.stem}_dark{path.suffix}")


class ThemedImage(nodes.image):
    """An image of which a light and a dark version exist; shows one of them."""


class SplitByTheme(SphinxTransform):
    """Replace every image that has a dark version by the pair of them."""

    default_priority = 205  # after substitutions, before Sphinx collects images

    def apply(self, **_: Any) -> None:
        """Transform the document."""
        for node in list(self.document.findall(nodes.image)):
            uri = Path(node["uri"])
            if uri.suffix == ".svg" and dark(self._file(uri)).exists():
                pair = [(uri, "only-light"), (dark(uri), "only-dark")]
                node.replace_self(
                    [
                        ThemedImage(
                            uri=version.as_posix(),
                            alt=node.get("alt", ""),
                            classes=[*node["classes"], mode],
                            size=size(self._file(uri)),
                        )
                        for version, mode in pair
                    ]
                )

    def _file(self, uri: Path) -> Path:
        return Path(self.env.srcdir, uri.as_posix().lstrip("/"))


def size(svg: Path) -> tuple[int, int]:
    """Return width and height of an SVG of Matplotlib's in CSS pixels."""
    head = svg.read_text(encoding="utf-8")[:1000]
    width, height = (
        float(re.search(rf'\s{side}="([\d.]+)pt"', head)[1])  # type: ignore[index]
        for side in ("width", "height")
    )
    return round(width * 4 / 3), round(height * 4 / 3)


def visit_image(self: HTML5Translator, node: ThemedImage) -> None:
    """Write a plain image whose room is reserved before it has loaded."""
    name = self.builder.images[node["uri"]]
    width, height = node["size"]
    attributes = {
        "src": f"{self.builder.imgpath}/{name}",
        "alt": node["alt"],
        "width": str(width),
        "height": str(height),
        "loading": "lazy",
        "decoding": "async",
    }
    self.body.append(self.emptytag(node, "img", "\n", **attributes))


def _depart(self: HTML5Translator, node: nodes.Element) -> None:
    pass


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.add_node(ThemedImage, html=(visit_image, _depart))
    app.add_transform(SplitByTheme)
