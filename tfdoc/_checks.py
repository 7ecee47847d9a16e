"""Checks of numbers, written once: each error names argument, value and fix."""

from __future__ import annotations

import math
import numbers
from typing import Any


def positive_int(name: str, value: Any) -> int:
    """Return `value`, a whole number above 0; bools and floats are refused."""
    return _whole(name, value, "a positive integer", least=1)


def count(name: str, value: Any) -> int:
    """Return `value`, a whole number from 0 on; bools and floats are refused."""
    return _whole(name, value, "an integer", least=0)


def flag(name: str, value: Any) -> bool:
    """Return `value`, True or False; what merely counts as true is refused."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} must be True or False, got {value!r} ({type(value).__name__})"
        )
    return value


def _whole(name: str, value: Any, what: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"{name} must be {what}, got {value!r} "
            f"({type(value).__name__}); round or convert it with int()"
        )
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def number(name: str, value: Any) -> float:
    """Return `value` as a float that is neither NaN nor infinite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} must be a number, got {value!r} ({type(value).__name__})"
        )
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return `value`, a finite number above 0."""
    if number(name, value) <= 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return float(value)


def probability(name: str, value: Any) -> float:
    """Return `value`, a number in [0, 1)."""
    if not 0 <= number(name, value) < 1:
        raise ValueError(
            f"{name} must be at least 0 and below 1, got {value!r}; "
            "0.1 drops a tenth of the numbers"
        )
    return float(value)


def divides(name: str, part: int, whole_name: str, whole: int) -> None:
    """Refuse a `part` that does not divide the `whole`; name the nearest that do."""
    if whole % part == 0:
        return
    small = [n for n in range(1, math.isqrt(whole) + 1) if whole % n == 0]
    divisors = sorted({*small, *(whole // n for n in small)})
    near = [n for n in divisors if n < part][-1:] + [n for n in divisors if n > part][
        :1
    ]
    fits = "that does is" if len(near) == 1 else "that do are"
    raise ValueError(
        f"{name}={part} does not divide {whole_name}={whole}; "
        f"the nearest {fits} {' and '.join(map(str, near))}"
    )


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return `value`, one of the words that are allowed."""
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
