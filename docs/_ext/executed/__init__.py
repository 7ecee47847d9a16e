"""The engine of the site: small Sphinx extensions around executed pages."""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from . import (
    benchmarks,
    cards,
    commands,
    figures,
    gallery,
    inventories,
    mathml,
    notebooks,
    presentation,
    runtimes,
)

PARTS = (
    benchmarks,
    cards,
    commands,
    figures,
    gallery,
    inventories,
    mathml,
    notebooks,
    presentation,
    runtimes,
)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Set up all parts."""
    for part in PARTS:
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
