"""Links to the documentation of other projects, without a network at build time.

Each ``_inventories/<project>.txt`` lists the names that pages link to. Its first line
is the project's site; a line at the margin gives a role and where such names are
(``$`` stands for the name); each indented line adds a name, and its own place if that
differs. They become the inventories that intersphinx reads.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError

_HEAD = (
    "# Sphinx inventory version 2\n"
    "# Project: {project}\n"
    "# Version: \n"
    "# The remainder of this file is compressed using zlib.\n"
)


def parse(listing: Path) -> tuple[str, list[str]]:
    """Return the site of `listing` and the lines of its inventory.

    Parameters
    ----------
    listing : pathlib.Path
        A text file as described above.

    Returns
    -------
    site : str
        Where the project's documentation is.
    entries : list of str
        ``name role 1 location -`` for each name.

    Raises
    ------
    sphinx.errors.ConfigError
        If a name comes before any role.
    """
    site, *lines = listing.read_text(encoding="utf-8").splitlines()
    role = template = ""
    entries = []
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        if not line.startswith(" "):
            role, template = line.split()
            continue
        if not role:
            msg = (
                f"{listing.name}, line {number}: {line.strip()!r} has no role above it"
            )
            raise ConfigError(msg)
        name, place = [*line.split(), template][:2]
        entries.append(f"{name} {role} 1 {place.replace('$', name)} -")
    return site, entries


def write(project: str, entries: list[str], target: Path) -> None:
    """Write `entries` as an inventory of Sphinx's, version 2."""
    head = _HEAD.format(project=project).encode()
    target.write_bytes(head + zlib.compress("\n".join(entries).encode() + b"\n"))


def configure(app: Sphinx, config: Config) -> None:
    """Make an inventory of every listing and tell intersphinx where it lies."""
    folder = Path(app.doctreedir, "inventories")
    folder.mkdir(parents=True, exist_ok=True)
    mapping = dict(config.intersphinx_mapping)
    for listing in sorted(Path(app.srcdir, "_inventories").glob("*.txt")):
        site, entries = parse(listing)
        target = folder / f"{listing.stem}.inv"
        write(listing.stem, entries, target)
        mapping[listing.stem] = (site, str(target))
    config.intersphinx_mapping = mapping


def setup(app: Sphinx) -> None:
    """Connect to Sphinx, before intersphinx reads its setting."""
    app.setup_extension("sphinx.ext.intersphinx")
    app.connect("config-inited", configure, priority=100)
