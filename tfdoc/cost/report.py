"""An estimate to read: as text with bars, as HTML for notebooks, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdoc.cost.estimates import Estimate

__all__ = ["as_dict", "html", "text"]

EIGHTHS = " ▏▎▍▌▋▊▉"
PLAIN = str.maketrans("×·≈█", "x*~#")
LARGEST_BAR = 30
NOTES = (
    "These are bytes that tensors are allocated. The caching allocator reserves more; "
    "the CUDA context, fragmentation and the workspaces of kernels come on top: add "
    "--overhead. One GPU: sharding over several (ZeRO, FSDP) is not covered yet. Not yet "
    "measured on CUDA."
)
Row = tuple[str, Sequence[str], float]  # its name, its cells, its share of the bar


@dataclass(frozen=True)
class Look:
    """How text is set: columns, block characters or ASCII, and what paints it."""

    width: int = 80
    blocks: bool = True
    paint: Callable[[str, str], str] = lambda text, _: text

    def bar(self, share: float, width: int) -> str:
        """Return a bar of this share of `width` columns."""
        if not self.blocks:
            return "#" * round(share * width)
        whole, part = divmod(round(share * width * 8), 8)
        return "█" * whole + EIGHTHS[part].strip()

    def table(self, rows: Sequence[Row]) -> Iterator[str]:
        """Yield lines: names, cells to the right, and bars where there is room."""
        first = max(len(name) for name, _, _ in rows)
        count = max(len(cells) for _, cells, _ in rows)
        columns = [
            max(len(cells[n]) for _, cells, _ in rows if n < len(cells))
            for n in range(count)
        ]
        used = 2 + first + sum(2 + column for column in columns)
        room = min(self.width - used - 2, LARGEST_BAR)
        for name, cells, share in rows:
            line = f"  {name:{first}}" + "".join(
                f"  {cell:>{column}}"
                for cell, column in zip(cells, columns, strict=False)
            )
            bar = self.bar(share, room) if room >= 5 else ""
            yield f"{line}  {self.paint(bar, 'bar')}" if bar else line

    def wrapped(self, words: str, indent: str = "") -> str:
        """Return a paragraph."""
        from textwrap import fill  # noqa: PLC0415  # only what needs it pays

        return fill(
            words, self.width, initial_indent=indent, subsequent_indent=f"{indent}  "
        )

    def finished(self, lines: Iterable[str]) -> str:
        """Return the text, in ASCII where blocks cannot be printed."""
        whole = "\n".join(lines)
        if self.blocks:
            return whole
        return whole.translate(PLAIN).encode("ascii", "replace").decode()


def gib(nbytes: int) -> str:
    """Return bytes in GiB, as ``14.96``."""
    return f"{nbytes / 2**30:,.2f}"


def text(
    estimate: Estimate, width: int = 80, explain: bool = False, look: Look | None = None
) -> str:
    """Return the estimate as a text to read.

    Parameters
    ----------
    estimate : Estimate
        What :func:`tfdoc.estimate` found.
    width : int
        Columns.
    explain : bool
        Whether each formula is shown with its numbers in it.
    look : Look, optional
        Instead of `width`, with how bars are drawn and what is coloured.
    """
    look = look or Look(width)
    parts = [_head, _parameters, _memory, _work, _verdict]
    parts += [_steps] if explain else []
    lines: list[str] = []
    for part in parts:
        lines += [*part(estimate, look), ""]
    return look.finished([*lines, look.paint(look.wrapped(NOTES), "note")])


def active(total: int, used: int) -> str:
    """Return what is said of parameters that a token passes through."""
    return "all active" if used == total else f"{used:,} active"


def settings(estimate: Estimate) -> str:
    """Return the settings that are not their defaults, and those that matter most."""
    s = estimate.settings
    words = ["training step" if s["mode"] == "train" else "inference"]
    words += [f"batch {s['batch']:,} × {s['seq']:,} tokens", s["precision"], s["attn"]]
    if s["mode"] == "train":
        words += [s["optim"] if s["optim"] != "none" else "no optimiser"]
        words += ["checkpointing"] * bool(s["checkpointing"])
        words += [f"accumulate {s['accumulate']:,}"] * (s["accumulate"] > 1)
    else:
        words += [f"{s['logits']} logits", f"{s['kv_dtype']} cache"]
        words += [f"{s['requests']:,} requests"] if s["requests"] is not None else []
    if lora := s["lora"]:
        targets = lora.get("targets", "all-linear")
        named = targets if isinstance(targets, str) else ",".join(targets)
        words.append(f"LoRA of rank {lora['r']:,} on {named}")
    words += [f"{s['quant']} weights"] * (s["quant"] not in (None, "none"))
    return ", ".join(words)


def _head(estimate: Estimate, look: Look) -> Iterator[str]:
    sizes = estimate.parameters
    name = estimate.model
    if estimate.architecture != name:
        name += f" ({estimate.architecture})"
    said = f"{sizes.total:,} parameters, {active(sizes.total, sizes.active)}"
    yield look.paint(look.wrapped(f"{name}: {said}"), "head")
    yield look.wrapped(settings(estimate))
    if estimate.left_out:
        left = ", ".join(estimate.left_out)
        yield look.wrapped(f"Only the text model is counted; left out: {left}")


def _parameters(estimate: Estimate, look: Look) -> Iterator[str]:
    total, parts = estimate.parameters.total, estimate.parameters.by_component
    largest = max(parts.values())
    yield look.paint("Parameters", "head")
    rows: list[Row] = [
        (name, (f"{n:,}", f"{n / total:.1%}"), n / largest) for name, n in parts.items()
    ]
    yield from look.table([*rows, ("total", (f"{total:,}", "100.0%"), 0.0)])


def _memory(estimate: Estimate, look: Look) -> Iterator[str]:
    memory = estimate.memory
    largest = max(memory.at_peak.values())
    yield look.paint(f"Memory at its peak ({memory.peak_moment})", "head")
    rows: list[Row] = [("", ("GiB", "bytes"), 0.0)]
    rows += [
        (kind, (gib(n), f"{n:,}"), n / largest) for kind, n in memory.at_peak.items()
    ]
    yield from look.table(
        [*rows, ("peak", (gib(memory.peak), f"{memory.peak:,}"), 0.0)]
    )
    if len(memory.peaks) > 1:
        each = ", ".join(f"{name} {gib(n)}" for name, n in memory.peaks.items())
        yield look.wrapped(f"Peak of each moment in GiB: {each}", "  ")
    sizes = {kind: getattr(memory, kind) for kind in KINDS}
    gone = [
        f"{kind} {gib(n)}"
        for kind, n in sizes.items()
        if n and kind not in memory.at_peak
    ]
    if gone:
        yield look.wrapped(f"At other moments, in GiB: {', '.join(gone)}", "  ")


def _work(estimate: Estimate, look: Look) -> Iterator[str]:
    work, sizes = estimate.flops, estimate.parameters
    yield look.paint("Operations and what is trained", "head")
    rows: list[Row] = [("forward", (f"{work.forward:.3e}", "FLOP"), 0.0)]
    if estimate.settings["mode"] == "train":
        rows += [("training step", (f"{work.training_step:.3e}", "FLOP"), 0.0)]
    if estimate.settings["lora"]:
        trained = estimate.lora.trainable
        share = trained / (sizes.total + trained)
        rows += [("LoRA trains", (f"{trained:,}", f"{share:.3%} of all"), 0.0)]
    yield from look.table(rows)


def _verdict(estimate: Estimate, look: Look) -> Iterator[str]:
    needed = estimate.memory.peak + estimate.overhead
    best = list(estimate.levers.items())[:3]
    if estimate.gpu is None:
        if best:
            yield look.paint("What one change would make of the peak", "head")
            yield from look.table([(name, (gib(n), "GiB"), 0.0) for name, n in best])
        return
    rest = estimate.gpu - needed
    said = f"fits, {gib(rest)} GiB to spare" if estimate.fits else "does not fit"
    kind = "good" if estimate.fits else "bad"
    yield look.paint(f"{gib(estimate.gpu)} GiB: {said}", kind)
    rows: list[Row] = [("needed", (f"{gib(needed)} GiB",), 0.0)]
    s = estimate.settings
    if estimate.largest_batch is not None:
        found = f"{estimate.largest_batch:,}" if estimate.largest_batch else "none"
        rows += [(f"largest batch at {s['seq']:,} tokens", (found,), 0.0)]
    if estimate.largest_seq is not None:
        found = f"{estimate.largest_seq:,}" if estimate.largest_seq else "none"
        rows += [(f"largest sequence at batch {s['batch']:,}", (found,), 0.0)]
    for n, (name, peak) in enumerate(best):
        enough = "fits" if peak + estimate.overhead <= estimate.gpu else "too much"
        title = "biggest lever" if n == 0 else "next"
        then = f"{gib(peak + estimate.overhead)} GiB"
        rows += [(f"{title}: {name}", (then, enough), 0.0)]
    yield from look.table(rows)


def _steps(estimate: Estimate, look: Look) -> Iterator[str]:
    yield look.paint("How it is computed", "head")
    for name, formula, numbers in estimate.steps:
        yield look.wrapped(f"{name} = {formula}", "  ")
        yield look.wrapped(f"= {numbers}", "    ")


KINDS = (
    "weights", "gradients", "optimizer", "activations", "logits", "temporaries",
    "kv_cache",
)  # fmt: skip


def as_dict(estimate: Estimate, explain: bool = False) -> dict[str, Any]:
    """Return the estimate as data that JSON can hold; with its formulas if asked."""
    data = asdict(estimate)
    steps = data.pop("steps")
    if explain:
        names = ("name", "formula", "numbers")
        data["steps"] = [dict(zip(names, step, strict=True)) for step in steps]
    return data


def html(estimate: Estimate) -> str:
    """Return the estimate as a small table for notebooks, light or dark."""
    from html import escape  # noqa: PLC0415  # notebooks only

    memory, sizes = estimate.memory, estimate.parameters
    largest = max(memory.at_peak.values())
    rows = "".join(
        f"<tr><th scope='row' style='text-align:left'>{escape(kind)}</th>"
        f"<td style='text-align:right'>{gib(n)}</td>"
        "<td style='text-align:left;min-width:12em'><div style='background:currentColor;"
        f"opacity:.5;height:.8em;width:{n / largest:.1%}'></div></td></tr>"
        for kind, n in memory.at_peak.items()
    )
    title = f"{escape(estimate.model)}: {sizes.total:,} parameters, "
    title += active(sizes.total, sizes.active)
    verdict = ""
    if estimate.gpu is not None:
        fits = "fits" if estimate.fits else "does not fit"
        verdict = f"; {fits} {gib(estimate.gpu)} GiB"
    return (
        f"<table style='color:inherit'><caption style='color:inherit'>{title}<br>{escape(settings(estimate))}</caption>"
        "<thead><tr><th scope='col' style='text-align:left'>at the peak "
        f"({escape(memory.peak_moment)})</th><th scope='col'>GiB</th><td></td></tr>"
        f"</thead><tbody>{rows}</tbody><tfoot><tr><th scope='row' "
        f"style='text-align:left'>peak</th><td style='text-align:right'>"
        f"{gib(memory.peak)}</td><td>{memory.peak:,} bytes{verdict}</td></tr></tfoot>"
        "</table>"
    )
