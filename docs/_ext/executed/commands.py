"""``.. command:: tfdoc ...``: a command of the package, and what it prints.

It runs in this process each time the page is read, at 76 columns. A command that does
not end with the status in ``:status:``, 0 by default, is a warning, as is a bug in it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from click.testing import CliRunner
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
ENVIRONMENT = {"COLUMNS": "76", "NO_COLOR": "1"}


class Command(SphinxDirective):
    """Run a command, show it with its output."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"status": directives.nonnegative_int}  # noqa: RUF012 (docutils)

    def run(self) -> list[nodes.Node]:
        """Return command and output; the package is what they depend on."""
        from tfdoc.cli import main  # noqa: PLC0415  # only where there is a command

        package = Path(self.env.srcdir, self.config.executed_package)
        for file in sorted(package.rglob("*.*")):
            if file.suffix in (".py", ".json"):
                self.env.note_dependency(file)
        line = " ".join(self.arguments[0].split())
        program, *words = shlex.split(line)
        done = CliRunner().invoke(main, words, env=ENVIRONMENT, prog_name=program)
        wanted = self.options.get("status", 0)
        if done.exit_code != wanted:
            logger.warning(
                "%r ended with status %d, not %d: %s",
                line, done.exit_code, wanted, done.output.strip() or repr(done.exception),
                location=self.get_location(),
            )  # fmt: skip
        text = f"$ {line}\n{done.output.rstrip()}"
        block = nodes.literal_block(text, text, language="console")
        self.set_source_info(block)
        return [block]


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.add_directive("command", Command)
