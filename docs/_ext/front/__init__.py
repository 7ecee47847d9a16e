"""The front of the site: its theme, trimmed and labelled, and its linked diagrams."""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from . import diagrams, theme


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the parts with Sphinx."""
    diagrams.setup(app)
    theme.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
