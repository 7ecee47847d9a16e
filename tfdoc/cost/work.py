"""What weights occupy, what a forward pass multiplies, what it leaves in the cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tfdoc.cost.entries import Row
from tfdoc.cost.formulas import (
    attention_products,
    cached_numbers,
    int8_bytes,
    linear_products,
    nf4_bytes,
    plain_bytes,
    window_kept,
)
from tfdoc.cost.tables import Values, evaluate, holds, layers_where


def stored(rows: Iterable[Row], width: int, quant: str) -> int:
    """Return the bytes of the weights, `width` for each that is not quantised."""
    total = 0
    for row in rows:
        if quant == "none" or not row.quantisable or row.matmul is None:
            total += plain_bytes(row.stored, width)
        elif quant == "int8":
            total += int8_bytes(row.size, row.matmul[0]) * row.copies
        else:
            total += nf4_bytes(row.size) * row.copies
    return total


def stacks_of(table: dict[str, Any], values: Values) -> list[dict[str, Any]]:
    """Return the stacks of layers that a head builds."""
    return [s for s in table["stacks"] if holds(s.get("when", ""), values)]


def cached(table: dict[str, Any], values: Values, seq: int, source: int) -> int:
    """Return the numbers one sequence leaves in the key and value caches."""
    if table.get("encoder") and not values.get("causal"):
        return 0
    numbers = 0
    for stack in stacks_of(table, values):
        if stack.get("side") == "encoder":
            continue
        token = evaluate(stack.get("cached", "cached"), values)
        number = evaluate(stack["number"], values)
        windows = len(layers_where(table.get("sliding", []), values, number))
        kept = window_kept(seq, values["W"])
        across = stack.get("side") == "decoder" and not values["alone"]
        numbers += cached_numbers(
            token, number, windows, seq, kept, source if across else 0
        )
    return numbers


def tokens_of(batch: int, seq: int, source: int, positions: int) -> dict[str, int]:
    """Return how many rows a linear map is applied to, by what it is applied to."""
    return {
        "token": batch * seq,
        "source": batch * source,
        "sequence": batch,
        "logits": batch * positions,
    }


def multiplications(rows: Iterable[Row], values: Values, tokens: dict[str, int]) -> int:
    """Return the multiply-adds of all linear maps, `tokens` by what they apply to."""
    total = 0
    for row in rows:
        if row.matmul is None or (
            row.component == "cross_attention" and values["alone"]
        ):
            continue
        side = "source" if row.side == "encoder" else "token"
        times = tokens[row.per or ("logits" if row.component == "lm_head" else side)]
        used = values["K"] if row.kind == "experts" else 1
        total += linear_products(times, used, *row.matmul, row.runs)
    return total


def attention(table: dict[str, Any], values: Values, seq: int, source: int) -> int:
    """Return the multiply-adds of scores and mixtures of one sequence."""
    total = 0
    for stack in stacks_of(table, values):
        heads = values[stack.get("heads", "H")]
        dot, mix = values[stack.get("dot", "dot")], values[stack.get("mix", "mix")]
        layers = evaluate(stack.get("runs", stack["number"]), values)
        side = stack.get("side")
        length = source if side == "encoder" else seq
        keys = length + (source if side == "decoder" and not values["alone"] else 0)
        total += attention_products(layers, heads, dot, mix, length, keys)
    return total
