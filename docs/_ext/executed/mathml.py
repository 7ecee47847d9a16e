"""Formulas as MathML: there before the first paint, without JavaScript.

docutils translates; a command that it does not know is a warning, so that a build
with ``-W`` stops at it.
"""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

FONT = "_static/fonts/stix-two-math.woff2"
logger = logging.getLogger(__name__)


def translate(tex: str, node: nodes.Element, *, block: bool) -> str:
    r"""Return `tex` as MathML, or as it stands with a warning.

    Parameters
    ----------
    tex : str
        A formula in LaTeX, such as ``\sqrt{d_k}``.
    node : docutils.nodes.Element
        Where it stands, for the warning.
    block : bool
        Whether it has a line of its own.
    """
    try:
        return str(tex2mathml(tex, as_block=block))
    except MathError as error:
        logger.warning("formula %r: %s", tex, error, location=node, type="mathml")
        return f"<code>{html.escape(tex)}</code>"


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    self.body.append(translate(node.astext(), node, block=False))
    raise nodes.SkipNode


def visit_displaymath(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own (furo puts a box around it that scrolls)."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(translate(node.astext(), node, block=True))
    if node["number"]:
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})')
        self.add_permalink_ref(node, _("Link to this equation"))
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def load_font(
    app: Sphinx,
    _page: str,
    _template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Ask for the maths font, early, on pages that have formulas."""
    if doctree and next(doctree.findall(_is_math), None):
        app.add_css_file("maths.css")
        address = context["pathto"](FONT, resource=True)
        context["metatags"] += (
            f'<link rel="preload" href="{address}" as="font" type="font/woff2" '
            "crossorigin>\n"
        )


def _is_math(node: nodes.Node) -> bool:
    return isinstance(node, nodes.math | nodes.math_block)


def setup(app: Sphinx) -> None:
    """Connect to Sphinx as the maths renderer ``mathml``."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(visit_math, None),
        block_renderers=(visit_displaymath, None),
    )
    app.connect("html-page-context", load_font)
