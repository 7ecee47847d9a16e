"""The notebook of every page, and the zip of every section.

A notebook says first how to install what it imports. What only the site can show
becomes plain Markdown: dropdowns fold with ``<details>``, references become links to
the site. Written once all pages are read, when every link is known.
"""

from __future__ import annotations

import io
import json
import os
import re
import textwrap
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import count, groupby
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.intersphinx import resolve_reference_detect_inventory
from sphinx.util import logging
from sphinx_gallery import (  # type: ignore[import-untyped]
    notebook,
    py_source_parser,
)

from . import gallery

logger = logging.getLogger(__name__)
INSTALL = '%pip install -q "tfdoc[pages] @ git+{repository}"'

_DIRECTIVE = re.compile(
    r"^\.\. (?P<name>dropdown|math)::[ ]*(?P<title>.*)\n"
    r"(?P<body>(?:[ ]{2,}.*\n|[ ]*\n)*)",
    re.MULTILINE,
)
_LEFT = re.compile(r"^\.\. [\w-]+::.*$", re.MULTILINE)
_OPTIONS = re.compile(r"\A(?:\s*:[\w-]+:.*\n)+")


def write_all(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Write notebooks and zips (``env-updated``); no page has to be written again."""
    if app.builder.format == "html":
        repository = app.config.html_context["repository"]
        pages = [copy for _, copy in gallery.scripts(app)]
        for folder, copies in groupby(pages, key=lambda copy: copy.parent):
            files = []
            for copy in copies:
                docname = gallery.docname(app, copy)
                if docname not in env.all_docs:
                    continue  # `gallery.check` will say that it has no page
                content = notebook_of(copy, links(app, env, docname), repository)
                if left := _LEFT.search("\n".join(_texts(content))):
                    logger.warning(
                        "its notebook would show %r as it stands: a directive that "
                        "executed.notebooks does not know", left[0], location=docname
                    )  # fmt: skip
                _write(copy.with_suffix(".ipynb"), content.encode())
                files += [copy, copy.with_suffix(".ipynb")]
            _write(archive(folder), zipped(files))
    return []


def notebook_of(script: Path, known: dict[str, str], repository: str) -> str:
    """Return the page made of `script` as a notebook.

    Parameters
    ----------
    script : pathlib.Path
        The script or its copy.
    known : dict of str to str
        Every reference of the page, as written, with its Markdown.
    repository : str
        Address from which git installs tfdoc.

    Returns
    -------
    str
        JSON of notebook format 4.5, the same for the same page.
    """
    content = {
        "cells": [
            {
                "cell_type": kind,
                "id": f"cell-{number:02d}",
                "metadata": {},
                **({"execution_count": None, "outputs": []} if kind == "code" else {}),
                "source": source.splitlines(keepends=True),
            }
            for number, (kind, source) in enumerate(sources(script, known, repository))
        ],
        "metadata": {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _texts(content: str) -> Iterator[str]:
    for cell in json.loads(content)["cells"]:
        if cell["cell_type"] == "markdown":
            yield "".join(cell["source"])


def sources(
    script: Path, known: dict[str, str], repository: str
) -> Iterator[tuple[str, str]]:
    """Yield kind and source of every cell: how to install, then what the page shows."""
    yield "code", INSTALL.format(repository=repository)
    levels: dict[Any, int] = defaultdict(count(1).__next__)
    _, blocks = py_source_parser.split_code_and_text_blocks(script)
    for kind, content, _ in blocks:
        if kind == "text":
            plain = markdown(content + "\n", known)
            text = notebook.rst2md(plain, {}, script.parent, levels)
            yield "markdown", text.strip()
        else:
            code = py_source_parser.remove_ignore_blocks(content)
            code = py_source_parser.remove_config_comments(code).strip()
            if code:
                yield "code", code


def markdown(text: str, known: dict[str, str]) -> str:
    """Return `text` with dropdowns, formulas and references as Markdown has them."""

    def directive(match: re.Match[str]) -> str:
        body = textwrap.dedent(_OPTIONS.sub("", match["body"])).strip()
        if match["name"] == "dropdown":
            summary = f"<details><summary>{match['title']}</summary>"
            return f"{summary}\n\n{markdown(body, {})}\n\n</details>\n\n"
        formula = f"{match['title']}\n{body}".strip()
        if r"\\" in formula and r"\begin" not in formula:
            formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
        return f"$$\n{formula}\n$$\n\n"

    text = _DIRECTIVE.sub(directive, text)
    for raw in sorted(known, key=len, reverse=True):
        text = text.replace(raw, known[raw])
    return text


def links(app: Sphinx, env: BuildEnvironment, docname: str) -> dict[str, str]:
    """Return every reference of a page, as written, with its Markdown."""
    base = urljoin(app.config.html_baseurl, app.builder.get_target_uri(docname))
    found = {}
    document = env.get_doctree(docname)
    for drawing in document.findall(nodes.Element):
        if "svg" in drawing:
            where = f"[The drawing, with its links, is on the site.]({base})"
            found[drawing.rawsource] = where
    for node in document.findall(addnodes.pending_xref):
        content = node.children[0]
        place = _address(app, env, docname, node)
        text = place.astext() if place is not None else content.astext()
        label = f"`{text}`" if isinstance(content, nodes.literal) else text
        if place is not None:
            anchor = f"#{place['refid']}" if "refid" in place else ""
            label = f"[{label}]({urljoin(base, place.get('refuri', '') + anchor)})"
        found[node.rawsource] = label
    found.pop("", None)
    return found


def _address(
    app: Sphinx, env: BuildEnvironment, docname: str, node: addnodes.pending_xref
) -> nodes.reference | None:
    """Resolve a reference within the site, then elsewhere."""
    content = node.children[0]
    assert isinstance(content, nodes.TextElement)  # noqa: S101 - for the type checker
    return env.domains[node["refdomain"]].resolve_xref(
        env, docname, app.builder, node["reftype"], node["reftarget"], node, content
    ) or resolve_reference_detect_inventory(env, node, content)


def archive(folder: Path) -> Path:
    """Return where the zip of a section lies."""
    return folder / f"{folder.name}.zip"


def zipped(files: list[Path]) -> bytes:
    """Return `files` as a zip: sorted, without their dates, the same every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for file in sorted(files, key=lambda file: file.name):
            info = zipfile.ZipInfo(f"{file.parent.name}/{file.name}")  # dated 1980
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, wherever the site is built
            target.writestr(info, file.read_bytes())
    return buffer.getvalue()


def prepare(app: Sphinx) -> None:
    """Make room for the zips: Sphinx asks for them before they can be written."""
    for _, copy in gallery.scripts(app):
        archive(copy.parent).touch()


def _write(target: Path, content: bytes) -> None:
    """Write `content` if it is new, dated so that no page looks out of date."""
    if not target.exists() or target.read_bytes() != content:
        target.write_bytes(content)
        os.utime(target, (0, 0))


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.connect("builder-inited", prepare, priority=600)
    app.connect("env-updated", write_all)
