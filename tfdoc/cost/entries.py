"""The entries of a ledger: every parameter of a model by name and shape.

Layers repeat, so a :class:`Row` stands for one parameter in all the layers that have it;
:func:`unfold` writes the rows out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

from tfdoc.cost.tables import Values, evaluate, holds, layers_where

__all__ = ["Entry"]

LINEAR = ("linear", "conv1d", "router", "experts")


class Entry(NamedTuple):
    """One parameter of a model, as :func:`tfdoc.ledger` lists it.

    Attributes
    ----------
    component : str
        ``embed_tokens, embed_positions, embed_other, attention, cross_attention, ffn,
        router, moe_experts, moe_shared, norms, norms_qk, lm_head`` or ``other``.
    stack : str or None
        The list of layers it lies in, as ``model.layers``.
    layer : int or None
        Its place in the stack.
    name : str
        The name it has in transformers.
    shape : tuple of int
        Its shape there.
    tied_to : str or None
        The parameter whose storage it shares; it adds nothing to any count.
    quantisable : bool
        Whether 8 and 4 bit quantisation replace it: a matrix of a linear layer or of an
        expert, not the head, no table, no norm, no bias.
    lora : str or None
        ``q, k, v, o``, ``qkv`` where they are fused, ``a`` for the compression of latent
        attention, ``router`` and ``experts`` where peft adapts those of a mixture,
        ``linear`` for any other linear layer; None if LoRA does not adapt it.

    Examples
    --------
    >>> from tfdoc import ledger
    >>> ledger({"model_type": "gpt2"}).entries[4]  # doctest: +NORMALIZE_WHITESPACE
    Entry(component='attention', stack='transformer.h', layer=0,
          name='transformer.h.0.attn.c_attn.weight', shape=(768, 2304), tied_to=None,
          quantisable=True, lora='qkv')
    """

    component: str
    stack: str | None
    layer: int | None
    name: str
    shape: tuple[int, ...]
    tied_to: str | None
    quantisable: bool
    lora: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter in every layer that has it.

    In `name`, ``*`` stands for the layer and ``#`` for the `each` copies inside a layer.
    `runs` is how often a forward pass uses it, other than once a copy only where layers
    share their weights. `matmul` is (inputs, outputs) of a linear map, `per` what it is
    applied to: every token, a sequence, or a source token.
    """

    component: str
    stack: str | None
    layers: Sequence[int] | None
    each: int
    runs: int
    side: str
    name: str
    shape: tuple[int, ...]
    tied_to: str | None
    kind: str
    lora: str | None
    matmul: tuple[int, int] | None
    per: str
    head: bool

    @property
    def copies(self) -> int:
        """How many of these parameters the model has."""
        return self.each * (1 if self.layers is None else len(self.layers))

    @property
    def size(self) -> int:
        """Numbers in one copy."""
        return prod(self.shape)

    @property
    def stored(self) -> int:
        """Numbers in all copies; none where the storage belongs to another name."""
        return 0 if self.tied_to else self.size * self.copies

    @property
    def quantisable(self) -> bool:
        """Whether it is a matrix that quantisation replaces."""
        kinds = ("linear", "conv1d", "experts")
        return self.matmul is not None and not self.head and self.kind in kinds

    @property
    def module(self) -> str:
        """The name of the module it belongs to."""
        return self.name.removesuffix(".weight")


def unfold(rows: Sequence[Row]) -> Iterator[Entry]:
    """Yield the entries of all rows, those of a stack layer by layer."""
    for stack, members in groupby(rows, key=lambda row: row.stack):
        placed = [(row, frozenset(row.layers or ())) for row in members]
        if stack is None:
            for row, _ in placed:
                yield from _copies(row, None)
        for layer in sorted(frozenset().union(*(where for _, where in placed))):
            for row, where in placed:
                if layer in where:
                    yield from _copies(row, layer)


def _copies(row: Row, layer: int | None) -> Iterator[Entry]:
    name = row.name.replace("*", str(layer))
    for i in range(row.each):
        yield Entry(
            row.component, row.stack, layer, name.replace("#", str(i)), row.shape,
            row.tied_to, row.quantisable, row.lora,
        )  # fmt: skip


