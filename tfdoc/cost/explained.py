"""The formulas of an estimate, each with its numbers in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tfdoc.cost.budget import Budget
from tfdoc.cost.memory import expressions
from tfdoc.cost.tables import Values, evaluate

Step = tuple[str, str, str]
SYMBOL = re.compile(r"[A-Za-z]\w*")
OPTIMS = {
    "adamw": "2 × trainable × bytes",
    "adamw8bit": "2 × trainable + scales of 4 bytes for 256 each",
}


def explained(budget: Budget) -> Iterator[Step]:
    """Yield name, formula, and the formula in numbers with what it comes to."""
    s, width = budget.settings, budget.width
    total, trained = budget.book.total, budget.trainable
    if s.quant == "none":
        every = total + budget.adapter_numbers
        yield (
            "weights",
            "parameters × bytes",
            f"{every:,} × {width} = {budget.weights:,}",
        )
    else:
        sums = f"matrices in {s.quant}, all else × bytes"
        yield "weights", sums, f"{budget.weights:,}"
    if s.train:
        grads = f"{trained:,} × {width} = {budget.gradients:,}"
        yield "gradients", "trainable × bytes", grads
        if formula := OPTIMS.get(s.optim):
            state = f"{budget.optimizer:,}"
            if s.optim == "adamw":
                state = f"2 × {trained:,} × {width} = {state}"
            yield "optimizer", formula, state
    else:
        yield "kv_cache", "requests × kept numbers × bytes", f"{budget.kv_cache:,}"
    form = budget.forms[budget.setting]
    for name, kinds in expressions(budget.book.model_type, form):
        for kind, text in kinds.items():
            label = "kept activations" if name == "kept" else f"{name}: {kind}"
            yield label, pretty(text), filled(text, budget.numbers)
    yield "forward", "2 × multiply-adds", f"{budget.forward:,}"
    if s.train:
        yield "training step", "forward, backward, again", f"{budget.training_step:,}"


def pretty(text: str) -> str:
    """Return an expression of the tables as it is written by hand.

    Examples
    --------
    >>> pretty("4*D*L*tokens+-2*D")
    '4·D·L·tokens - 2·D'
    """
    return text.replace("+-", " - ").replace("+", " + ").replace("*", "·")


def filled(text: str, numbers: Values) -> str:
    """Return an expression with its numbers, and its value.

    Examples
    --------
    >>> filled("4*D*tokens", {"D": 768, "tokens": 10})
    '4·768·10 = 30,720'
    """
    spelt = SYMBOL.sub(lambda m: f"{numbers[m[0]]}", text)
    return f"{pretty(spelt)} = {evaluate(text, numbers):,}"
