"""Rehearsing the model of transformers with the settings of an estimate."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tfdoc.cost import ledger
from tfdoc.cost.adapters import adapted
from tfdoc.cost.configs import contents
from tfdoc.cost.estimates import Estimate
from tfdoc.rehearsal import Rehearsal, rehearse

# What a rehearsal runs; all else is refused, by the value of a setting.
RUNS: dict[str, tuple[object, ...]] = {
    "quant": (None, "none"),
    "optim": ("adamw", "sgd", "none"),
    "accumulate": (1,),
    "requests": (None,),
}
# These learn from a label a token.
A_TOKEN = (
    "ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration",
    "ForTokenClassification",
)  # fmt: skip


def rehearsal_of(config: str | Mapping[str, Any], estimate: Estimate) -> dict[str, Any]:
    """Return what a rehearsal saw, as data.

    Raises
    ------
    ValueError
        If a setting is one that no rehearsal runs.
    """
    s = estimate.settings
    for name, runs in RUNS.items():
        if s[name] not in runs:
            flag = f"--{name.replace('_', '-')} {s[name]}"
            raise ValueError(f"--trace cannot run {flag}; leave one of them out")
    width = "fp32" if s["precision"] == "fp32" else "bf16"
    if estimate.memory.kv_cache and s["kv_dtype"] != width:
        raise ValueError(
            f"--trace cannot run --kv-dtype {s['kv_dtype']} at --precision "
            f"{s['precision']}; a model of transformers keeps its cache in {width}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        seen = _run(contents(config)[0], estimate)
    kinds = {kind: n for kind, n in seen.by_kind.items() if n}
    return {
        "peak": seen.peak,
        "peak_moment": seen.peak_moment,
        "peaks": seen.peaks,
        "at_peak": kinds,
        "flops": {"forward": seen.flops.forward, "backward": seen.flops.backward},
        "transformers": transformers.__version__,
    }


def _run(config: dict[str, Any], estimate: Estimate) -> Rehearsal:
    s = estimate.settings
    model = _model(config, estimate)
    given = _inputs(model, estimate)
    if s["lora"]:
        model = _with_adapters(model, config, estimate)
    try:
        return rehearse(
            model,
            mode=s["mode"],
            precision=s["precision"],
            optimizer=None if s["optim"] == "none" else s["optim"],
            loss=_sum if _bare(estimate.architecture) else None,
            checkpointing=s["checkpointing"],
            fused=s["attn"] == "sdpa",
            **given,
        )
    except RuntimeError as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        raise ValueError(
            f"--trace cannot run {estimate.architecture}: {error} {notes}"
        ) from error


def _model(config: dict[str, Any], estimate: Estimate) -> nn.Module:
    """Build the class of the estimate on meta."""
    kind: Any = CONFIG_MAPPING[config["model_type"]]
    module = kind.__module__.replace("configuration_", "modeling_")
    plain = {k: v for k, v in config.items() if k not in ("model_type", "dtype")}
    try:
        network = getattr(importlib.import_module(module), estimate.architecture)
        settings = kind(**plain, attn_implementation=estimate.settings["attn"])
        with torch.device("meta"):
            return network(settings)  # type: ignore[no-any-return]
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            f"--trace cannot build {estimate.architecture}: {error}"
        ) from error


def _with_adapters(
    model: nn.Module, config: dict[str, Any], estimate: Estimate
) -> nn.Module:
    """Return the model with the adapters of peft on the modules that the ledger names."""
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415  # rarely needed
    except ModuleNotFoundError:
        raise ValueError(
            "--trace with --lora runs the adapters of peft; pip install peft"
        ) from None
    lora = estimate.settings["lora"]
    book = ledger(config, estimate.architecture)
    rows = [row for row, _ in adapted(book._rows, lora["targets"], book.architecture)]
    if any(row.kind in ("experts", "router") for row in rows):
        raise ValueError(
            "--trace cannot run adapters of a mixture's experts; give --lora-targets qkvo"
        )
    names = "|".join(
        re.escape(row.module).replace(r"\*", r"\d+").replace(r"\#", r"\d+")
        for row in rows
    )
    with torch.device("meta"):
        settings = LoraConfig(r=lora["r"], target_modules=names)
        return get_peft_model(model, settings)


def _inputs(model: nn.Module, estimate: Estimate) -> dict[str, Any]:
    s, name = estimate.settings, estimate.architecture
    ids = torch.zeros(s["batch"], s["seq"], dtype=torch.long, device="meta")
    given: dict[str, Any] = {"input_ids": ids}
    two = bool(getattr(model.config, "is_encoder_decoder", False))
    if s["mode"] == "train" and not _bare(name):
        given |= _labels(name, ids)
    if two:
        given["decoder_input_ids"] = ids.clone()
    if s["logits"] == "last":
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            raise ValueError(f"--trace cannot run --logits last: {name} returns all")
        given["logits_to_keep"] = 1
    return given


def _labels(architecture: str, ids: Tensor) -> dict[str, Tensor]:
    if architecture.endswith("ForSequenceClassification"):
        return {"labels": ids[:, 0].clone()}
    if architecture.endswith("ForQuestionAnswering"):
        return {
            "start_positions": ids[:, 0].clone(),
            "end_positions": ids[:, 0].clone(),
        }
    if architecture.endswith(A_TOKEN):
        return {"labels": ids}
    raise ValueError(f"--trace has no labels to train {architecture}; choose --infer")


def _bare(architecture: str) -> bool:
    """Say whether a model returns hidden states, and no loss."""
    return architecture.endswith("Model") and not architecture.endswith("HeadModel")


def _sum(output: Any) -> Tensor:
    return output[0].sum()  # type: ignore[no-any-return]
