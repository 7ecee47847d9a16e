"""What weights occupy, what a forward pass multiplies, what it leaves in the cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tfdoc.cost.entries import Row
from tfdoc.cost.tables import Values, evaluate, holds, layers_where


def stored(rows: Iterable[Row], width: int, quant: str) -> int:
    """Return the bytes of the weights, `width` for each that is not quantised."""
    total = 0
    for row in rows:
        if quant == "none" or not row.quantisable or row.matmul is None:
            total += row.stored * width
        elif quant == "int8":  # a scale for each output
            total += (row.size + 4 * row.size // row.matmul[0]) * row.copies
        else:  # a scale for each 64 weights, of one byte; and one for each 256 of those
            blocks = -(-row.size // 64)
            each = -(-row.size // 2) + blocks + -(-blocks // 256) * 4
            total += each * row.copies
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
        # A sliding layer keeps what the next token will see: the window less that token.
        kept = min(seq, values["W"] - 1)
        numbers += token * ((number - windows) * seq + windows * kept)
        if stack.get("side") == "decoder" and not values["alone"]:
            numbers += token * number * source
    return numbers


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
        total += times * used * row.matmul[0] * row.matmul[1] * row.runs
    return total


def attention(table: dict[str, Any], values: Values, seq: int, source: int) -> int:
    """Return the multiply-adds of scores and mixtures of one sequence."""
    total = 0
    for stack in stacks_of(table, values):
        heads = values[stack.get("heads", "H")]
        widths = values[stack.get("dot", "dot")] + values[stack.get("mix", "mix")]
        layers = evaluate(stack.get("runs", stack["number"]), values)
        side = stack.get("side")
        length = source if side == "encoder" else seq
        keys = length + (source if side == "decoder" and not values["alone"] else 0)
        total += layers * heads * widths * length * keys
    return total
