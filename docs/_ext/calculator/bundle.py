"""The calculator as one script: formulas, tables, and what reads them.

One classic script, not modules: a page opened from a file may not load modules.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfdoc import preset, preset_names
from tfdoc.cost import formulas, tables
from tfdoc.cost.gpus import GPUS
from tfdoc.cost.memory import FOLDER

from . import tracing

HERE = Path(__file__).parent
WRITTEN = (
    "reading.js", "models.js", "config.js", "ledger.js", "budgets.js", "estimates.js",
)  # fmt: skip
PAGE = ("results.js", "page.js")


def literal(value: Any) -> str:
    """Return a value of JSON as JavaScript, its whole numbers as BigInt."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)}:{literal(item)}" for key, item in value.items()]
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value}n"
    return json.dumps(value)


def table_script() -> str:
    """Return the tables that Python reads, as JavaScript."""
    known = {
        "models": _read(Path(tables.__file__).with_name("models.json")),
        "memory": {file.stem: _read(file) for file in sorted(FOLDER.glob("*.json"))},
        "presets": {name: preset(name) for name in preset_names()},
        "gpus": {name: gpu.memory for name, gpu in GPUS.items()},
    }
    return (
        "// Made of the tables in tfdoc/cost and of tfdoc/presets: not to be edited.\n"
        f"const tables = {literal(known)};\n"
    )


def _read(file: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in table.items() if key != "about"}


def ledger_script() -> str:
    """Return all that counts, without the page."""
    made = [tracing.script(tracing.traced(formulas)), table_script()]
    written = [(HERE / name).read_text(encoding="utf-8") for name in WRITTEN]
    return "\n".join([*made, *written])


def page_script() -> str:
    """Return the script of the page."""
    written = [(HERE / name).read_text(encoding="utf-8") for name in PAGE]
    return "\n".join([ledger_script(), *written])
