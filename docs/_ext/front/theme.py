"""Changes to furo and sphinx-gallery that templates and style sheets cannot make.

Every page drops the assets it has no use for, every landmark gets a name, a gallery
page learns where its program lies, and the page for missing pages works at any depth.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# tfdoc.css styles what the pages use of these, in a twentieth of the weight.
DROPPED = {
    "design-tabs.js",
    "furo-extensions.css",
    "sg-tags.js",
    "sg_gallery-binder.css",
    "sg_gallery-dataframe.css",
    "sg_gallery-rendered-html.css",
    "sg_gallery.css",
    "sphinx-design.min.css",
}
# What furo writes -> what a screen reader can tell apart.
TOGGLES = '<input type="checkbox" class="sidebar-toggle" name="__navigation"'
LABELS = {
    TOGGLES: f'<nav aria-label="Menus">{TOGGLES}',
    '<label class="overlay sidebar-overlay"': (
        '</nav>\n<label class="overlay sidebar-overlay"'
    ),
    '<aside class="sidebar-drawer">': (
        '<aside class="sidebar-drawer" aria-label="All pages">'
    ),
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
    '<div class="content-icon-container">': (
        '<div class="content-icon-container" role="region" aria-label="Page tools">'
    ),
}
# What others write -> what follows the standard, or serves a reader with a keyboard.
MENDED = {
    r'<p class="caption" role="heading">': (
        '<p class="caption" role="heading" aria-level="2">'
    ),
    r"<div id='sg-tag-list' class='sphx-glr-tag-list'></div>": "",
    # Tables of pandas: their style belongs to the site, an empty cell is no header.
    r"<style scoped>.*?</style>\n?": "",
    r"<th></th>": "<td></td>",
    # Those of its Styler: names by chance, and a class for each of a thousand cells.
    r'<style type="text/css">\s*</style>\n?': "",
    r'(<t(?:able|h|d)) id="T_[^"]*"': r"\1",
    r'(<t[hd]) class="(?:data|blank|index_name|(?:col|row)_heading)\b[^"]*" ?': r"\1",
    r"(</table>\n+(?:</div>\n){1,2})<br />\n<br />": r"\1",
    # A link from every variable to its type would be a hundred stops of the Tab key.
    r'<a class="[^"]*sphx-glr-backref-instance[^"]*"[^>]*>(.*?)</a>': r"\1",
}
RELATIVE = re.compile(r'\b(href|src|action)="(?![#/]|\w+:)')


def mended(body: str) -> str:
    """Name the landmarks of a page's `body` and mend what is wrong in its markup.

    Raises
    ------
    ValueError
        If furo no longer writes what is to be named.
    """
    for old, new in LABELS.items():
        if old not in body:
            msg = f"furo no longer writes {old!r}: mend LABELS in {__file__}"
            raise ValueError(msg)
        body = body.replace(old, new)
    for pattern, replacement in MENDED.items():
        body = re.sub(pattern, replacement, body, flags=re.DOTALL)
    return body


class OneTitle(SphinxTransform):
    """Put the sections of the gallery's index under its title, not beside it."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:  # noqa: ARG002
        """Move every later top-level section into the first."""
        sections = [
            node for node in self.document.children if isinstance(node, nodes.section)
        ]
        for section in sections[1:]:
            self.document.remove(section)
            sections[0].append(section)


def gallery_links(app: Sphinx, page: str, doctree: nodes.document) -> dict[str, str]:
    """Where the program behind a gallery page lies, or {} for another page."""
    files = {
        Path(node["filename"]).suffix: f"_downloads/{node['filename']}"
        for node in doctree.findall(addnodes.download_reference)
        if "filename" in node
    }
    if ".py" not in files:
        return {}
    source = page.replace("learn/", "gallery/", 1) + ".py"
    repository = app.config.html_theme_options["source_repository"].rstrip("/")
    owner_and_name = urlsplit(repository).path
    colab = f"https://colab.research.google.com/github{owner_and_name}/blob/notebooks"
    return {
        "colab": f"{colab}/{page}.ipynb",
        "edit": f"{repository}/edit/main/{source}",
        "view": f"{repository}/blob/main/{source}",
        "script": files[".py"],
        "notebook": files[".ipynb"],
    }


def complete_context(
    app: Sphinx,
    pagename: str,
    templatename: str,  # noqa: ARG001
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Give the templates what they ask for, and drop what no page uses."""
    for kind in ("css_files", "script_files"):
        context[kind] = [
            file for file in context[kind] if Path(file.filename).name not in DROPPED
        ]
    context["gallery"] = gallery_links(app, pagename, doctree) if doctree else {}


def name_repository(app: Sphinx, docname: str, source: list[str]) -> None:  # noqa: ARG001
    """Write the repository's address where code, which has no substitutions, needs it."""
    address = app.config.html_theme_options["source_repository"].rstrip("/")
    source[0] = source[0].replace("|repository|", address)


def root_addresses(app: Sphinx, exception: Exception | None) -> None:
    """Let 404.html, which is served at any depth, find its files from the root."""
    page = Path(app.outdir, "404.html")
    if exception is None and page.exists():
        root = urlsplit(app.config.html_baseurl).path or "/"
        html = RELATIVE.sub(rf'\1="{root}', page.read_text(encoding="utf-8"))
        page.write_text(html, encoding="utf-8", newline="\n")


def add_filter(app: Sphinx) -> None:
    """Let the page template call `mended`."""
    templates = getattr(app.builder, "templates", None)
    if templates is not None:
        templates.environment.filters["mended"] = mended


def setup(app: Sphinx) -> None:
    """Connect the functions above with Sphinx's events."""
    app.add_transform(OneTitle)
    app.connect("builder-inited", add_filter)
    app.connect("source-read", name_repository)
    app.connect("html-page-context", complete_context, priority=900)
    app.connect("build-finished", root_addresses)
