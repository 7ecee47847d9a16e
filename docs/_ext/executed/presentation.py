"""What sphinx-gallery writes around a page, in the words of this site.

Works on the text that Sphinx reads, so the generated files stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

from . import gallery, notebooks
from .cards import Page

_NOTE = re.compile(
    r"\.\. only:: html\n\n    \.\. note::\n.*?(?=\n\.\. rst-class)", re.DOTALL
)
_FOOTER = re.compile(
    r"\.\. only:: html\n\n  \.\. container:: sphx-glr-footer.*", re.DOTALL
)
_TAGS = re.compile(r"\.\. raw:: html\n\n  <div id='sg-tag-list'.*?</div>\n")

_DESCRIPTION = ":og:description: {0}\n\n.. meta::\n   :description: {0}\n\n"
_DOWNLOADS = """\
.. container:: downloads

   :download:`Python script <{stem}.py>`
   :download:`Jupyter notebook <{stem}.ipynb>`
   :download:`all pages of this section <{archive}>`
"""
_SECTION_DOWNLOAD = """

.. container:: downloads

   :download:`All pages of this section, as scripts and notebooks <{archive}>`
"""


def rewrite(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change the text of a gallery page or section as it is read."""
    if not docname.startswith(f"{gallery.OUTPUT}/"):
        return
    file = Path(app.srcdir, docname)
    archive = notebooks.archive(file.parent)
    text = source[0]
    if file.with_suffix(".py").exists():
        intro = Page(file.with_suffix(".py")).intro
        downloads = _DOWNLOADS.format(stem=file.name, archive=archive.name)
        text = _FOOTER.sub(lambda _: downloads, _NOTE.sub("", text))
        text = _DESCRIPTION.format(intro) + text
    else:
        text = _TAGS.sub("", text)
        if archive.exists():
            text += _SECTION_DOWNLOAD.format(archive=archive.name)
    source[0] = text


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.connect("source-read", rewrite)
