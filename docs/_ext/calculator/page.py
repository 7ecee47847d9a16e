"""The page of the calculator: form, table of well-known models, formulas."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import tfdoc
from tfdoc import estimate, ledger, preset, preset_names
from tfdoc.cost import formulas
from tfdoc.cost.gpus import GPUS
from tfdoc.cost.memory import FOLDER
from tfdoc.cost.tables import model

from . import bundle, tracing

STANDARD = "rtx-4090"
SCRIPT, STYLE = "calculator.js", "calculator.css"
FIRST = "llama-3-8b"
GLANCE = (
    "gpt2", "bert-base-uncased", "t5-large", "llama-3.2-1b", "gemma-2-9b",
    "mistral-7b-v0.1", "llama-3-8b", "qwen3-32b", "llama-3-70b", "mixtral-8x7b",
    "gpt-oss-20b", "deepseek-v3",
)  # fmt: skip
TOKENS = 8192


def gpus() -> list[tuple[str, str]]:
    """Return what the form offers: accelerators by memory, and none of them."""
    known = sorted(GPUS.values(), key=lambda gpu: (gpu.name != STANDARD, gpu.memory))
    named = [(gpu.name, f"{gpu.name}: {gpu.memory / 2**30:.1f} GiB") for gpu in known]
    return [*named, ("", "another size"), ("none", "none, only count")]


def families() -> list[tuple[str, list[str]]]:
    """Return the presets by family, as their files keep them."""
    found = groupby(preset_names(), lambda name: str(preset(name)["model_type"]))
    return [(str(model(family)["class"]), list(names)) for family, names in found]


def _depend(env: BuildEnvironment) -> None:
    """Read the page again when anything that it is made of changes."""
    for folder in (Path(__file__).parent, Path(tfdoc.__file__).parent):
        for file in sorted(folder.rglob("*.*")):
            if file.suffix in (".py", ".json", ".html"):
                env.note_dependency(file)


class Calculator(SphinxDirective):
    """``.. calculator::``: the form and the places of its results."""

    def run(self) -> list[nodes.Node]:
        """Return the form as HTML."""
        template = Path(__file__).with_name("form.html")
        _depend(self.env)
        page = jinja2.Template(template.read_text(encoding="utf-8"), autoescape=True)
        form = page.render(families=families(), first=FIRST, gpus=gpus())
        return [nodes.raw("", form, format="html")]


class AtAGlance(SphinxDirective):
    """``.. calculator-models::``: what well-known models take, counted by Python."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        _depend(self.env)
        heads = [
            "Model", "Parameters, millions", "active", "Weights in bf16", "in NF4",
            "Cache", "Training", "with LoRA on NF4",
        ]  # fmt: skip
        rows = [heads, *map(_glance, GLANCE)]
        lines = [".. list-table::", "   :header-rows: 1", "   :class: glance", ""]
        for first, *others in rows:
            lines += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
        return self.parse_text_to_nodes("\n".join(lines))


def _glance(name: str) -> list[str]:
    book = ledger(name)
    return [
        name,
        f"{book.total / 1e6:,.1f}",
        f"{book.active / 1e6:,.1f}",
        _gib(book.bytes()),
        _gib(book.bytes(quant="nf4")),
        _gib(book.kv_cache(1, TOKENS)),
        _gib(_peak(name)),
        _gib(_peak(name, lora={"r": 16}, quant="nf4")),
    ]


def _gib(nbytes: int | None) -> str:
    return "" if nbytes is None else f"{nbytes / 2**30:,.2f}"


def _peak(name: str, **settings: Any) -> int | None:
    """Return the peak of a training step, None where the table does not have it yet."""
    if not FOLDER.joinpath(f"{preset(name)['model_type']}.json").exists():
        return None
    return estimate(name, **settings).memory.peak


class Formulas(SphinxDirective):
    """``.. calculator-formulas::``: every formula, written out by calling it."""

    def run(self) -> list[nodes.Node]:
        """Return what each formula means, and the formula."""
        _depend(self.env)
        return [
            nodes.container(
                "",
                nodes.paragraph("", _sentence(formula.meaning)),
                nodes.math_block("", tracing.latex(formula), nowrap=False, number=None),
                ids=[f"formula-{formula.name}"],
            )
            for formula in tracing.traced(formulas)
        ]


def _sentence(meaning: str) -> str:
    words = meaning.removeprefix("Return ")
    return words[0].upper() + words[1:]


def write(app: Sphinx) -> None:
    """Write the script where pages find it, before they are written."""
    if app.builder.format == "html":
        target = Path(app.outdir, "_static", SCRIPT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(bundle.page_script(), encoding="utf-8", newline="\n")


def load(
    app: Sphinx,
    _page: str,
    _template: str,
    _context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Ask for script and style on the page of the calculator alone."""
    if doctree and any(
        'id="calc-form"' in raw.astext() for raw in doctree.findall(nodes.raw)
    ):
        app.add_css_file(STYLE)
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.add_directive("calculator", Calculator)
    app.add_directive("calculator-models", AtAGlance)
    app.add_directive("calculator-formulas", Formulas)
    app.connect("builder-inited", write)
    app.connect("html-page-context", load)
