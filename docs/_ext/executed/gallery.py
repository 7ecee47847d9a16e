"""sphinx-gallery, set up so that a page that does not run cannot be published."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx_gallery.gen_gallery import (  # type: ignore[import-untyped]
    generate_gallery_rst,
)

from . import clock, stale, state

OUTPUT = "learn"


def settings(**changes: Any) -> dict[str, Any]:
    """Return ``sphinx_gallery_conf`` for this site, with `changes` on top.

    Examples
    --------
    >>> settings(examples_dirs="pages")["gallery_dirs"]
    'learn'
    """
    return {
        "examples_dirs": "../gallery",
        "gallery_dirs": OUTPUT,
        "filename_pattern": r"\.py$",
        "subsection_order": "executed.gallery.by_name",
        "within_subsection_order": "FileNameSortKey",
        "minigallery_sort_order": "executed.gallery.by_name",
        "backreferences_dir": f"{OUTPUT}/backreferences",
        "doc_module": ("tfdoc",),
        "reset_modules": ("executed.state.reset",),
        "reset_modules_order": "both",
        "image_scrapers": ("executed.figures.scrape",),
        "capture_repr": ("_repr_html_",),
        "remove_config_comments": True,
        "download_all_examples": False,
        "show_signature": False,
        "write_computation_times": False,
        "min_reported_time": float("inf"),
        "css": (),
        "log_level": {"backreference_missing": "info"},
        **changes,
    }


def by_name(path: str) -> str:
    """Sort sections and pages by the number that their name begins with."""
    return path


def scripts(site: Sphinx | BuildEnvironment) -> Iterator[tuple[Path, Path]]:
    """Yield every script of the gallery with its copy among the documents."""
    conf = site.config.sphinx_gallery_conf
    source = Path(site.srcdir, conf["examples_dirs"]).resolve()
    for script in sorted(source.glob("*/*.py")):
        yield script, Path(site.srcdir, OUTPUT, script.relative_to(source))


def docname(site: Sphinx | BuildEnvironment, copy: Path) -> str:
    """Return the name of the document made of a script's `copy`."""
    return copy.relative_to(site.srcdir).with_suffix("").as_posix()


def asserts(code: ast.AST) -> bool:
    """Say whether `code` contains an assertion, its own or one of ``testing``'s."""
    for node in ast.walk(code):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called.startswith("assert_"):
                return True
    return False


def generate(app: Sphinx) -> None:
    """Run the scripts that are new or stale; a page that ends the build is named."""
    for script, _ in scripts(app):
        if not asserts(ast.parse(script.read_text(encoding="utf-8"), script.name)):
            msg = f"{script.name} asserts nothing: a page has to check what it claims."
            raise ExtensionError(msg)
    keys = stale.forget(app, scripts(app))
    try:
        generate_gallery_rst(app)
    except SystemExit as end:
        msg = (
            f"{clock.running()} called sys.exit({end.code!r}): a page runs to its end."
        )
        raise ExtensionError(msg) from end
    finally:
        if page := clock.running():  # it ended the build from within
            state.reset(None, page, "after")
        stale.remember(keys)


def check(app: Sphinx, exception: Exception | None) -> None:
    """Insist that every script has its page and ran."""
    if exception is not None or app.builder.format != "html":
        return
    for script, copy in scripts(app):
        page = Path(app.outdir, app.builder.get_target_uri(docname(app, copy)))
        if not page.exists():
            msg = f"{script.name} has no page: {page.name} was not written."
            raise ExtensionError(msg)
        if stale.cost(copy).seconds <= 0:
            msg = f"{script.name} has a page but did not run."
            raise ExtensionError(msg)


def prune(app: Sphinx, exception: Exception | None) -> None:
    """Remove what earlier builds wrote of pages that are no longer there."""
    if exception is not None or app.builder.format != "html":
        return
    out, env = Path(app.outdir), app.env
    kept = {out / app.builder.get_target_uri(page) for page in env.found_docs}
    kept |= {out / "_images" / name for _, name in env.images.values()}
    kept |= {out / "_downloads" / name for _, name in env.dlfiles.values()}
    for folder, pattern in (
        (OUTPUT, "*.html"),
        ("_images", "*.svg"),
        ("_downloads", "*.*"),
    ):
        for file in Path(out, folder).rglob(pattern):
            if file not in kept:
                file.unlink()


def setup(app: Sphinx) -> None:
    """Connect to Sphinx; `generate` takes the place of sphinx-gallery's handler."""
    app.add_config_value("executed_package", "../tfdoc", "env", str)
    app.setup_extension("sphinx_gallery.gen_gallery")
    handlers = app.events.listeners["builder-inited"]
    handlers[:] = [h for h in handlers if h.handler is not generate_gallery_rst]
    app.connect("builder-inited", generate)
    app.connect("build-finished", check, priority=900)
    app.connect("build-finished", prune, priority=900)
