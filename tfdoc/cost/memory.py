"""The closed form of memory: the largest of a few moments, each a sum of products.

The tables in ``coefficients`` say for each model type and setting which moments can be the
peak, and what is allocated then besides weights and optimiser. Their numbers are not chosen:
rehearsals of small models on the meta device generate them, and a test fails when they
drift.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tfdoc.cost.tables import Values, evaluate, holds, layers_where

FOLDER = Path(__file__).with_name("coefficients")
# What a moment knows beside weights and optimiser, in the order of the table.
KINDS = ("activations", "gradients", "logits", "temporaries", "kv_cache")


@cache
def _table(model_type: str) -> dict[str, Any]:
    text = FOLDER.joinpath(f"{model_type}.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def surroundings(table: dict[str, Any], values: Values, batch: int, seq: int) -> Values:
    """Return the symbols of a config with those of what it is run on."""
    gone = [s for s in table["stacks"] if not holds(s.get("when", ""), values)]
    return (
        values
        | {stack["number"]: 0 for stack in gone}
        | counted(table, values, seq)
        | {"batch": batch, "seq": seq, "tokens": batch * seq}
        | {"pairs": batch * seq * seq}
    )


def counted(table: dict[str, Any], values: Values, seq: int) -> dict[str, int]:
    """Return how many layers there are of each kind.

    A window that is wider than the sequence hides nothing: its layer is a full one.
    """
    number = values["L"]
    windows = len(layers_where(table.get("sliding", []), values, number))
    slides = windows if seq >= values["W"] > 0 else 0
    sparse = len(layers_where(table.get("sparse", []), values, number))
    return {
        "slides": slides,
        "full": number - slides,
        "sparse": sparse,
        "dense": number - sparse,
    }


def forms_of(model_type: str, numbers: Values) -> dict[str, int]:
    """Return the number of the form of every setting that a model can be run in."""
    table = _table(model_type)
    forms = next(f for where, f in table["variants"] if holds(where, numbers))
    named = zip(table["settings"], forms, strict=True)
    return {name: form for name, form in named if form is not None}


def expressions(model_type: str, form: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the moments of a form: a name, and the expression of each kind there is."""
    table = _table(model_type)
    for moment in table["forms"][form]:
        name, *texts = table["moments"][moment]
        kinds = zip(KINDS, texts, strict=True)
        yield name, {kind: table["expressions"][text] for kind, text in kinds if text}


def moments(
    model_type: str, form: int, numbers: Values
) -> list[tuple[str, dict[str, int]]]:
    """Return the moments that can be the peak: a name, and the bytes of each kind.

    A term may count on a first and a last layer: without layers of a kind it falls below
    0, which is nothing.
    """
    return [
        (name, {kind: max(0, evaluate(text, numbers)) for kind, text in kinds.items()})
        for name, kinds in expressions(model_type, form)
    ]
