"""The command line: ``python -m tfdoc``, or ``tfdoc`` where scripts are installed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dis import opmap
from types import TracebackType
from typing import Any

import click

from tfdoc import __version__
from tfdoc._options import MODEL, settings, taken
from tfdoc.cost import Ledger, ledger
from tfdoc.cost.configs import near
from tfdoc.cost.estimates import Estimate
from tfdoc.cost.estimates import estimate as estimated
from tfdoc.cost.report import Look, active, as_dict, text
from tfdoc.presets import preset, preset_names

__all__: list[str] = []  # a program, not a library

COLOURS: dict[str, dict[str, Any]] = {
    "head": {"bold": True},
    "bar": {"fg": "cyan"},
    "good": {"fg": "green", "bold": True},
    "bad": {"fg": "red", "bold": True},
    "note": {"dim": True},
}
WIDEST, LONGEST = 100, 600
CONTEXT = {"help_option_names": ["-h", "--help"]}


class Refusal(click.ClickException):
    """What the user can mend, in one line."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the line."""
        said = " ".join(self.message.split())
        said = said if len(said) <= LONGEST else f"{said[:LONGEST]} ..."
        click.echo(f"tfdoc: error: {said}", file=file, err=file is None)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what the package refuses into one line; bugs keep their traceback."""
    try:
        yield
    except OSError as error:
        raise Refusal(f"{error.filename}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        if not deliberate(error.__traceback__):
            raise
        raise Refusal(str(error.args[0])) from None


def deliberate(trace: TracebackType | None) -> bool:
    """Say whether a raise statement of this package raised it."""
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_globals["__name__"].startswith("tfdoc."):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == opmap["RAISE_VARARGS"]


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="tfdoc")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Say what transformers cost, and whether they fit; nothing is fetched.

    \b
    Completion of commands, options and presets, from the next shell on:
      bash  echo 'eval "$(_TFDOC_COMPLETE=bash_source tfdoc)"' >> ~/.bashrc
      zsh   echo 'eval "$(_TFDOC_COMPLETE=zsh_source tfdoc)"' >> ~/.zshrc
      fish  echo '_TFDOC_COMPLETE=fish_source tfdoc | source' \\
              > ~/.config/fish/completions/tfdoc.fish
    """  # noqa: D301
    if os.environ.get("NO_COLOR"):
        ctx.color = False


@main.command()
@click.argument("model", type=MODEL)
@settings
@click.option("--trace", is_flag=True, help="Rehearse the model of transformers too.")
@click.option("--explain", is_flag=True, help="Show each formula with its numbers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def estimate(
    model: str, trace: bool, explain: bool, as_json: bool, **given: Any
) -> None:
    """Say what a step of a model needs, and what fits.

    MODEL is a preset (see tfdoc presets), a config.json or the folder that holds one.

    \b
    Examples:
      tfdoc estimate gpt2
      tfdoc estimate llama-3-8b --lora 16 --quant nf4 --gpu 24GiB
      tfdoc estimate path/to/config.json --infer --batch 8 --seq 4096
    """  # noqa: D301
    asked = taken(given)
    with refusals():
        found = estimated(model, **asked)
        seen = rehearsed(model, found) if trace else None
    if as_json:
        more = {} if seen is None else {"trace": seen}
        return show_json(as_dict(found, explain) | more)
    look = terminal()
    click.echo(text(found, look.width, explain, look))
    if seen:
        from tfdoc.cost.columns import traced  # noqa: PLC0415

        click.echo(f"\n{traced(found, seen, look)}")
    return None


@main.command()
@click.argument("model_a", type=MODEL)
@click.argument("model_b", type=MODEL)
@settings
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(model_a: str, model_b: str, as_json: bool, **given: Any) -> None:
    """Set two models side by side.

    Both have the same settings, and the ratio is that of MODEL_B to MODEL_A.

    \b
    Example:
      tfdoc compare llama-3-8b mistral-7b-v0.3 --infer --seq 8192
    """  # noqa: D301
    from tfdoc.cost.columns import compared, ratios  # noqa: PLC0415

    asked = taken(given)
    with refusals():
        a, b = estimated(model_a, **asked), estimated(model_b, **asked)
    if as_json:
        return show_json({"a": as_dict(a), "b": as_dict(b), "ratio": ratios(a, b)})
    return click.echo(compared(a, b, terminal()))


@main.command()
@click.argument("word", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def presets(word: str, as_json: bool) -> None:
    """List the models known by name.

    With WORD, those that have it in name or type.
    """
    rows = []
    for name in preset_names():
        kind = preset(name)["model_type"]
        if word.lower() in name or word.lower() in kind:
            rows.append((name, ledger(name)))
    if not rows:
        hint = near(word.lower(), preset_names())
        raise Refusal(f"no preset has {word!r} in its name or type{hint}")
    if as_json:
        return show_json(
            [
                {"name": n, "type": b.model_type, "total": b.total, "active": b.active}
                for n, b in rows
            ]
        )
    return click.echo("\n".join(listed(rows)))


def listed(rows: Sequence[tuple[str, Ledger]]) -> Iterator[str]:
    """Yield a line for each preset."""
    names = max(len(name) for name, _ in rows)
    types = max(len(book.model_type) for _, book in rows)
    for name, book in rows:
        kind, used = book.model_type, active(book.total, book.active)
        yield f"{name:{names}}  {kind:{types}}  {book.total:>15,}  {used}"


def rehearsed(model: str, found: Estimate) -> dict[str, Any]:
    """Return what a rehearsal with the same settings saw."""
    try:
        from tfdoc._trace import rehearsal_of  # noqa: PLC0415  # imports torch
    except ModuleNotFoundError as error:
        raise Refusal(
            f"--trace runs the model of transformers, but {error.name} is not "
            "installed; pip install torch transformers"
        ) from None
    return rehearsal_of(model, found)


def show_json(data: object) -> None:
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def terminal() -> Look:
    """Return how to set text where it goes."""
    try:
        "█▏×".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        blocks = False
    else:
        blocks = True
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return Look(width, blocks, lambda part, kind: click.style(part, **COLOURS[kind]))
