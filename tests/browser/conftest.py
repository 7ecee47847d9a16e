"""What the browser checks need: a built site, Chromium, Node and two npm packages.

Where one is missing they skip and say which; with `TFDOC_REQUIRE_BROWSER=1`, as in
continuous integration, they fail instead. `nox -s a11y` provides all of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from .checker import CHROMIUM_FLAGS, Checker, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
NODE_MODULES = ROOT / "docs/_build/npm/node_modules"
SITE = Path(os.environ.get("TFDOC_SITE", ROOT / "docs/_build/html"))


def missing(what: str) -> NoReturn:
    """Skip for want of `what`, or fail where it was promised."""
    if os.environ.get("TFDOC_REQUIRE_BROWSER") == "1":
        pytest.fail(f"TFDOC_REQUIRE_BROWSER is set, but {what}", pytrace=False)
    pytest.skip(what)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test one run for each page of the built site."""
    if "page" in metafunc.fixturenames:
        names = sorted(
            file.relative_to(SITE).as_posix() for file in SITE.rglob("*.html")
        )
        metafunc.parametrize("page", names or ["no site"])


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / "index.html").exists():
        missing(f"there is no built site in {SITE}: build it or set TFDOC_SITE")
    return SITE


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder with axe-core and html-validate."""
    place = Path(os.environ.get("TFDOC_NODE_MODULES", NODE_MODULES))
    if not (place / "axe-core").is_dir():
        missing(f"there is no axe-core in {place}: run nox -s a11y, with npm on PATH")
    return place


@pytest.fixture(scope="session")
def node(node_modules: Path) -> list[str]:
    """The command that starts Node, with where its packages lie last."""
    program = shutil.which("node")
    if program is None:
        missing("there is no `node` on PATH")
    return [program, str(Path(__file__).with_name("validate.mjs")), str(node_modules)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the whole run."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("there is no `chromium` on PATH")
    try:
        sync_api = import_module("playwright.sync_api")
    except ModuleNotFoundError:
        missing("the Python package playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program, args=CHROMIUM_FLAGS
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def checker(browser: Browser, site: Path, node_modules: Path) -> Iterator[Checker]:
    """The checker of the built site."""
    axe = (node_modules / "axe-core/axe.min.js").read_text(encoding="utf-8")
    with serve(site) as address:
        yield Checker(browser, site, address, axe)
