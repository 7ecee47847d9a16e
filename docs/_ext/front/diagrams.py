"""``.. linked-svg:: name``: a diagram whose parts lead to pages.

The drawing is ``_diagrams/name.svg``. Its links are written as page names, from the
root of the site (``<a href="learn/2_attention/03_masks">``), and its ``aria-label``
says what it shows. It goes into the page itself, so that its links work and its
colours follow the page's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
SVG = "http://www.w3.org/2000/svg"


class linked_svg(nodes.General, nodes.Element):  # noqa: N801 (docutils' own style)
    """The place of a diagram in a document; `svg` holds its source."""


class LinkedSvg(SphinxDirective):
    """Put a diagram from ``_diagrams/`` into the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the drawing, and read the page again whenever it changes."""
        path = Path(self.env.srcdir, "_diagrams", f"{self.arguments[0]}.svg")
        if not path.is_file():
            known = sorted(p.stem for p in path.parent.glob("*.svg"))
            msg = f"there is no diagram {self.arguments[0]!r}; there are {known}"
            raise self.error(msg)
        self.env.note_dependency(path)
        source = path.read_text(encoding="utf-8")
        node = linked_svg(self.block_text.strip(), svg=source)
        self.set_source_info(node)
        return [node]


def visit_html(self: HTML5Translator, node: linked_svg) -> None:
    """Write the drawing with its page names turned into addresses."""
    ET.register_namespace("", SVG)
    root = ET.fromstring(node["svg"])  # noqa: S314 (our own drawing)
    for link in root.iter(f"{{{SVG}}}a"):
        page = link.get("href", "")
        if page not in self.builder.env.found_docs:
            logger.warning("the diagram leads to no page: %r", page, location=node)
            continue
        here = self.builder.current_docname
        link.set("href", self.builder.get_relative_uri(here, page) or "#")
    drawing = ET.tostring(root, encoding="unicode")
    self.body.append(f'<div class="linked-svg">{drawing}</div>\n')
    raise nodes.SkipNode


def visit_words(self: Any, node: linked_svg) -> None:
    """Write what the drawing shows, where a page cannot hold a drawing."""
    root = ET.fromstring(node["svg"])  # noqa: S314 (our own drawing)
    self.add_text(root.get("aria-label", ""))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the directive and its node."""
    app.add_directive("linked-svg", LinkedSvg)
    app.add_node(linked_svg, html=(visit_html, None), text=(visit_words, None))
