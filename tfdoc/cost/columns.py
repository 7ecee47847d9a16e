"""Two columns: a model beside another, a rehearsal beside the closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfdoc.cost.report import KINDS, Look, Row, gib, settings

if TYPE_CHECKING:
    from tfdoc.cost.estimates import Estimate

__all__ = ["compared", "ratios", "traced"]


def numbers(estimate: Estimate) -> dict[str, int]:
    """Return the numbers of an estimate that are compared, by name."""
    sizes, memory = estimate.parameters, estimate.memory
    found = {"parameters": sizes.total, "active": sizes.active}
    found |= {kind: getattr(memory, kind) for kind in KINDS} | {"peak": memory.peak}
    if estimate.settings["mode"] == "train":
        return found | {"FLOPs of a step": estimate.flops.training_step}
    return found | {"FLOPs": estimate.flops.forward}


def ratios(a: Estimate, b: Estimate) -> dict[str, float | None]:
    """Return what `b` has for each that `a` has; None where `a` has none."""
    left, right = numbers(a), numbers(b)
    return {name: right[name] / n if n else None for name, n in left.items()}


def compared(a: Estimate, b: Estimate, look: Look) -> str:
    """Return two estimates under the same settings as a text."""
    left, right, ratio = numbers(a), numbers(b), ratios(a, b)
    rows: list[Row] = [("", (a.model, b.model, "ratio"), 0.0)]
    for name, n in left.items():
        if not n and not right[name]:
            continue
        times = ratio[name]
        last = "-" if times is None else f"{times:.3g}×"
        if name in KINDS or name == "peak":
            cells = (f"{gib(n)} GiB", f"{gib(right[name])} GiB", last)
        elif name.startswith("FLOPs"):
            cells = (f"{n:.3e}", f"{right[name]:.3e}", last)
        else:
            cells = (f"{n:,}", f"{right[name]:,}", last)
        rows.append((name, cells, 0.0))
    rows.append(("peak in", (a.memory.peak_moment, b.memory.peak_moment, ""), 0.0))
    if a.gpu is not None:
        fits = ["fits" if e.fits else "does not fit" for e in (a, b)]
        rows.append((f"{gib(a.gpu)} GiB", (*fits, ""), 0.0))
    same = (
        settings(a) if settings(a) == settings(b) else f"{settings(a)}; {settings(b)}"
    )
    lines = (line.rstrip() for line in look.table(rows))
    return look.finished([look.wrapped(same), "", *lines])


def traced(estimate: Estimate, seen: dict[str, Any], look: Look) -> str:
    """Return the peaks of a rehearsal beside those of the closed form."""
    memory = estimate.memory
    rows: list[Row] = [("", ("rehearsed", "closed form", "difference", ""), 0.0)]
    both = [(f"{name}", n, memory.peaks.get(name)) for name, n in seen["peaks"].items()]
    for name, n, ours in [*both, ("peak", seen["peak"], memory.peak)]:
        if ours is None:
            rows.append((name, (f"{n:,}", "-", "-", ""), 0.0))
        else:
            cells = (f"{n:,}", f"{ours:,}", f"{ours - n:+,}", f"{ours / n - 1:+.2%}")
            rows.append((name, cells, 0.0))
    title = look.paint(f"Rehearsed with transformers {seen['transformers']}", "head")
    lines = (line.rstrip() for line in look.table(rows))
    where = f"  Bytes; the peak of the rehearsal is in {seen['peak_moment']}."
    return look.finished([title, *lines, where])
