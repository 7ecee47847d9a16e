"""The table of model types: its inheritance, its expressions, its conditions.

``models.json`` says how each model type lays out its parameters; the calculator of the
site reads the same file. Nothing here knows a model type by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["COMMON", "KINDS", "TYPES", "evaluate", "holds", "layers_where", "model"]

Values = dict[str, Any]

_TABLE = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
TYPES: tuple[str, ...] = tuple(_TABLE["types"])
COMMON: frozenset[str] = frozenset(_TABLE["neutral"])
KINDS: dict[str, str] = {
    symbol: kind for kind, symbols in _TABLE["kinds"].items() for symbol in symbols
}
_MERGED = ("keys", "let", "aliases", "aliased", "heads", "prefixes", "only", "ties")


@cache
def model(model_type: str) -> dict[str, Any]:
    """Return a type with all it inherits; its rows are spelt out, once a process."""
    own: dict[str, Any] = _TABLE["types"][model_type]
    base = model(own["like"]) if "like" in own else {}
    full: dict[str, Any] = base | own
    for field in _MERGED:
        merged = base.get(field, {}) | own.get(field, {})
        if field == "let":  # own definitions first: those inherited may rest on them
            merged = own.get(field, {}) | base.get(field, {}) | own.get(field, {})
        full[field] = {key: value for key, value in merged.items() if value is not None}
    full["listed"] = base.get("listed", COMMON) | set(own.get("neutral", ()))
    full["neutral"] = full["listed"] - full["keys"].keys() - full["only"].keys()
    if "stacks" in own:
        full["stacks"] = [
            stack | {"rows": [r for g in stack["rows"] for r in _TABLE["groups"][g]]}
            for stack in own["stacks"]
        ]
    full["head rows"] = {
        head: [row for group in groups for row in _TABLE["heads"][group]]
        for head, groups in full["heads"].items()
    }
    return full


@cache
def _terms(expression: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(term.split("*")) for term in expression.split("+"))


def evaluate(expression: Any, values: Values) -> int:
    """Return the value of a sum of products, or of the first one that holds.

    Examples
    --------
    >>> evaluate("H*d+2*G*d", {"H": 32, "G": 8, "d": 128})
    6144
    >>> evaluate([["new", "G"], ["", "1"]], {"new": False, "G": 8})
    1
    """
    if not isinstance(expression, str):
        return evaluate(
            next(then for condition, then in expression if holds(condition, values)),
            values,
        )
    total = 0
    for term in _terms(expression):
        product = 1
        for factor in term:
            whole, _, part = factor.partition("/")
            part = part.lstrip("/") or "1"
            product *= int(whole) if whole.lstrip("-").isdigit() else values[whole]
            product //= int(part) if part.isdigit() else values[part]
        total += product
    return total


def holds(condition: str, values: Values) -> bool:
    """Say whether a condition holds; the empty one always does.

    Examples
    --------
    >>> holds("parallel&ln=2", {"parallel": True, "ln": 2}), holds("!tied", {"tied": 1})
    (True, False)
    """
    for part in condition.split("&") if condition else ():
        name, equals, other = part.lstrip("!").partition("=")
        value = bool(values[name])
        if equals:
            value = values[name] == evaluate(other, values)
        if value is part.startswith("!"):
            return False
    return True


def layers_where(rules: list[list[str]], values: Values, number: int) -> list[int]:
    """Return the layers that the first rule which applies picks.

    A rule is a condition, a verb and the symbols it works on.

    Examples
    --------
    >>> layers_where([["W", "not every", "pattern"]], {"W": 512, "pattern": 3}, 6)
    [0, 1, 3, 4]
    """
    rule = next((r for r in rules if holds(r[0], values)), ["", "none"])
    at = [values[name] for name in rule[2:]]
    picks = _VERBS[rule[1]]
    return [i for i in range(number) if picks(i, *at)]


_VERBS: dict[str, Callable[..., bool]] = {
    "all": lambda _: True,
    "none": lambda _: False,
    "from": lambda i, first: i >= first,
    "every": lambda i, step: (i + 1) % step == 0,
    "not every": lambda i, step: (i + 1) % step != 0,
    "every but": lambda i, step, out: (i + 1) % step == 0 and i not in (out or ()),
    "even before": lambda i, end: i % 2 == 0 and i < end,
    "listed": lambda i, layers: i in layers,
    "zero": lambda i, marks: not marks[i],
    "nonzero": lambda i, marks: bool(marks[i]),
    "named": lambda i, kinds: kinds[i] != "full_attention",
}
