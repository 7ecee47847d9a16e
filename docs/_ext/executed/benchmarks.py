"""The page of the benchmarks, out of the numbers that ``nox -s bench`` wrote.

``.. benchmarks:: KIND`` shows one part of them: the ``machine``, the ``figure``, the
``goals``, the ``memory``, or ``all`` that was timed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

NUMBERS = "benchmarks.json"
# What the cases are called on the page, in its order.
TITLES = {
    "attn/full": "Attention core",
    "attn/causal": "Attention core, causal",
    "attn/padding": "Attention core, padding",
    "attn/fullmask": "Attention core, one sequence all padding",
    "attn/window": "Attention core, sliding window",
    "attn/gqa": "Attention core, causal, grouped heads",
    "attn/decode": "One query on a cache",
    "attn/decode_gqa": "One query on a cache, grouped heads",
    "mha/bidir": "Multi-head attention",
    "mha/causal": "Multi-head attention, causal",
    "mha/llama": "Attention of Llama: causal, grouped, rotary",
    "norm/layer": "LayerNorm",
    "norm/rms": "RMSNorm",
    "ffn/gelu": "Feed-forward, GELU",
    "ffn/swiglu": "Feed-forward, SwiGLU",
    "ffn/moe": "Mixture of experts, 2 of 8",
    "rope": "Rotary positions",
    "encoder/nomask": "Encoder layer",
    "encoder/padded": "Encoder layer, padding",
    "lm/gpt2/fwd": "GPT-2, logits",
    "lm/gpt2/train": "GPT-2, training",
    "lm/llama/fwd": "Llama, logits",
    "lm/llama/train": "Llama, training",
    "gen/gpt2": "GPT-2, generation",
    "gen/llama": "Llama, generation",
}
MODES = {
    "fwd": "forward",
    "fwdbwd": "forward and backward",
    "train": "a step of AdamW",
    "gen": "greedy, with a cache",
}
RANGE = (0.2, 4.0)  # of the figure's ratios, on a logarithmic axis

Result = dict[str, Any]
Rows = Iterator[list[str]]


def title(result: Result) -> str:
    """Return what was timed, in words."""
    words = f"{TITLES[result['case']]}: {MODES[result['mode']]}"
    sizes = result["sizes"]
    if result["mode"] == "gen":
        words += f", batch {sizes['b']}"
    if result["size"] == "one":
        words += ", one token"
    if result["case"] == "attn/window":
        words += f", {sizes['n']} tokens"
    return words


def ratio(quartiles: list[float]) -> str:
    """Return the median, and between what half of the rounds lay."""
    low, middle, high = quartiles
    return f"{middle:.3f} ({low:.2f} to {high:.2f})".replace(" ", "\N{NO-BREAK SPACE}")


def milliseconds(row: Result) -> str:
    """Return the median time, to three digits."""
    return f"{row['ms']:,.0f}" if row["ms"] >= 100 else f"{row['ms']:.3g}"


def machine(found: Result) -> Rows:
    """Yield what it was measured on, and with."""
    told = found["machine"]
    yield ["Part", "Measured with"]
    yield ["Processor", f"{told['cpu']}, {told['vectors']}, {told['cores']} cores"]
    yield ["System", told["system"]]
    yield ["Measured on", told["date"]]
    for name, version in found["versions"].items():
        yield [name, version or "not installed: left out"]


def goals(found: Result) -> Rows:
    """Yield tfdoc beside whom its goal names."""
    yield ["What", "tfdoc, ms", "Compared with", "Ratio", "Goal", "Met"]
    for result in found["results"]:
        if goal := result.get("goal"):
            low, middle, _ = goal["ratio"]
            limit = goal["at_most"]
            met = "yes" if middle <= limit else "close" if low <= limit else "**no**"
            yield [
                title(result),
                milliseconds(_own(result)),
                goal["against"],
                ratio(goal["ratio"]),
                f"{limit:.2f}",
                met,
            ]


def memory(found: Result) -> Rows:
    """Yield the peaks of causal attention, in MB."""
    peaks = found["memory"]["peaks"]
    yield ["Tokens", *(f"{int(length):,}" for length in peaks[0]["mb"])]
    for row in peaks:
        yield [row["label"], *(f"{mb:,.1f}" for mb in row["mb"].values())]
    places = [""] * (len(peaks[0]["mb"]) - 1)
    yield ["Goal", *places, f"{found['memory']['at_most']:.1f}"]


def everything(found: Result) -> Rows:
    """Yield every implementation of every case."""
    yield ["What", "Implementation", "ms", "Ratio to the best peer", "Error"]
    for result in found["results"]:
        for row in result["implementations"]:
            cells = [title(result), row["label"]]
            if "refused" in row:
                yield [*cells, "", row["refused"], ""]
            else:
                note = f"; {row['note']}" if "note" in row else ""
                cells += [milliseconds(row), ratio(row["ratio"]) + note]
                yield [*cells, f"{row['error']:.0e}"]


def _own(result: Result) -> Result:
    return next(row for row in result["implementations"] if row["kind"] == "own")


def _at(value: float) -> str:
    """Return where a ratio stands on the axis, in per cent."""
    low, high = map(math.log, RANGE)
    place = (math.log(value) - low) / (high - low)
    return f"{2 + 96 * min(max(place, 0.0), 1.0):.2f}%"


def figure(found: Result) -> str:
    """Return a row for each case: the peers as rings, tfdoc as a disc, a bar its goal."""
    rows = []
    for result in found["results"]:
        timed = [row for row in result["implementations"] if "ms" in row]
        peers = [row["ratio"][1] for row in timed if row["kind"] == "peer"]
        own = _own(result)["ratio"][1]
        marks = [f'<circle class="peer" cx="{_at(x)}" cy="10" r="4"/>' for x in peers]
        if goal := result.get("goal"):
            against = next(row for row in timed if row["label"] == goal["against"])
            x = _at(goal["at_most"] * against["ratio"][1])
            marks.append(f'<line class="goal" x1="{x}" x2="{x}" y1="1" y2="19"/>')
        marks.append(f'<circle class="own" cx="{_at(own)}" cy="10" r="5"/>')
        one = _at(1)
        axis = '<line class="axis" x1="2%" x2="98%" y1="10" y2="10"/>'
        axis += f'<line class="axis" x1="{one}" x2="{one}" y1="0" y2="20"/>'
        label = (
            f'<span>{escape(title(result))}</span><span class="own">{own:.2f}</span>'
        )
        rows.append(f"<li>{label}<svg>{axis}{''.join(marks)}</svg></li>")
    ticks = "".join(
        f'<text x="{_at(x)}" y="14" text-anchor="middle">{x:g}</text>'
        for x in (0.25, 0.5, 1, 2, 4)
    )
    scale = f'<li aria-hidden="true"><span>Ratio of times</span><svg>{ticks}</svg></li>'
    return f'<ul class="ratios">{scale}{"".join(rows)}</ul>'


TABLES: dict[str, Callable[[Result], Rows]] = {
    "machine": machine,
    "goals": goals,
    "memory": memory,
    "all": everything,
}


class Benchmarks(SphinxDirective):
    """One part of the measurements."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a table or the figure."""
        path = Path(self.env.srcdir, NUMBERS)
        self.env.note_dependency(path)
        found = json.loads(path.read_text(encoding="utf-8"))
        found["results"].sort(key=lambda result: list(TITLES).index(result["case"]))
        if (kind := self.arguments[0]) == "figure":
            return [nodes.raw("", figure(found), format="html")]
        lines = [".. list-table::", "   :header-rows: 1", "   :class: benchmarks", ""]
        for first, *others in TABLES[kind](found):
            lines.append(f"   * - {first}")
            lines += [f"     - {cell}".rstrip() for cell in others]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.add_directive("benchmarks", Benchmarks)
