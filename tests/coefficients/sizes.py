"""Sizes as polynomials: which product of a model's numbers is this many bytes?

Every number of the configs that are rehearsed here is another product of primes, so the
bytes of a storage tell the term they come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import product

Monomial = tuple[str, ...]
Poly = Counter[Monomial]

ONE: Poly = Counter({(): 1})
# What a storage has a row for; "pairs" are batch * seq * seq.
PREFIXES = (
    "tokens", "", "seq", "batch", "pairs", "seq*seq", "rank", "tokens*rank",
    "tokens+batch", "pairs+tokens",
)  # fmt: skip
SMALL = 2**15  # bytes: tables of a fixed length may stay a number
FACTORS = sorted({a * b for a in (1, 2, 3, 4, 6, 8) for b in (1, 2, 4, 8)})


def poly(text: str) -> Poly:
    """Return the polynomial of 'H*d+2*G*d'."""
    found: Poly = Counter()
    for term in text.split("+") if text else ["1"]:
        factors = term.split("*")
        names = tuple(sorted(f for f in factors if not f.isdigit()))
        number = 1
        for factor in factors:
            number *= int(factor) if factor.isdigit() else 1
        found[names] += number
    return found


def times(a: Poly, b: Poly) -> Poly:
    """Return the product of two polynomials."""
    out: Poly = Counter()
    for (m, x), (n, y) in product(a.items(), b.items()):
        out[tuple(sorted(m + n))] += x * y
    return out


def value(p: Poly, numbers: dict[str, int]) -> int:
    """Return the number that a polynomial is."""
    total = 0
    for names, coefficient in p.items():
        term = coefficient
        for name in names:
            term *= numbers[name]
        total += term
    return total


def text(p: Poly) -> str:
    """Return the polynomial in the language of ``models.json``."""
    terms = [
        "*".join([*([str(c)] if c != 1 or not names else []), *names])
        for names, c in sorted(p.items())
        if c
    ]
    return "+".join(terms) or "0"


class Sizes:
    """From bytes to the polynomial they are."""

    def __init__(self, numbers: dict[str, int], widths: Iterable[str]) -> None:
        self.numbers = numbers
        self.known: dict[int, Poly] = {0: Counter()}
        plain = sorted(
            dict.fromkeys(widths), key=lambda w: (w.count("+"), w.count("*"), len(w))
        )
        for width, factor, prefix in product(["", *plain], FACTORS, PREFIXES):
            found = times(times(poly(str(factor)), poly(prefix)), poly(width))
            self.known.setdefault(value(found, numbers), found)

    def add(self, found: Poly) -> None:
        """Know one more size."""
        for width in (1, 2, 4):
            term: Poly = times(found, poly(str(width)))
            self.known.setdefault(value(term, self.numbers), term)

    def of(self, nbytes: int) -> Poly:
        """Return the polynomial, or raise."""
        if nbytes in self.known:
            return self.known[nbytes]
        if nbytes <= SMALL:
            return Counter({(): nbytes})
        raise LookupError(f"{nbytes} bytes are no known size; add the width they have")
