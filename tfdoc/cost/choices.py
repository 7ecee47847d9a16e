"""The settings of an estimate, checked one by one and against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tfdoc._checks import flag, one_of, positive_int
from tfdoc.cost.budget import Budget, Settings
from tfdoc.cost.sums import BYTES, QUANTS, Ledger
from tfdoc.cost.tables import evaluate

MOST = 2**40  # of batch, sequence and the like
TOKENS = 2048


def budget_of(book: Ledger, given: dict[str, Any]) -> Budget:
    """Check the settings, one by one and against each other."""
    train = one_of("mode", given["mode"], ("train", "infer")) == "train"
    r, targets = _lora(given["lora"])
    quant = one_of("quant", given["quant"] or "none", QUANTS)
    if train and quant != "none" and not r:
        raise ValueError(
            f"quant={quant!r} has no gradients of its own; train adapters: lora={{'r': 16}}"
        )
    checkpointing = flag("checkpointing", given["checkpointing"])
    optim = one_of("optim", given["optim"], ("adamw", "adamw8bit", "sgd", "none"))
    accumulate = _whole("accumulate", given["accumulate"])
    batch = _whole("batch", given["batch"])
    _only(train, given, checkpointing, optim, accumulate)
    precision = one_of("precision", given["precision"], ("bf16", "fp32", "amp"))
    natural = "fp32" if precision == "fp32" else "bf16"
    requests = (
        batch if given["requests"] is None else _whole("requests", given["requests"])
    )
    if requests < batch:
        raise ValueError(f"requests={requests} must be at least batch={batch}")
    settings = Settings(
        train, batch, _seq(book, given["seq"]), precision,
        one_of("attn", given["attn"], ("sdpa", "eager")), checkpointing,
        optim if train else "none", r, targets, quant,
        not train and given["logits"] != "all",
        accumulate, one_of("kv_dtype", given["kv_dtype"] or natural, tuple(BYTES)),
        requests,
    )  # fmt: skip
    return _runnable(Budget(book, settings), given["logits"])


def _whole(name: str, value: Any) -> int:
    if positive_int(name, value) > MOST:
        raise ValueError(f"{name}={value} is too large; at most {MOST} is counted")
    return int(value)


def _only(
    train: bool, given: dict[str, Any], checkpointing: bool, optim: str, accumulate: int
) -> None:
    """Refuse what says something of the other mode only."""
    if train:
        foreign = [name for name in ("kv_dtype", "requests") if given[name] is not None]
        foreign += ["logits"] * (given["logits"] == "last")
    else:
        foreign = ["checkpointing"] * checkpointing + ["accumulate"] * (accumulate > 1)
        foreign += ["optim"] * (optim not in ("adamw", "none"))
    if given["logits"] is not None:
        one_of("logits", given["logits"], ("all", "last"))
    if foreign:
        name, other = foreign[0], "infer" if train else "train"
        raise ValueError(
            f"{name}={given[name]!r} says something of mode={other!r} only"
        )


def _seq(book: Ledger, seq: int | None) -> int:
    positions = book._table.get("positions")
    most = evaluate(positions, book._config.values) if positions else MOST
    if seq is None:
        return min(TOKENS, most)
    if _whole("seq", seq) > most:
        raise ValueError(f"seq={seq} is more than the {most} positions of the model")
    return seq


def _lora(lora: Any) -> tuple[int, str | tuple[str, ...]]:
    """Return the rank, 0 without adapters, and the targets."""
    if lora is None:
        return 0, ()
    if not isinstance(lora, Mapping):
        raise TypeError(f"lora must be a dict such as {{'r': 16}}, got {lora!r}")
    if unknown := lora.keys() - {"r", "targets"}:
        raise ValueError(
            f"lora has the unknown key {min(unknown)!r}; it takes r, targets"
        )
    if "r" not in lora:
        raise ValueError(f"lora={dict(lora)!r} has no rank; add 'r': 16")
    targets = lora.get("targets", "all-linear")
    if isinstance(targets, list):
        targets = tuple(targets)
    return _whole("r", lora["r"]), targets


def _runnable(budget: Budget, logits: str | None) -> Budget:
    """Return the budget with settings that transformers can run."""
    s = budget.settings
    if s.attn == "sdpa" and not any(" sdpa" in name for name in budget.forms):
        budget = Budget(budget.book, replace(s, attn="eager"))
    if budget.setting not in budget.forms:  # the last logits alone
        if logits == "last":
            raise ValueError(
                f"logits='last' is not what {budget.book.architecture} does in "
                "transformers: it computes all"
            )
        budget = Budget(budget.book, replace(budget.settings, last=False))
    return budget
