"""The calculator: its script made of Python's formulas and tables, and its page."""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from . import page


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the page with Sphinx."""
    page.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
