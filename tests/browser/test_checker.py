"""The checker notices every fault that it looks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .checker import Checker, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Page</title><style>:focus-visible {{ outline: 2px solid }}</style></head>
<body><main><h1>Page</h1>{body}</main></body></html>"""
FAULTS = {
    "nothing": ("<p>Text</p>", None),
    "other host": (
        '<img alt="" src="http://example.org/a.png">',
        "asks another host: http://example.org/a.png",
    ),
    "lazy image": (
        '<p style="height: 9000px"></p>'
        '<img alt="" loading="lazy" src="http://example.org/a.png">',
        "asks another host: http://example.org/a.png",
    ),
    "missing file": ('<img alt="" src="a.png">', "console: Failed to load"),
    "console": ("<script>console.error('oh')</script>", "console: oh"),
    "exception": ("<script>throw Error('oh')</script>", "error: oh"),
    "image without a name": (
        '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
        "axe, light: image-alt",
    ),
    "pale in the dark": (
        "<style>@media (prefers-color-scheme: dark) { p { color: #bbb } }</style>"
        "<p>Text</p>",
        "axe, dark: color-contrast",
    ),
    "too wide": ('<p style="width: 800px">Text</p>', "390 px: html is 8"),
    "out of reach": (
        '<input type="checkbox" id="x" aria-label="x" style="display: none">'
        '<label for="x">Open</label>',
        "1280 px: Tab does not reach <input#x>",
    ),
    "focus unseen": (
        '<a href="#x" style="outline: none">Link</a>',
        '1280 px: no visible focus on <a.> "Link"',
    ),
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    (tmp_path / "index.html").write_text("home", encoding="utf-8")
    with serve(tmp_path) as address:
        yield tmp_path, address


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_is_noticed(
    browser: Browser, node_modules: Path, site: tuple[Path, str], kind: str
) -> None:
    body, fault = FAULTS[kind]
    folder, address = site
    (folder / "page.html").write_text(PAGE.format(body=body), encoding="utf-8")
    axe = (node_modules / "axe-core/axe.min.js").read_text(encoding="utf-8")
    seen = Checker(browser, folder, address, axe).visit("page.html")
    if fault is None:
        assert not seen.problems
    else:
        assert any(problem.startswith(fault) for problem in seen.problems)


def test_weight_counts_text_compressed_and_pictures_as_they_are(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "a.css").write_bytes(b"a" * 10_000)
    (tmp_path / "a.png").write_bytes(b"a" * 10_000)
    checker = Checker(browser, tmp_path, "", "")
    assert checker.weight(["a.css"]) < 100
    assert checker.weight(["a.png"]) == 10_000
