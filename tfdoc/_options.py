"""What the command line takes: the settings of an estimate, and which exclude others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from tfdoc.presets import preset_names

F = TypeVar("F", bound=Callable[..., Any])
UNITS = {"b": 1} | {f"{p}ib": 1024**n for n, p in enumerate("kmgt", 1)}
UNITS |= {f"{p}b": 1000**n for n, p in enumerate("kmgt", 1)}
LARGEST = 2**50  # bytes
MOST = 10**9
TRAINING = ("checkpointing", "optim", "accumulate")
INFERENCE = ("kv_dtype", "requests")


class Model(click.types.StringParamType):
    """A preset, a config.json or a folder: the estimate finds out which."""

    name = "model"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete the names of presets, and files."""
        start = incomplete.lower()
        names = [name for name in preset_names() if name.startswith(start)]
        return [CompletionItem(incomplete, type="file"), *map(CompletionItem, names)]


class Gpu(click.types.StringParamType):
    """A size or a name: the estimate finds out which."""

    name = "gpu"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete the names of accelerators."""
        from tfdoc.cost.gpus import GPUS  # noqa: PLC0415  # a table of its own

        start = incomplete.lower()
        return [CompletionItem(name) for name in GPUS if name.startswith(start)]


def size(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Return the bytes of a text such as 1GiB."""
    if text is None:
        return None
    found = re.fullmatch(
        r"(\d{1,20}(?:\.\d{1,20})?)\s*([a-z]+)", text.lower(), re.ASCII
    )
    if found is None or found[2] not in UNITS:
        raise click.BadParameter(f"{text!r} is no size such as 1GiB or 800MB.")
    nbytes = int(float(found[1]) * UNITS[found[2]])
    if nbytes > LARGEST:
        raise click.BadParameter(f"{text!r} is more than {LARGEST} bytes.")
    return nbytes


def counted(_: click.Context, __: click.Parameter, value: int | None) -> int | None:
    """Return a number that makes sense."""
    if value is not None and not 1 <= value <= MOST:
        raise click.BadParameter(f"{value} is not from 1 to {MOST:,}.")
    return value


def number(flag: str, text: str, metavar: str = "N") -> Callable[[F], F]:
    """Return an option that takes a whole number."""
    return click.option(flag, type=int, metavar=metavar, callback=counted, help=text)


MODEL = Model()
# None is "not given": the defaults are those of the estimate, and of these texts.
SETTINGS = (
    click.option("--train", is_flag=True, help="A training step; this is the default."),
    click.option("--infer", is_flag=True, help="A forward pass that fills a cache."),
    number("--batch", "Sequences at once.  [default: 1]"),
    number(
        "--seq", "Tokens of each.  [default: 2048, or what the model has positions for]"
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "amp"]),
        help="Of weights and activations; amp is fp32 under autocast to bf16.  "
        "[default: bf16]",
    ),
    click.option(
        "--attn",
        type=click.Choice(["eager", "sdpa"]),
        help="Attention step by step, or fused.  [default: sdpa]",
    ),
    click.option(
        "--logits",
        type=click.Choice(["last", "all"]),
        help="In inference, positions that get logits.  [default: last, where the "
        "model can]",
    ),
    click.option(
        "--checkpointing",
        is_flag=True,
        default=None,
        help="Run each layer again in the backward pass.",
    ),
    click.option(
        "--optim",
        type=click.Choice(["adamw", "adamw8bit", "sgd", "none"]),
        help="The optimiser.  [default: adamw]",
    ),
    number("--accumulate", "Batches to a step.  [default: 1]"),
    click.option(
        "--kv-dtype",
        type=click.Choice(["bf16", "fp8", "fp32", "fp16"]),
        help="Of the key/value cache.  [default: that of the activations]",
    ),
    number("--requests", "Caches held at once.  [default: the batch]"),
    number("--lora", "Train adapters of this rank, and nothing else.", "RANK"),
    click.option(
        "--lora-targets",
        metavar="TARGETS",
        help="all-linear, qv, qkvo, or names of modules with commas.  "
        "[default: all-linear]",
    ),
    click.option(
        "--quant",
        type=click.Choice(["none", "int8", "nf4"]),
        help="Of linear layers.  [default: none]",
    ),
    click.option(
        "--gpu", type=Gpu(), help="Will it fit: a size as 24GiB, or a name as h200."
    ),
    click.option(
        "--overhead", metavar="SIZE", callback=size, help="On top of tensors, as 1GiB.  [default: none]"
    ),
    click.option(
        "--architecture",
        metavar="CLASS",
        help="The model with its head, as LlamaForSequenceClassification.",
    ),
)  # fmt: skip


def settings(command: F) -> F:
    """Give a command the settings of an estimate."""
    for option in reversed(SETTINGS):
        command = option(command)
    return command


def taken(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an estimate; refuse options that contradict each other."""
    asked = {name: value for name, value in given.items() if value is not None}
    if asked.pop("train") & (infer := asked.pop("infer")):
        raise click.UsageError("--train and --infer exclude each other; keep one.")
    for name in TRAINING if infer else INFERENCE:
        if name in asked:
            flag, other = name.replace("_", "-"), "--train" if infer else "--infer"
            raise click.UsageError(f"--{flag} says something of {other} only.")
    if not infer and asked.get("logits") == "last":
        raise click.UsageError(
            "--logits last says something of --infer only; training needs all."
        )
    if "lora_targets" in asked and "lora" not in asked:
        raise click.UsageError("--lora-targets needs --lora with a rank.")
    if "lora" in asked:
        targets = asked.pop("lora_targets", "all-linear")
        asked["lora"] = {"r": asked["lora"], "targets": targets}
    return {"mode": "infer" if infer else "train"} | asked
