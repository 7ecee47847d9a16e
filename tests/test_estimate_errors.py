"""What an estimate refuses, and how."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tfdoc import Estimate, estimate

NAN = float("nan")
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mode": "serve"}, ValueError, "mode must be one of train, infer; got 'serve'"),
    ({"mode": None}, ValueError, "mode must be one of train, infer; got None"),
    ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
    ({"batch": -3}, ValueError, "batch must be at least 1, got -3"),
    ({"batch": 1.5}, TypeError, "batch must be a positive integer, got 1.5 (float)"),
    ({"batch": NAN}, TypeError, "batch must be a positive integer, got nan"),
    ({"batch": "8"}, TypeError, "batch must be a positive integer, got '8' (str)"),
    ({"batch": 10**20}, ValueError, f"batch={10**20} is too large"),
    ({"seq": 0}, ValueError, "seq must be at least 1, got 0"),
    ({"seq": True}, TypeError, "seq must be a positive integer, got True"),
    (
        {"seq": 1025},
        ValueError,
        "seq=1025 is more than the 1024 positions of the model",
    ),
    (
        {"precision": "fp16"},
        ValueError,
        "precision must be one of bf16, fp32, amp; got",
    ),
    ({"attn": "flash"}, ValueError, "attn must be one of sdpa, eager; got 'flash'"),
    ({"checkpointing": 1}, TypeError, "checkpointing must be True or False, got 1"),
    ({"optim": "lion"}, ValueError, "optim must be one of adamw, adamw8bit, sgd, none"),
    ({"lora": 16}, TypeError, "lora must be a dict such as {'r': 16}, got 16"),
    ({"lora": {}}, ValueError, "lora={} has no rank; add 'r': 16"),
    ({"lora": {"r": 0}}, ValueError, "r must be at least 1, got 0"),
    ({"lora": {"r": 8, "alpha": 4}}, ValueError, "unknown key 'alpha'; it takes r"),
    ({"lora": {"r": 8, "targets": "q_prj"}}, ValueError, "targets='q_prj' names no"),
    ({"lora": {"r": 8, "targets": []}}, ValueError, "targets is empty; name a module"),
    ({"lora": {"r": 8, "targets": 3}}, TypeError, "targets must be"),
    (
        {"quant": "nf4"},
        ValueError,
        "quant='nf4' has no gradients of its own; train adap",
    ),
    ({"quant": "int3"}, ValueError, "quant must be one of none, int8, nf4; got 'int3'"),
    (
        {"logits": "last"},
        ValueError,
        "logits='last' says something of mode='infer' only",
    ),
    ({"logits": "some"}, ValueError, "logits must be one of all, last; got 'some'"),
    ({"accumulate": 0}, ValueError, "accumulate must be at least 1, got 0"),
    ({"kv_dtype": "fp8"}, ValueError, "kv_dtype='fp8' says something of mode='infer'"),
    ({"requests": 4}, ValueError, "requests=4 says something of mode='infer' only"),
    ({"gpu": "24"}, ValueError, "gpu='24' has no unit; write '24GiB'"),
    (
        {"gpu": "h1000"},
        ValueError,
        "gpu='h1000' is no size such as '24GiB' and no name",
    ),
    ({"gpu": -1}, ValueError, "gpu must be at least 1, got -1"),
    ({"overhead": -1}, ValueError, "overhead must be at least 0, got -1"),
    ({"overhead": "1GiB"}, TypeError, "overhead must be an integer, got '1GiB'"),
    ({"architecture": "GPT2"}, ValueError, "architecture='GPT2' is no class of"),
]
IN_INFERENCE: list[tuple[dict[str, Any], str]] = [
    ({"checkpointing": True}, "checkpointing=True says something of mode='train' only"),
    ({"accumulate": 2}, "accumulate=2 says something of mode='train' only"),
    ({"optim": "sgd"}, "optim='sgd' says something of mode='train' only"),
    ({"batch": 4, "requests": 2}, "requests=2 must be at least batch=4"),
    ({"kv_dtype": "int4"}, "kv_dtype must be one of fp32, bf16, fp16, fp8; got 'int4'"),
]


@pytest.mark.parametrize(("given", "error", "message"), WRONG)
def test_wrong_settings_are_named(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        estimate("gpt2", **given)


@pytest.mark.parametrize(("given", "message"), IN_INFERENCE)
def test_settings_of_training_are_refused_in_inference(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        estimate("gpt2", "infer", **given)


def test_logits_that_no_model_gives_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="logits='last' is not what BertForMaskedLM"):
        estimate(
            "bert-base-uncased", "infer", architecture="ForMaskedLM", logits="last"
        )


def test_a_family_without_fused_attention_says_so() -> None:
    assert estimate("bloom-1b1").settings["attn"] == "eager"
    assert estimate("gpt2").settings["attn"] == "sdpa"


def taken(**given: Any) -> Estimate:
    return estimate("llama-3.2-1b", **given)


def test_kinds_add_up_to_the_peak() -> None:
    for mode in ("train", "infer"):
        memory = taken(mode=mode, batch=2).memory
        assert sum(memory.at_peak.values()) == memory.peak == max(memory.peaks.values())
        assert memory.peaks[memory.peak_moment] == memory.peak


def test_what_does_not_fit_says_what_would() -> None:
    found = taken(batch=8, gpu="16GiB")
    assert found.fits is False
    assert found.largest_batch == 1
    assert found.largest_seq is not None
    assert taken(batch=8, seq=found.largest_seq, gpu="16GiB").fits
    assert not taken(batch=8, seq=found.largest_seq + 1, gpu="16GiB").fits
    best, peak = next(iter(found.levers.items()))
    assert (best, peak) == ("--checkpointing", min(found.levers.values()))
    assert taken(batch=8, checkpointing=True).memory.peak == peak
    assert found.memory.peak > max(found.levers.values())
    assert taken(gpu=found.memory.peak, batch=8).fits
    assert not taken(gpu=found.memory.peak, batch=8, overhead=1).fits
    assert taken(gpu="1GiB").largest_batch == 0


def test_requests_that_wait_hold_their_cache() -> None:
    one, many = taken(mode="infer", seq=4096), taken(mode="infer", seq=4096, requests=9)
    cache = one.memory.kv_cache
    assert cache == 2 * 16 * 8 * 64 * 2 * 4096
    assert many.memory.kv_cache == 9 * cache
    assert many.memory.peak == one.memory.peak + 8 * cache
    half = taken(mode="infer", seq=4096, requests=9, kv_dtype="fp8").memory
    assert half.kv_cache * 2 == many.memory.kv_cache
    assert many.memory.peak - half.peak == pytest.approx(cache * 9 / 2)


def test_states_of_optimisers() -> None:
    weights = taken().memory.weights
    assert taken().memory.optimizer == 2 * weights
    assert taken(precision="amp").memory.optimizer == 4 * weights
    assert taken(optim="sgd").memory.optimizer == 0
    assert "step" not in taken(optim="none").memory.peaks
    eight = taken(optim="adamw8bit").memory.optimizer
    # Two bytes a number with two scales of 4 bytes for 256; all norms in fp32.
    norms = 33 * 2048
    assert eight == (2 + 8 / 256) * (weights // 2 - norms) + 8 * norms


def test_an_estimate_shows_itself() -> None:
    found = taken(lora={"r": 16}, quant="nf4", gpu="24GiB")
    assert "<table" in found._repr_html_()
    assert found.lora.trainable == 11_272_192
    assert found.model == "llama-3.2-1b"
    names = [name for name, _, _ in found.steps]
    assert names[:3] == ["weights", "gradients", "optimizer"]


def test_no_kind_falls_below_nothing_where_there_are_no_layers_of_it() -> None:
    found = estimate(
        "flan-t5-small", architecture="EncoderModel", seq=64, checkpointing=True,
        lora={"r": 8},
    )  # fmt: skip
    assert min(found.memory.at_peak.values()) >= 0
    assert sum(found.memory.at_peak.values()) == found.memory.peak
