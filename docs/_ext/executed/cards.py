"""The cards of a gallery: a page's picture, title and first paragraph.

sphinx-gallery writes one per page into section pages and minigalleries. Its own
markup has a nameless link and an invalid attribute, so ``CARD`` takes its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_gallery import (  # type: ignore[import-untyped]
    backreferences,
    gen_rst,
    py_source_parser,
)

logger = logging.getLogger(__name__)

CARD = "\n.. page-card:: {doc_name}\n\n"


class Page:
    """What a script says about itself: title, first paragraph, chosen picture."""

    def __init__(self, script: Path) -> None:
        conf, blocks = py_source_parser.split_code_and_text_blocks(script)
        self.intro, self.title = gen_rst.extract_intro_and_title(
            script, blocks[0].content
        )
        self.number = conf.get("thumbnail_number", 1)
        self.picture = f"images/sphx_glr_{script.stem}_{self.number:03d}.svg"


class PageCard(SphinxDirective):
    """``.. page-card:: /learn/2_attention/01_self_attention``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the card: the picture, then a link by title, then the intro."""
        docname = self.arguments[0].strip("/")
        script = Path(self.env.srcdir, f"{docname}.py")
        self.env.note_dependency(script)
        page = Page(script)
        picture = (script.parent / page.picture).relative_to(self.env.srcdir)
        if not Path(self.env.srcdir, picture).exists():
            logger.warning(
                "%s has no figure number %d for its card: draw one, or change its "
                "sphinx_gallery_thumbnail_number",
                script.name,
                page.number,
            )
            return []
        card = nodes.container(classes=["page-card"])
        card += nodes.image(uri=f"/{picture.as_posix()}", alt="")
        link = addnodes.pending_xref(
            "",
            nodes.inline("", page.title),
            refdomain="std",
            reftype="doc",
            reftarget=f"/{docname}",
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )
        card += nodes.paragraph("", "", link, classes=["page-card-title"])
        card += nodes.paragraph("", page.intro, classes=["page-card-intro"])
        return [card]


def setup(app: Sphinx) -> None:
    """Connect to Sphinx, and put the card in the place of sphinx-gallery's."""
    templates: Any = backreferences
    templates.THUMBNAIL_TEMPLATE = CARD
    templates.BACKREF_THUMBNAIL_TEMPLATE = CARD
    app.add_directive("page-card", PageCard)
