"""What fits a GPU, and what would help: the budget of other settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

from tfdoc.cost.budget import Budget
from tfdoc.cost.tables import evaluate

MOST = 2**40


class Advice:
    """A budget beside the memory of a GPU."""

    def __init__(self, budget: Budget, gpu: int, overhead: int) -> None:
        self.budget, self.room = budget, gpu - overhead

    @property
    def fits(self) -> bool:
        """Whether the peak fits."""
        return self.budget.peak <= self.room

    def other(self, **changed: Any) -> Budget:
        """Return the budget with other settings."""
        return Budget(self.budget.book, replace(self.budget.settings, **changed))

    def largest(self, name: str) -> int:
        """Return the largest batch or seq that fits with all else as it is, or 0."""
        least, most = 0, MOST
        positions = self.budget.book._table.get("positions")
        if name == "seq" and positions:
            most = evaluate(positions, self.budget.book._config.values)
        if self.at(name, most) <= self.room:
            return most
        while most - least > 1:
            middle = (least + most) // 2
            if self.at(name, middle) <= self.room:
                least = middle
            else:
                most = middle
        return least

    def at(self, name: str, value: int) -> int:
        """Return the peak with this batch or seq, as many requests waiting as before."""
        s, changed = self.budget.settings, {name: value}
        if name == "batch":
            changed["requests"] = s.requests - s.batch + value
        return self.other(**changed).peak

    @cached_property
    def levers(self) -> dict[str, int]:
        """What one change would make of the peak, where it lowers it, the best first."""
        others = {name: self.other(**changed) for name, changed in self._changes()}
        found = {
            name: other.peak
            for name, other in others.items()
            if other.setting in other.forms
        }
        lower = {name: n for name, n in found.items() if n < self.budget.peak}
        return dict(sorted(lower.items(), key=lambda item: item[1]))

    def _changes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield changes of one setting, as the command line spells them."""
        s = self.budget.settings
        if s.batch > 1:
            half = s.batch // 2
            waiting = s.requests - s.batch
            yield f"--batch {half}", {"batch": half, "requests": half + waiting}
        if s.seq > 1:
            yield f"--seq {s.seq // 2}", {"seq": s.seq // 2}
        if s.precision != "bf16":
            yield "--precision bf16", {"precision": "bf16"}
        yield "--attn sdpa", {"attn": "sdpa"}
        if s.train:
            yield "--checkpointing", {"checkpointing": True}
            yield "--optim adamw8bit", {"optim": "adamw8bit"}
            adapters = {"r": 16, "targets": "all-linear"}
            if not s.r:
                yield "--lora 16", adapters
            more = {} if s.r else adapters
            yield (
                "--lora 16 --quant nf4" if more else "--quant nf4",
                more | {"quant": "nf4"},
            )
        else:
            yield "--quant nf4", {"quant": "nf4"}
            yield "--kv-dtype fp8", {"kv_dtype": "fp8"}
            yield "--logits last", {"last": True}
            if s.requests > s.batch:
                yield f"--requests {s.batch}", {"requests": s.batch}
