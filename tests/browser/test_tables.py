"""A table of class "sortable" is sorted by its heads, with the mouse and the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .checker import DESKTOP, PHONE, Checker, serve
from .conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, ViewportSize

ROWS = [
    ("llama-13b", "13,016.25", "yes", "late"),
    ("Llama-7B", "13,016.5", "no", ""),
    ("bert", "-0.5", "", "early"),
    ("bloom", "13,016.5", "yes", ""),
]
CELLS = "".join(
    f"<tr><th>{name}</th><td>{size}</td><td>{tied}</td>"
    f"<td data-sort='{1 if when == 'early' else 2 if when else ''}'>{when}</td></tr>"
    for name, size, tied, when in ROWS
)
PAGE = f"""<!doctype html><html lang="en"><title>Tables</title>
<script src="tfdoc.js"></script>
<table class="sortable"><thead><tr><th>model</th><th>size</th><th>tied</th>
<th>when</th><td></td></tr></thead><tbody>{CELLS}</tbody></table>
<table id="plain"><thead><tr><th>a</th></tr></thead><tbody></tbody></table>"""
KEY_PARAMETERS = "learn/7_cost/02_key_parameters.html"


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    script = ROOT / "docs/_static/tfdoc.js"
    (tmp_path / "tfdoc.js").write_text(script.read_text(encoding="utf-8"))
    (tmp_path / "index.html").write_text(PAGE, encoding="utf-8")
    with serve(tmp_path) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        yield page


def names(table: Page | Locator) -> list[str]:
    """The first cell of every row, from the top."""
    return table.locator("tbody tr > :first-child").all_inner_texts()


# The order of the rows of ROWS after one press, and after a second.
ORDERS = {
    "model": ("2 3 1 0", "0 1 3 2"),  # 7 before 13, in any case
    "size": ("2 0 1 3", "1 3 0 2"),  # by value; equal ones stay as they were
    "tied": ("1 0 3 2", "0 3 1 2"),  # the empty one last, both times
    "when": ("2 0 1 3", "0 2 1 3"),  # by data-sort
}


@pytest.mark.parametrize("head", ORDERS)
def test_a_head_sorts_and_turns_the_order_round(opened: Page, head: str) -> None:
    button = opened.get_by_role("button", name=head)
    cell = opened.get_by_role("columnheader", name=head)
    for wanted, order in zip(("ascending", "descending"), ORDERS[head], strict=True):
        button.click()
        assert names(opened) == [ROWS[int(row)][0] for row in order.split()]
        assert cell.get_attribute("aria-sort") == wanted


def test_one_column_at_a_time_says_that_it_is_sorted(opened: Page) -> None:
    assert opened.locator("[aria-sort]").count() == 0
    for head in ("model", "size"):
        opened.get_by_role("button", name=head).press("Enter")
        assert opened.locator("[aria-sort]").all_inner_texts() == [head]


def test_only_heads_with_a_name_of_sortable_tables_are_buttons(opened: Page) -> None:
    assert opened.get_by_role("button").all_inner_texts() == [
        "model", "size", "tied", "when",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_table_of_models_sorts_with_its_heads_in_sight(
    checker: Checker, size: ViewportSize
) -> None:
    with checker.open(KEY_PARAMETERS) as (page, seen):
        page.set_viewport_size(size)
        table = page.locator("table.sortable")
        box = page.locator(".output_subarea:has(table.sortable)")
        first = names(table)
        assert len(first) > 100
        table.get_by_role("button", name="millions").click()
        assert names(table) == first
        table.get_by_role("button", name="millions").click()
        assert names(table)[0] == "deepseek-v3"
        box.evaluate("box => box.scrollTo(150, 900)")
        edges = box.bounding_box(), table.locator("th").first.bounding_box()
        assert edges[0] is not None
        assert edges[1] is not None
        assert abs(edges[0]["x"] - edges[1]["x"]) < 1
        assert abs(edges[0]["y"] - edges[1]["y"]) < 1
        assert box.evaluate("box => box.scrollTop > 100 && box.scrollLeft > 100")
        assert not seen.problems
