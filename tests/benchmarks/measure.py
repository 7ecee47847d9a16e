"""Check every implementation of a case, then time all of them, interleaved.

Everything runs in one process on one thread, and the clock is the CPU time of that
process: it does not see what else the machine does, apart from the caches and the
frequency they share. In each round every implementation is timed once, in a new order,
and ratios are medians over the rounds.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from .cases import Case, Implementation, Run
from .goals import GOALS

Row = dict[str, Any]
SAMPLE = 0.02  # seconds: what is faster is called several times and averaged
BUDGET = 0.5  # seconds of measuring for each implementation, in so many rounds:
ROUNDS = (5, 25)
TOLERANCE = 2e-4
TOKENS_WRONG = 0.02  # of a generated text: a near tie may fall the other way


class Cell(NamedTuple):
    """The tensors of one case in one size and mode, and what has to come out."""

    case: Case
    size: str
    mode: str
    p: SimpleNamespace
    t: SimpleNamespace  # float32
    output: Tensor  # float64, as are the gradients, of the leaves of the case
    upstream: Tensor | None
    gradients: Sequence[Tensor | None]

    @property
    def leaves(self) -> list[Tensor]:
        """Return what gradients are asked for."""
        return [
            getattr(self.t, name) for name in self.case.grads if hasattr(self.t, name)
        ]


def prepare(case: Case, size: str, mode: str) -> Cell:
    """Make the tensors, and compute the reference in float64."""
    p, g = case.sized(size), Generator().manual_seed(123)
    exact = case.make(p, g)
    single = {k: v.float() if v.is_floating_point() else v for k, v in exact.items()}
    backward = mode == "fwdbwd"
    for name in set(case.grads) & set(exact):
        exact[name].requires_grad_(backward)
        single[name].requires_grad_(backward)
    output = case.ref(SimpleNamespace(**exact), p)
    upstream, gradients = None, []
    if backward:
        upstream = torch.randn(output.shape, generator=g, dtype=torch.float64)
        leaves = [exact[name] for name in case.grads]
        gradients = list(torch.autograd.grad(output, leaves, upstream))
    t = SimpleNamespace(**single)
    return Cell(case, size, mode, p, t, output.detach(), upstream, gradients)


def tensors(output: Any) -> list[Tensor]:
    """Return the tensors of an output: most have one."""
    return list(output) if isinstance(output, tuple | list) else [output]


def error(run: Run, cell: Cell) -> float:
    """Return the largest difference, relative to the largest number of the reference.

    Of a generated text it is the share of wrong tokens. Gradients count too, of those
    who take the leaves of the case. Of a row that attends to nothing anything is right
    that is not a number at all, or 0.
    """
    with torch.set_grad_enabled(cell.mode in ("fwdbwd", "train")):
        raw = run.fn()
        output = run.post(raw) if run.post else tensors(raw)[0]
    if cell.mode == "gen":
        return 1.0 - (output == cell.output).double().mean().item()
    output = output.double()
    undefined = bool(output.isnan().any())
    found = [_apart(output.detach().nan_to_num(0.0), cell.output)]
    if cell.upstream is not None and run.inputs is None and not undefined:
        own = torch.autograd.grad(output, cell.leaves, cell.upstream)
        pairs = zip(own, cell.gradients, strict=True)
        found += [_apart(got, want) for got, want in pairs if want is not None]
    return max(found)


def _apart(got: Tensor, want: Tensor) -> float:
    apart: float = ((got.double() - want).abs().max() / want.abs().max()).item()
    return apart


def call(run: Run, cell: Cell) -> Callable[[], Any]:
    """Return what is timed."""
    if cell.mode in ("train", "gen"):
        return run.fn
    if cell.mode == "fwd":
        return torch.no_grad()(run.fn)
    given = cell.leaves if run.inputs is None else list(run.inputs)
    wanted = [*given, *(weight for weight in run.params if weight.requires_grad)]
    upstream = [torch.randn_like(out) for out in tensors(run.fn())]

    def both() -> Any:
        return torch.autograd.grad(
            tensors(run.fn()), wanted, upstream, allow_unused=True
        )

    return both


def built(entry: Implementation, cell: Cell) -> tuple[Row, Callable[[], Any] | None]:
    """Build and check an implementation; what is missing or wrong is not timed."""
    row: Row = {"label": entry.label, "kind": entry.kind}
    try:
        run = entry.build(cell.t, cell.p)
        row["error"] = error(run, cell)
        limit = TOKENS_WRONG if cell.mode == "gen" else run.tol or TOLERANCE
        if not row["error"] <= limit:
            return row | {"refused": f"differs by {row['error']:.1e}"}, None
        timed = call(run, cell)
        timed()
    except ImportError as missing:
        return row | {"refused": f"not installed: {missing.name}"}, None
    except Exception as problem:  # noqa: BLE001 - of whatever peer; it is named
        return row | {"refused": f"{type(problem).__name__}: {problem}"[:200]}, None
    return row | ({"note": run.note} if run.note else {}), timed


def seconds(function: Callable[[], Any], times: int) -> float:
    """Return the CPU time of one call, the mean of a few."""
    start = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - start) / times


def sampled(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Time all of them in rounds, each round in another order."""
    first = {label: seconds(function, 1) for label, function in calls.items()}
    times = {k: max(1, min(2000, int(SAMPLE / max(v, 1e-7)))) for k, v in first.items()}
    round_ = sum(first[label] * times[label] for label in calls)
    low, high = ROUNDS
    rounds = max(low, min(high, int(BUDGET * len(calls) / max(round_, 1e-6))))
    samples: dict[str, list[float]] = {label: [] for label in calls}
    order, rng = list(calls), random.Random(0)  # noqa: S311 - an order, no secret
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        rng.shuffle(order)
        for label in order:
            samples[label].append(seconds(calls[label], times[label]))
    gc.enable()
    return samples


def quartiles(a: list[float], b: list[float]) -> list[float]:
    """Return the quartiles of the ratios of the rounds."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return [round(low, 4), round(middle, 4), round(high, 4)]


def measure(case: Case, size: str, mode: str) -> Row:
    """Return the rows of all implementations of a case, and how its goal was met."""
    cell = prepare(case, size, mode)
    rows: dict[str, Row] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for entry in case.impls.values():
        if entry.runs(mode, size):
            rows[entry.label], timed = built(entry, cell)
            if timed:
                calls[entry.label] = timed
    samples = sampled(calls)
    middle = {label: statistics.median(own) for label, own in samples.items()}
    best = min((k for k in calls if rows[k]["kind"] == "peer"), key=middle.__getitem__)
    for label, own in samples.items():
        rows[label]["ms"] = round(middle[label] * 1e3, 5)
        rows[label]["ratio"] = quartiles(own, samples[best])
    sizes = case.sizes[size]
    result: Row = {
        "case": case.name,
        "size": size,
        "mode": mode,
        "sizes": sizes,
        "best": best,
    }
    result["implementations"] = sorted(rows.values(), key=lambda r: r.get("ms", 1e9))
    goal = GOALS.get(f"{case.name}/{size}/{mode}")
    if goal and "tfdoc" in samples:
        against = next(
            (k for k in samples if goal.against and k.startswith(goal.against)), best
        )
        ratio = quartiles(samples["tfdoc"], samples[against])
        result["goal"] = {"at_most": goal.at_most, "against": against, "ratio": ratio}
    return result
