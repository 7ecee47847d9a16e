"""Accelerators by name: memory, bandwidth and operations, as their makers state them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

from tfdoc._checks import positive_int
from tfdoc.cost.configs import near

__all__ = ["Accelerator", "accelerator"]

LARGEST = 2**50  # bytes
UNITS = {f"{p}b": 1000**n for n, p in enumerate(["", *"kmgt"])}
UNITS |= {f"{p}ib": 1024**n for n, p in enumerate("kmgt", 1)}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What one accelerator has; :func:`tfdoc.accelerator` finds it by name.

    Attributes
    ----------
    name : str
        As ``h100-80gb``.
    memory : int
        Bytes, the total that the maker's own tool reports: more than a program gets.
    bandwidth : float
        Bytes a second between memory and chip.
    bf16, fp8 : float
        Floating point operations a second, the peak of dense matrix products with sums in
        float32; `bf16` is that of fp16 where there is no bfloat16, `fp8` None where there
        is no such product.
    unverified : tuple of str
        Figures that were not found again in a second source.

    Examples
    --------
    >>> from tfdoc import accelerator
    >>> accelerator("RTX-4090").memory // 2**20, accelerator("t4").fp8
    (24564, None)
    """

    name: str
    memory: int
    bandwidth: float
    bf16: float
    fp8: float | None
    unverified: tuple[str, ...]


def _table() -> Mapping[str, Accelerator]:
    """Return the accelerators of gpus.json, which has MiB, GB/s and TFLOP/s."""
    text = Path(__file__).with_name("gpus.json").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            name: Accelerator(
                name=name,
                memory=row["memory_mib"] * 2**20,
                bandwidth=row["bandwidth"] * 1e9,
                bf16=row["bf16"] * 1e12,
                fp8=row["fp8"] * 1e12 if "fp8" in row else None,
                unverified=tuple(row.get("unverified", ())),
            )
            for name, row in json.loads(text).items()
        }
    )


GPUS = _table()


def accelerator(name: str) -> Accelerator:
    """Return an accelerator by its name.

    Parameters
    ----------
    name : str
        In any case, as ``h100-80gb`` or ``RTX 4090``.

    Raises
    ------
    TypeError, KeyError
        If `name` is not a string, or not known; the error lists what is.

    Examples
    --------
    >>> from tfdoc import accelerator
    >>> h100 = accelerator("h100-80gb")
    >>> round(h100.bf16 / h100.bandwidth)  # operations for each byte that is read
    295
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if (found := GPUS.get(_plain(name))) is None:
        raise KeyError(f"name={name!r} is no accelerator; known are {', '.join(GPUS)}")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def gpu_memory(gpu: str | int) -> int:
    """Return the bytes of an accelerator's memory.

    Parameters
    ----------
    gpu : str or int
        ``"24GiB"``, ``"24 GB"`` (10^9 bytes each), a name of `GPUS` in any case, or bytes.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, is not above 0 or is above 2^50 bytes; an unknown name's
        error says which is near.

    Examples
    --------
    >>> from tfdoc.cost.gpus import gpu_memory
    >>> gpu_memory("24GiB"), gpu_memory("24 GB"), gpu_memory("RTX-4090") // 2**20
    (25769803776, 24000000000, 24564)
    """
    nbytes = _bytes(gpu) if isinstance(gpu, str) else positive_int("gpu", gpu)
    if nbytes < 1:
        raise ValueError(f"gpu must be at least a byte, got {gpu!r}")
    if nbytes > LARGEST:
        raise ValueError(f"gpu={gpu!r} is more than {LARGEST} bytes; check the unit")
    return nbytes


def _bytes(text: str) -> int:
    word = text.strip().lower()
    if (name := _plain(word)) in GPUS:
        return GPUS[name].memory
    size = re.fullmatch(r"([-+]?\d{1,20}(?:\.\d{1,20})?)\s*([a-z]*)", word, re.ASCII)
    if size is None:
        longer = [known for known in GPUS if name and name in known]
        hint = f"; did you mean {' or '.join(map(repr, longer))}?" if longer else ""
        hint = hint or near(name, GPUS) or f"; known are {', '.join(GPUS)}"
        raise ValueError(f"gpu={text!r} is no size such as '24GiB' and no name{hint}")
    number, unit = size.groups()
    if unit not in UNITS:
        fault = f"has the unknown unit {unit!r}" if unit else "has no unit"
        raise ValueError(
            f"gpu={text!r} {fault}; write '{number}GiB' for 2^30 bytes each or "
            f"'{number}GB' for 10^9"
        )
    return int(Fraction(number) * UNITS[unit])
