"""Estimates: the closed form of memory against rehearsals and published measurements."""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from torch import nn

from tests.coefficients.stage import LM, RANK, Stage, stages
from tests.coefficients.table import form, packed, samples, settings, unpacked
from tests.test_ledger_huggingface import built
from tests.tiny import ids
from tfdoc import (
    Rehearsal,
    estimate,
    ledger,
    preset,
    preset_names,
    rehearse,
)
from tfdoc._stage import on_meta
from tfdoc.cost.memory import FOLDER
from tfdoc.cost.tables import TYPES, model

pytestmark = pytest.mark.filterwarnings("ignore")
transformers.logging.set_verbosity_error()

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "memory.json").read_text(encoding="utf-8")
)


def estimated(row: list[Any], kind: str) -> int:
    name, batch, seq, precision, attn, choice, *_ = row
    other: dict[str, Any] = {"checkpointing" if kind == "train" else "logits": choice}
    found = estimate(
        DATA["models"][name],
        kind, batch=batch, seq=seq, precision=precision, attn=attn, **other,
    )  # fmt: skip
    if kind == "infer":
        assert found.memory.kv_cache == row[-1]
    return found.memory.peak


def test_the_closed_form_meets_the_measured_peaks() -> None:
    errors = [
        abs(estimated(row, "train") / max(row[-3:]) - 1) for row in DATA["train"]
    ] + [abs(estimated(row, "infer") / row[-2] - 1) for row in DATA["infer"]]
    assert len(errors) == 54
    assert statistics.median(errors) < 1e-4
    assert max(errors) < 1e-3


