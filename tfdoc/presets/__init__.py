"""Published configs by name, a JSON file a family; read without torch.

Each holds the numbers of its model that change a size, as its publisher gives them in
``config.json``.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["preset", "preset_names"]


@cache
def _published() -> dict[str, dict[str, Any]]:
    files = sorted(Path(__file__).parent.glob("*.json"))
    families = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {name: config for family in families for name, config in family.items()}


def preset_names() -> tuple[str, ...]:
    """Return the names of the published models whose configs are here, by family.

    Examples
    --------
    >>> from tfdoc import preset_names
    >>> [name for name in preset_names() if name.startswith("mixtral")]
    ['mixtral-8x7b', 'mixtral-8x22b']
    """
    return tuple(_published())


def preset(name: str) -> dict[str, Any]:
    """Return what decides sizes in a published config, by Hugging Face's names.

    Parameters
    ----------
    name : str
        One of :func:`tfdoc.preset_names`, in any case.

    Raises
    ------
    TypeError, KeyError
        If `name` is not a string, or no preset; the error names the nearest.

    Examples
    --------
    >>> from tfdoc import preset
    >>> preset("llama-3-8b")["num_key_value_heads"]
    8
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    known = _published()
    if name.lower() not in known:
        from difflib import get_close_matches  # noqa: PLC0415  # for errors only

        found = get_close_matches(name.lower(), known, 3, 0.5)
        hint = f"did you mean {', '.join(found)}?" if found else "see preset_names()"
        raise KeyError(f"name={name!r} is no preset; {hint}")
    return json.loads(json.dumps(known[name.lower()]))  # type: ignore[no-any-return]
