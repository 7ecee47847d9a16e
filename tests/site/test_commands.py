"""Commands on a page: what they print is real, and how they end is checked."""

from __future__ import annotations

from .conftest import Site

PAGE = """Tiny
====

.. command:: tfdoc presets {}

.. command:: tfdoc estimate no-such-model
   :status: 2

.. toctree::

   learn/index
"""


def test_a_command_is_shown_with_what_it_prints(site: Site) -> None:
    site.page("page")
    site.write("docs/index.rst", PAGE.format("mixtral"))
    built = site.build()
    assert built.status == 0, built.log
    text = site.read("index.html")
    assert "12,879,925,248 active" in text
    assert "tfdoc: error: config=" in text


def test_a_command_that_fails_breaks_the_build(site: Site) -> None:
    site.page("page")
    site.write("docs/index.rst", PAGE.format("no-such-word"))
    built = site.build()
    assert built.status != 0
    assert "ended with status 2, not 0" in built.log
    assert "no preset has 'no-such-word'" in built.log
