"""Which matrices LoRA adapts, as peft resolves its targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tfdoc.cost.configs import near
from tfdoc.cost.entries import Row

SETS = {"qv": ("q", "v", "qkv"), "qkvo": ("q", "k", "v", "o", "a", "qkv")}
# Where a mixture's experts came as single matrices in older checkpoints, peft adapts the
# fused parameter in their stead, with twice the rank for gate and up together; dense
# layers and shared experts whose modules bear the same names go without.
FUSED = {
    "gate": ("router", ""),
    "gate_proj": ("experts", "gate_up_proj"),
    "up_proj": ("experts", "gate_up_proj"),
    "w1": ("experts", "gate_up_proj"),
    "w3": ("experts", "gate_up_proj"),
    "down_proj": ("experts", "down_proj"),
    "w2": ("experts", "down_proj"),
}


def adapted(
    rows: Iterable[Row], targets: str | Sequence[str], architecture: str
) -> list[tuple[Row, int]]:
    """Return the rows with an adapter, and how many times the rank each takes."""
    able = [row for row in rows if row.lora is not None]
    fused = any(row.kind == "experts" for row in able)
    if isinstance(targets, str) and targets in SETS:
        return [(row, 1) for row in able if row.lora in SETS[targets]]
    if targets == "all-linear":
        return [(row, ranks(row)) for row in able if not (fused and _renamed(row))]
    if not isinstance(targets, Sequence):
        raise TypeError(
            f"targets must be 'all-linear', 'qv', 'qkvo' or names of modules, got {targets!r}"
        )
    names = targets.split(",") if isinstance(targets, str) else targets
    found: dict[str, Row] = {}
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"targets must be names of modules, got {name!r}")
        hits = [row for row in able if _matches(row, name.strip(), fused)]
        if not hits:
            leaves = sorted({_leaf(row) for row in able if row.kind != "experts"})
            raise ValueError(
                f"targets={name!r} names no linear layer of {architecture}"
                f"{near(name, leaves) or '; there are ' + ', '.join(leaves)}"
            )
        found |= {row.name: row for row in hits}
    if not found:
        raise ValueError("targets is empty; name a module or take 'all-linear'")
    if any(
        _leaf(row) == "gate_up_proj" and row.kind == "experts" for row in found.values()
    ):
        _both(names)
    return [(row, ranks(row)) for row in found.values()]


def ranks(row: Row) -> int:
    """Return how many times the rank an adapter of this row has."""
    if row.kind != "experts":
        return 1
    return row.shape[0] * (2 if row.name.endswith("gate_up_proj") else 1)


def _leaf(row: Row) -> str:
    return row.module.rpartition(".")[2]


def _renamed(row: Row) -> bool:
    return row.kind in ("linear", "conv1d") and _leaf(row) in FUSED


def _matches(row: Row, name: str, fused: bool) -> bool:
    leaf = name.rpartition(".")[2]
    if fused and leaf in FUSED:
        kind, end = FUSED[leaf]
        return row.kind == kind and row.name.endswith(end)
    if row.kind in ("router", "experts"):
        return False
    return row.module == name or row.module.endswith(f".{name}")


def _both(names: Sequence[str]) -> None:
    leaves = {name.strip().rpartition(".")[2] for name in names}
    for pair in ({"gate_proj", "up_proj"}, {"w1", "w3"}):
        if len(pair & leaves) == 1:
            there, missing = (pair & leaves).pop(), (pair - leaves).pop()
            raise ValueError(
                f"targets={there!r} without {missing!r}: the experts hold them as one "
                "matrix; name both"
            )
