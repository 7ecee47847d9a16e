"""A page that does not do what a page must do stops the build, by name."""

from __future__ import annotations

import warnings

import pytest
from executed import clock

from .conftest import Site

BAD = {
    "raises": ("raise KeyError('lost')", "KeyError: 'lost'"),
    "wrong": ("assert 1 == 2", "AssertionError"),
    "exits": ("import sys; sys.exit(0)", "called sys.exit(0)"),
    "warns": (
        "import warnings; warnings.warn('look out', stacklevel=1)",
        "UserWarning: look out",
    ),
    "deprecated": (
        "import warnings; warnings.warn('old', DeprecationWarning, stacklevel=1)",
        "DeprecationWarning: old",
    ),
    "mute figure": ("fig = plt.figure()", 'fig.set_label("...")'),
    "short figure": (
        "fig = plt.figure(); fig.set_label('A plot')",
        "its label is 'A plot'",
    ),
    "syntax": ("1 +", "invalid syntax"),
    "formula": ("# %%\n# The :math:`\\frobnicate` is unknown.", "frobnicate"),
    "no such card": ("# sphinx_gallery_thumbnail_number = 7", "figure number 7"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_page_fails_the_build(site: Site, kind: str) -> None:
    code, reason = BAD[kind]
    site.page("01_fine")
    site.page("02_bad", code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest's own filters would do the work
        built = site.build()
    assert built.status != 0
    assert "02_bad" in built.log
    assert reason in built.log
    assert clock.running() is None, "its alarm would ring later"


def test_a_page_that_hangs_is_stopped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDOC_PAGE_TIMEOUT", "1.5")
    site.page("01_endless", "while True:\n    pass")
    built = site.build()
    assert built.status != 0
    assert "01_endless.py still runs after 1.5 s" in built.log


def test_a_page_that_swallows_the_first_stop_is_stopped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDOC_PAGE_TIMEOUT", "1.5")
    monkeypatch.setattr(clock, "_AGAIN", 1.0)
    loop = "while True:\n        pass"
    site.page(
        "01_deaf",
        f"try:\n    {loop}\nexcept TimeoutError:\n    {loop}",
    )
    built = site.build()
    assert built.status != 0
    assert "01_deaf.py still runs after 1.5 s" in built.log


def test_a_page_without_assertion_fails(site: Site) -> None:
    page = site.page("01_mute")
    page.write_text(page.read_text().replace("assert ax.lines\n", ""))
    built = site.build()
    assert built.status != 0
    assert "01_mute.py asserts nothing" in built.log


def test_a_page_that_was_not_run_fails(site: Site) -> None:
    site.page("01_listed")
    site.configure("settings(", 'settings(filename_pattern="nothing",')
    built = site.build()
    assert built.status != 0
    assert "01_listed.py has a page but did not run" in built.log


def test_a_script_without_page_fails(site: Site) -> None:
    site.page("01_listed")
    site.configure(
        "exclude_patterns = [", "exclude_patterns = ['learn/*/01_listed.*', "
    )
    built = site.build()
    assert built.status != 0
    assert "01_listed.py has no page" in built.log


def test_a_fine_page_passes(site: Site) -> None:
    site.page("01_fine")
    built = site.build()
    assert built.status == 0, built.log
    assert "A straight line that rises" in site.read("learn/1_one/01_fine.html")