@pytest.mark.parametrize("model_type", TYPES)
def test_the_coefficients_are_those_of_a_rehearsal(model_type: str) -> None:
    """One variant and setting of each type, another for every type, made anew."""
    number = TYPES.index(model_type)
    condition, head, flags, kinds = [*stages(model_type)][number % 3 // 2]
    stage = Stage(model_type, head, flags, tuple((kind, 2) for kind in kinds))
    kept = unpacked(model_type)[condition]
    ways = [s for s in settings(head in LM, dict(flags)["tied"]) if s.name in kept]
    setting = random.Random(number).choice(ways)  # noqa: S311
    made = form(stage, kinds, setting, samples(kinds, flags))
    # Of entries that are alike any may be chosen: the order is not compared.
    assert sorted(made, key=str) == sorted(kept[setting.name], key=str)


def test_the_tables_are_those_that_are_written() -> None:
    for model_type in TYPES:
        text = FOLDER.joinpath(f"{model_type}.json").read_text(encoding="utf-8")
        assert packed(unpacked(model_type)) == text
    assert len([*FOLDER.iterdir()]) == len(TYPES)


# The smallest published model of every type, against a rehearsal of itself.
SMALLEST = {
    kind: min(
        (name for name in preset_names() if preset(name)["model_type"] == kind),
        key=lambda name: ledger(name).total,
    )
    for kind in TYPES
}


def shortened(name: str) -> dict[str, Any]:
    """Return a published config with seven layers at most and a vocabulary as its head."""
    config = preset(name)
    heads = model(config["model_type"])["heads"]
    config["architectures"] = [next(head for head in LM if head in heads)]
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if key in config:
            config[key] = min(config[key], 7)
    for key in ("encoder_layers", "decoder_layers", "num_decoder_layers"):
        if key in config:
            config[key] = min(config[key], 5)
    if config["model_type"] == "t5":  # transformers ties in any case
        config["tie_word_embeddings"] = True
    if config["model_type"] == "gpt_neo":
        config["attention_types"] = [[["global"], config["num_layers"]]]
    return config


def rehearsed(config: dict[str, Any], **choice: Any) -> Rehearsal:
    mode, attn = choice["mode"], choice["attn"]
    plain = {k: v for k, v in config.items() if k != "attention_types"}
    architecture = ledger(plain).architecture
    config = {k: v for k, v in config.items() if k != "architectures"}
    if config["model_type"] == "t5":
        config["decoder_start_token_id"] = 0

    def model() -> nn.Module:
        return built(config, architecture, attn_implementation=attn)

    x = ids(choice["batch"], choice["seq"])
    given: dict[str, Any] = {"input_ids": x}
    if config["model_type"] in ("t5", "bart"):
        given["decoder_input_ids"] = x
    lm = architecture.endswith((*LM, "LMHeadModel"))
    if mode == "train" and lm:
        given["labels"] = x
    elif choice.get("logits") == "last":
        given["logits_to_keep"] = 1
    return rehearse(
        model,
        mode=mode,
        precision=choice["precision"],
        checkpointing=choice.get("checkpointing", False),
        loss=None if lm else lambda output: output[0].sum(),
        **given,
    )


@pytest.mark.measures
@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_published_shapes_against_their_rehearsal(model_type: str, mode: str) -> None:
    rng = random.Random(f"{model_type} {mode}")  # noqa: S311
    config = shortened(SMALLEST[model_type])
    plain = {k: v for k, v in config.items() if k != "attention_types"}
    choice: dict[str, Any] = {
        "mode": mode,
        "batch": rng.choice([1, 3, 8]),
        "seq": rng.choice([128, 384, 512]),
        "precision": rng.choice(["fp32", "bf16", "amp"]),
        "attn": rng.choice(["eager", "sdpa"]),
    }
    if mode == "train":
        choice["checkpointing"] = rng.random() < 0.4
    else:
        choice["logits"] = "all"
    found = estimate(plain, **choice)
    choice["attn"] = found.settings["attn"]
    truth = rehearsed(config, **choice)
    assert found.memory.peak == pytest.approx(truth.peak, rel=0.01), choice
    if choice["precision"] != "amp":  # a rehearsal counts autocast's copies with them
        assert found.memory.activations == pytest.approx(truth.activations, rel=0.01)
    assert found.memory.gradients == pytest.approx(truth.gradients, rel=1e-3)
    assert found.memory.optimizer == pytest.approx(truth.optimizer, rel=1e-3)


def test_operations_of_a_training_step_are_those_of_a_rehearsal() -> None:
    config = shortened("smollm2-135m")
    for attn, again in product(("eager", "sdpa"), (False, True)):
        choice: dict[str, Any] = {
            "mode": "train", "batch": 2, "seq": 256, "precision": "bf16", "attn": attn,
            "checkpointing": again,
        }  # fmt: skip
        found, truth = estimate(config, **choice), rehearsed(config, **choice)
        # torch does not run the last product of a layer again: nothing needs it.
        spared = 2 * 2 * 256 * 1536 * 576 * 7 if again else 0
        assert found.flops.training_step == truth.flops.total + spared
        twice = estimate(config, **choice, accumulate=2)
        assert twice.flops.training_step == 2 * found.flops.training_step
        assert found.flops.forward == ledger(config).flops(2, 256)


@dataclass(frozen=True)
class Published(Stage):
    """A stage with a published config."""

    def config(self) -> dict[str, Any]:
        """Return it."""
        return shortened("qwen2.5-0.5b")


@pytest.mark.parametrize("targets", ["qv", "qkvo", "all-linear"])
def test_adapters_against_their_rehearsal(targets: str) -> None:
    stage = Published("qwen2", "ForCausalLM", (), (("L", 7),))
    x = ids(4, 512)
    for precision, attn, again in (
        ("fp32", "eager", False),
        ("bf16", "sdpa", False),
        ("amp", "sdpa", True),
    ):
        truth = rehearse(
            stage.build(attn, targets),
            precision=precision,  # type: ignore[arg-type]
            checkpointing=again,
            input_ids=x,
            labels=x,
        )
        found = estimate(
            stage.config(), batch=4, seq=512, precision=precision, attn=attn,
            checkpointing=again, lora={"r": RANK, "targets": targets},
        )  # fmt: skip
        assert found.memory.peak == pytest.approx(truth.peak, rel=2e-3)
        assert found.memory.weights == pytest.approx(truth.parameters, rel=1e-3)
        assert found.memory.optimizer == pytest.approx(truth.optimizer, rel=0.03)
        if precision == "bf16":
            kept = truth.activations
            assert found.memory.activations == pytest.approx(kept, rel=2e-3)
            full = estimate(stage.config(), batch=4, seq=512).memory
            assert found.memory.activations < full.activations
            linear = estimate(stage.config(), batch=4, seq=512, lora={"r": RANK})
            step, all_linear = found.flops.training_step, linear.flops.training_step
            # Where nothing before a map is trained, torch passes no gradient on.
            assert truth.flops.total <= step <= all_linear
            assert step < 1.03 * truth.flops.total


def test_gradients_that_are_kept_between_batches() -> None:
    """A step whose parameters have gradients already."""
    config = shortened("smollm2-135m")
    copies: list[Any] = []

    def remembered(thing: Any, dtype: torch.dtype) -> Any:
        copies.append(on_meta(thing, dtype))
        return copies[-1]

    def loss(output: Any) -> Any:
        for parameter in copies[0].parameters():
            parameter.grad = torch.empty_like(parameter)
        return output.loss

    def build() -> nn.Module:
        return built(config, "LlamaForCausalLM", attn_implementation="sdpa")

    x = ids(8, 512)
    with mock.patch("tfdoc.rehearsal.on_meta", remembered):
        truth = rehearse(build, precision="bf16", loss=loss, input_ids=x, labels=x)
    found = estimate(config, batch=8, seq=512, accumulate=2)
    assert found.memory.peak == pytest.approx(truth.peak, rel=0.01)
    assert found.memory.peak > estimate(config, batch=8, seq=512).memory.peak
