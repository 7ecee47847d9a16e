"""``.. runtimes::``: what every page took when it last ran, as a plain table.

With ``SOURCE_DATE_EPOCH`` set, a build has to give the same bytes every time; then
the table tells the pages and their sizes alone.
"""

from __future__ import annotations

import os

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from . import gallery, stale
from .cards import Page


class RunTimes(SphinxDirective):
    """The table of all pages of the gallery."""

    def run(self) -> list[nodes.Node]:
        """Return the table; it is made anew on every build."""
        measured = "SOURCE_DATE_EPOCH" not in os.environ
        heads = ["Page", "Lines"] + ["Seconds", "Memory in MiB"] * measured
        rows = [heads]
        for script, copy in gallery.scripts(self.env):
            self.env.note_dependency(stale.record(copy))
            title = f":doc:`{Page(script).title} </{gallery.docname(self.env, copy)}>`"
            row = [title, str(len(script.read_text(encoding="utf-8").splitlines()))]
            if measured:
                seconds, memory = stale.cost(copy)
                row += [f"{seconds:.1f}", "" if memory is None else f"{memory:.0f}"]
            rows.append(row)
        lines = [".. list-table::", "   :header-rows: 1", "   :class: runtimes", ""]
        for first, *others in rows:
            lines.append(f"   * - {first}")
            lines += [f"     - {cell}" for cell in others]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.add_directive("runtimes", RunTimes)