def rows_of(table: dict[str, Any], head: str, values: Values) -> tuple[Row, ...]:
    """Return the rows of a model type with a head."""
    head_rows = table["head rows"][head]
    prefix = table["prefixes"].get(head, table["base"]) if head_rows else ""
    base = f"{prefix}." if prefix else ""
    ties = table.get("ties", {}).get(head, {})
    build = _Builder(base, ties, table.get("lora_experts", False), values)
    rows = [r for row in table["start"] for r in build.rows(row, base)]
    for stack in table["stacks"]:
        if holds(stack.get("when", ""), values):
            rows += build.stack(stack, table.get("sparse", []))
    rows += [r for row in table["end"] for r in build.rows(row, base)]
    rows += [r for row in head_rows for r in build.rows(row, "")]
    return tuple(rows)


@dataclass(slots=True)
class _Builder:
    base: str
    ties: dict[str, str]
    lora_experts: bool
    values: Values

    def stack(self, stack: dict[str, Any], sparse: list[list[str]]) -> Iterator[Row]:
        """Yield the rows of all layers of a stack."""
        number = evaluate(stack["number"], self.values)
        where: dict[str, Sequence[int]] = {
            "": range(number),
            "first": range(1),
            "later": range(1, number),
        }
        if sparse:
            where["sparse"] = layers_where(sparse, self.values, number)
            skipped = set(where["sparse"])
            where["dense"] = [i for i in range(number) if i not in skipped]
        name = self.base + stack["name"]
        runs = evaluate(stack["runs"], self.values) if "runs" in stack else 0
        for row in stack["rows"]:
            layers = where[row.get("layers", "")]
            if layers:
                place = (name, layers, runs, stack.get("side", ""))
                yield from self.rows(row, f"{name}.*.", place)

    def rows(
        self,
        row: dict[str, Any],
        base: str,
        place: tuple[str | None, Sequence[int] | None, int, str] = (None, None, 0, ""),
    ) -> Iterator[Row]:
        """Yield a weight and its bias, in all the layers of its place."""
        if not holds(row.get("when", ""), self.values):
            return
        stack, layers, runs, side = place
        each = evaluate(row["each"], self.values) if "each" in row else 1
        copies = each * (1 if layers is None else len(layers))
        kind, head = _kind(row), "head" in row or "tie" in row
        for end, shape, matmul in self.parameters(row, kind):
            yield Row(
                row["part"], stack, layers, each, runs or copies, side,
                base + row["name"] + end, shape, self.tied(row, end), kind,
                self.role(row, kind, head) if matmul else None, matmul,
                row.get("per", ""), head,
            )  # fmt: skip

    def parameters(
        self, row: dict[str, Any], kind: str
    ) -> Iterator[tuple[str, tuple[int, ...], tuple[int, int] | None]]:
        """Yield (ending of the name, shape, inputs and outputs if it multiplies)."""
        values = self.values
        dims = tuple(evaluate(dim, values) for dim in row[kind])
        biased = evaluate(row.get("bias", "0"), values)
        if kind == "raw":
            yield "", dims, None
        elif kind == "table":
            yield ".weight", dims, None
        elif kind == "norm":
            if values["norm_weight"]:
                yield ".weight", dims, None
            if values["norm_bias"]:
                yield ".bias", dims, None
        elif kind == "experts":
            into, out, experts = dims
            shape = (into, out) if row.get("transposed") else (out, into)
            yield "", (experts, *shape), (into, out)
            if biased:
                yield "_bias", (experts, out), None
        else:
            into, out = dims
            yield (
                ".weight",
                (into, out) if kind == "conv1d" else (out, into),
                (into, out),
            )
            if biased:
                yield ".bias", (out,), None

    def tied(self, row: dict[str, Any], end: str) -> str | None:
        """Return the parameter that this one is tied to."""
        if "tie" not in row or not (row.get("always") or self.values["tied"]):
            return None
        name = f"{row['name']}{end}"
        target: str | None = self.ties.get(name, row["tie"].get(end.removeprefix(".")))
        return target and target.replace("@", self.base)

    def role(self, row: dict[str, Any], kind: str, head: bool) -> str | None:
        """Return what LoRA calls this matrix."""
        if head or (kind in ("router", "experts") and not self.lora_experts):
            return None
        return str(row.get("lora", kind if kind in ("router", "experts") else "linear"))


def _kind(row: dict[str, Any]) -> str:
    return next(k for k in (*LINEAR, "norm", "table", "raw") if k in row)
