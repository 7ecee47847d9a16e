"""What a built page is held to, seen through Chromium."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Route, ViewportSize

HERE = Path(__file__).parent
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Served compressed by every host; images and fonts are compressed already.
TEXT = {".html", ".css", ".js", ".svg", ".json", ".txt", ".xml"}


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder under the path that the site will have, without a log."""

    def __init__(self, *args: Any, root: str, **kwargs: Any) -> None:
        self.root = root
        super().__init__(*args, **kwargs)

    def translate_path(self, path: str) -> str:
        """Find the file below `root`; there is nothing beside it."""
        inside = path.startswith(self.root)
        return super().translate_path(path.removeprefix(self.root) if inside else "//")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve `folder` on this machine only, and give the address of its home page.

    The path is that of the published site, which the pages name in their canonical
    address, so that addresses from the root work as they will there.
    """
    home = (folder / "index.html").read_text(encoding="utf-8")
    published = re.search('rel="canonical" href="([^"]*/)', home)
    root = urlsplit(published[1]).path if published else "/"
    handler = partial(_Handler, root=root, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{root}"
        server.shutdown()


@dataclass
class Visit:
    """One page as a reader meets it for the first time.

    `requests` are the site's own files that were fetched, in order, the first
    `eager` of them before the reader scrolled; `problems` are sentences, one for
    each fault found.
    """

    name: str
    requests: list[str] = field(default_factory=list)
    eager: int = 0
    problems: list[str] = field(default_factory=list)


class Checker:
    """Visits pages of the site in `folder`, served at `address`."""

    def __init__(self, browser: Browser, folder: Path, address: str, axe: str) -> None:
        self.browser, self.folder, self.address = browser, folder, address
        self.scripts = axe, (HERE / "probes.js").read_text(encoding="utf-8")

    def visit(self, name: str) -> Visit:
        """Open page `name` with nothing cached and hold it to every rule."""
        with self.open(name) as (page, seen):
            page.evaluate("probes.loadEverything()")
            self._accessible(page, seen)
            for size in (DESKTOP, PHONE):
                self._usable(page, size, seen)
        return seen

    @contextmanager
    def open(self, name: str, scheme: Scheme = "light") -> Iterator[tuple[Page, Visit]]:
        """Load a page, noting what it asks for and what it complains of."""
        seen = Visit(name)
        with self.browser.new_context(
            reduced_motion="reduce", color_scheme=scheme
        ) as context:
            page = context.new_page()
            page.set_viewport_size(DESKTOP)
            page.route("**/*", lambda route: self._answer(route, seen))
            page.on("console", lambda message: _complain(message, seen))
            page.on("pageerror", lambda error: seen.problems.append(f"error: {error}"))
            page.goto(self.address + name, wait_until="load")
            seen.eager = len(seen.requests)
            for script in self.scripts:
                page.evaluate(script)
            yield page, seen

    def _answer(self, route: Route, seen: Visit) -> None:
        """Let a request through to the site itself, and to nowhere else."""
        url = route.request.url
        if not url.startswith(self.address):
            seen.problems.append(f"asks another host: {url}")
            route.abort()
            return
        seen.requests.append(unquote(urlsplit(url.removeprefix(self.address)).path))
        route.continue_()

    def _accessible(self, page: Page, seen: Visit) -> None:
        """Run axe-core in light and in dark, as the system's setting chooses them."""
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            faults = page.evaluate("probes.axeFaults()")
            seen.problems += [f"axe, {scheme}: {fault}" for fault in faults]

    def _usable(self, page: Page, size: ViewportSize, seen: Visit) -> None:
        """No sideways scrolling, and the Tab key gets everywhere."""
        page.set_viewport_size(size)
        for _ in range(page.evaluate("probes.watch()") + 2):
            page.keyboard.press("Tab")
        faults = page.evaluate("[...probes.sideways(), ...probes.unreached()]")
        seen.problems += [f"{size['width']} px: {fault}" for fault in faults]

    def weight(self, paths: Iterable[str]) -> int:
        """Bytes that the files at `paths` take on the way to a reader."""
        return sum(map(self._sent, paths))

    def _sent(self, path: str) -> int:
        file = self.folder / path
        content = file.read_bytes()
        compressed = file.suffix in TEXT
        return len(gzip.compress(content, 9, mtime=0) if compressed else content)


def _complain(message: ConsoleMessage, seen: Visit) -> None:
    if message.type in {"error", "warning"}:
        seen.problems.append(f"console: {message.text}")
