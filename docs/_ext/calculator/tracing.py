"""Formulas written out: Python functions of integers, called with symbols.

A function that uses ``+ - * //``, ``min`` and ``max`` alone returns an expression when its
arguments are symbols. From the expression come the LaTeX of the page and the JavaScript
of the calculator, so neither can differ from what Python counts.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from string import ascii_lowercase
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import sympy  # type: ignore[import-untyped]

# BigInt divides towards zero, Python downwards; Math.min takes no BigInt.
HELPERS = """\
const integers = {
  floor: (a, b) => (a - (((a % b) + b) % b)) / b,
  min: (...all) => all.reduce((a, b) => (b < a ? b : a)),
  max: (...all) => all.reduce((a, b) => (b > a ? b : a)),
};
const formulas = (({ floor, min, max }) => ({
"""


WHOLE = {"integer": True, "nonnegative": True}


class Formula(NamedTuple):
    """A function written out."""

    name: str
    meaning: str
    arguments: tuple[sympy.Symbol, ...]
    value: sympy.Expr


def traced(module: ModuleType) -> list[Formula]:
    """Return every public function of a module written out, in the order they stand."""
    functions = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    # The functions call each other: all of them get the globals that take symbols.
    world: dict[str, Any] = {**vars(module), "min": sympy.Min, "max": sympy.Max}
    world |= {
        name: FunctionType(f.__code__, world, name, f.__defaults__)
        for name, f in functions.items()
    }
    return [
        _written_out(world[name], inspect.getdoc(f) or "")
        for name, f in functions.items()
        if not name.startswith("_")
    ]


def _written_out(function: Callable[..., Any], text: str) -> Formula:
    # sympy sorts by name: a letter in front keeps the order of the arguments.
    names = zip(ascii_lowercase, inspect.signature(function).parameters, strict=False)
    symbols = [sympy.Symbol(f"{letter}_{name}", **WHOLE) for letter, name in names]
    meaning = " ".join(text.partition("\n\n")[0].split())
    value = sympy.sympify(function(*symbols))
    return Formula(function.__name__, meaning, tuple(symbols), value)


def word(symbol: sympy.Symbol) -> str:
    """Return the name of an argument."""
    return str(symbol).partition("_")[2]


def whole(value: sympy.Expr) -> str:  # noqa: PLR0911  # one for each kind
    """Return an expression in BigInt, or refuse it."""
    if value.is_Integer:
        return f"{value}n"
    if value.is_Symbol:
        return word(value)
    if value.is_Add:
        terms = map(whole, value.as_ordered_terms())
        return " + ".join(terms).replace("+ -", "- ")
    if value.is_Mul:
        if value.could_extract_minus_sign():
            return f"-{whole(-value)}"
        return " * ".join(map(_factor, value.as_ordered_factors()))
    if value.is_Pow and value.exp.is_Integer and value.exp > 0:
        return " * ".join([_factor(value.base)] * int(value.exp))
    if isinstance(value, sympy.floor):
        top, bottom = sympy.fraction(sympy.together(value.args[0]))
        return f"floor({whole(top)}, {whole(bottom)})"
    if isinstance(value, sympy.Min | sympy.Max):
        arguments = sorted(map(whole, value.args))
        return f"{type(value).__name__.lower()}({', '.join(arguments)})"
    raise ValueError(f"{value} is no whole number")


def _factor(value: sympy.Expr) -> str:
    return f"({whole(value)})" if value.is_Add else whole(value)


def script(formulas: Sequence[Formula]) -> str:
    """Return the JavaScript: an object of functions of BigInt.

    Raises
    ------
    ValueError
        If a formula leaves the whole numbers.
    """
    lines = [
        "// Made of tfdoc/cost/formulas.py by docs/_ext/calculator: not to be edited."
    ]
    lines.append(HELPERS.rstrip())
    for name, meaning, arguments, value in formulas:
        lines += [
            f"  // {meaning}",
            f"  {name}: ({', '.join(map(word, arguments))}) =>",
            f"    {whole(value)},",
        ]
    names = {name: list(map(word, symbols)) for name, _, symbols, _ in formulas}
    lines += ["}))(integers);", f"const signatures = {json.dumps(names)};", ""]
    return "\n".join(lines)


def latex(formula: Formula) -> str:
    """Return the formula in LaTeX, with its arguments as words."""
    value = formula.value.replace(
        lambda e: isinstance(e, sympy.floor) and e.args[0].could_extract_minus_sign(),
        lambda e: -sympy.ceiling(-e.args[0]),
    )
    words = {symbol: _written(word(symbol)) for symbol in formula.arguments}
    return str(sympy.latex(value, symbol_names=words, mul_symbol=r"dot"))


def _written(name: str) -> str:
    if "_" in name:  # which would be a subscript
        return rf"\text{{{name.replace('_', ' ')}}}"
    return rf"\mathrm{{{name}}}"
