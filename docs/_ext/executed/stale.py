"""Which pages have to run again.

sphinx-gallery runs a script again when the script changes. What a page shows also
depends on ``tfdoc``, on the code here that prepares and draws, on the versions
installed and on the device. Each run leaves a record of all that beside its page.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from . import clock

LIBRARIES = (
    "matplotlib",
    "numpy",
    "pandas",
    "sphinx-gallery",
    "torch",
    "transformers",
)
_ENGINE = ("state.py", "figures.py", "gallery.py", "site.mplstyle")

Pairs = Iterable[tuple[Path, Path]]


def forget(app: Sphinx, pairs: Pairs) -> dict[Path, str]:
    """Remove what earlier builds made of scripts that are gone or now stale.

    Parameters
    ----------
    app : Sphinx
        Its ``executed_package`` is the folder of the package that pages import.
    pairs : iterable of (Path, Path)
        Each script with its copy among the documents.

    Returns
    -------
    dict of Path to str
        Each copy with the fingerprint of what it is about to be made of.
    """
    package = Path(app.srcdir, app.config.executed_package)
    keys = {copy: fingerprint(script, package) for script, copy in pairs}
    root = Path(app.srcdir, app.config.sphinx_gallery_conf["gallery_dirs"])
    for copy in root.glob("*/*.py"):
        if keys.get(copy) != _read(copy).get("key"):
            for made in (
                *copy.parent.glob(f"{copy.stem}.*"),
                *copy.parent.glob(f"images/**/sphx_glr_{copy.stem}_*"),
            ):
                made.unlink()
    sections = {copy.parent for copy in keys}
    for folder in root.glob("[0-9]*_*"):
        if folder not in sections:
            shutil.rmtree(folder)
    return keys


def remember(keys: dict[Path, str]) -> None:
    """Write the record of every page that just ran to its end."""
    for copy, key in keys.items():
        if copy.name in clock.costs and copy.with_name(f"{copy.name}.md5").exists():
            content = {"key": key, **clock.costs.pop(copy.name)._asdict()}
            record(copy).write_text(json.dumps(content), encoding="utf-8")


def cost(copy: Path) -> clock.Cost:
    """Return what the page took when it last ran; 0 seconds if it never did."""
    content = _read(copy)
    return clock.Cost(content.get("seconds", 0.0), content.get("memory"))


def fingerprint(script: Path, package: Path) -> str:
    """Hash all that the page made of `script` depends on."""
    here = Path(__file__).parent
    files = [script, *(here / name for name in _ENGINE)]
    if uses(script, package.name):
        files += sorted(package.rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.name} {content}\n".encode())
    digest.update(_surroundings().encode())
    return digest.hexdigest()


def uses(script: Path, package: str) -> bool:
    """Say whether `script` imports `package`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"), script.name)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return any(name.partition(".")[0] == package for name in names)


def _surroundings() -> str:
    device = os.environ.get("TFDOC_DEVICE", "cpu")
    return json.dumps([*map(_version, LIBRARIES), platform.python_version(), device])


@cache
def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # not every gallery needs every library
        return None


def record(copy: Path) -> Path:
    """Return where the record of a page lies, beside its copy."""
    return copy.with_name(f"{copy.stem}.run.json")


def _read(copy: Path) -> dict[str, Any]:
    path = record(copy)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
