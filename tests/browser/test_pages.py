"""Every page of the built site: nothing foreign, nothing out of reach, not heavy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .checker import SCHEMES, Checker, Scheme

FIGURES, FONTS = "_images/", ".woff2"


def test_page(checker: Checker, page: str) -> None:
    seen = checker.visit(page)
    assert not seen.problems, "\n".join([page, *seen.problems])
    if page.startswith("learn/"):
        kept = [
            path
            for path in seen.requests[: seen.eager]
            if not path.startswith(FIGURES) and not path.endswith(FONTS)
        ]
        assert len(kept) <= 15, kept
        assert checker.weight(kept) <= 60_000, kept


def test_the_maths_font_is_small(site: Path) -> None:
    fonts = list((site / "_static").rglob("*.woff2"))
    assert fonts
    assert sum(font.stat().st_size for font in fonts) <= 120_000


def test_html_follows_the_standard(site: Path, node: list[str]) -> None:
    pages = sorted(map(str, site.rglob("*.html")))
    answer = subprocess.run(  # noqa: S603 (our own command)
        [*node, *pages], capture_output=True, check=True
    )
    faults = {page: found for page, found in json.loads(answer.stdout).items() if found}
    assert not faults, json.dumps(faults, indent=1)


def test_search_finds_the_page_on_attention(checker: Checker) -> None:
    with checker.open("search.html?q=attention") as (page, seen):
        page.wait_for_selector("#search-results li a")
        page.get_by_text("pages matching the search query").wait_for()  # the end of it
        assert page.locator("#search-results li a").count() > 3
        assert not seen.problems


def test_the_button_and_the_system_choose_the_same_dark_colours(
    checker: Checker,
) -> None:
    read = """() => {
        const style = getComputedStyle(document.body);
        const ours = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
        const names = new Set(ours.flatMap((rule) => [...rule.cssText.matchAll(
            /--[a-z][\\w-]*color[\\w-]*(?=:)|--color[\\w-]*(?=:)/g)].map(String)));
        return [...names].map((name) => [name, style.getPropertyValue(name)]);
    }"""
    with checker.open("index.html") as (page, _):
        light = page.evaluate(read)
        page.emulate_media(color_scheme="dark")
        system = page.evaluate(read)
        page.emulate_media(color_scheme="light")
        page.evaluate("document.body.dataset.theme = 'dark'")
        button = page.evaluate(read)
    assert system == button != light


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_figure_is_fetched_in_one_colour_scheme_only(
    checker: Checker, scheme: Scheme
) -> None:
    name = "learn/2_attention/02_square_root.html"
    with checker.open(name, scheme) as (page, seen):
        figures = page.locator("article img:visible").all()
        for figure in figures:
            figure.scroll_into_view_if_needed()
            page.wait_for_function(
                "(image) => image.complete", arg=figure.element_handle()
            )
        fetched = [path for path in seen.requests if path.startswith(FIGURES)]
    assert len(fetched) == len(figures) > 1
    assert all(path.endswith("_dark.svg") == (scheme == "dark") for path in fetched)
