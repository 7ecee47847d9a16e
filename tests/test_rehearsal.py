"""Rehearsals: against followed storages, the CPU's own allocations and closed forms.

``data/memory.json`` holds steps of Hugging Face's models, measured on the meta device by
a program of its own. A row of "train": model, batch, tokens, precision, attention,
checkpointing, parameters, then bytes: kept for the backward pass, and the peaks of
forward pass with loss, of backward pass and of the step. A row of "infer": the same
settings with the logits computed, then the peak and the key/value cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
)

from tests.test_house import fresh, slowness
from tests.tiny import encoder, ids, tiny_llama
from tfdoc import (
    rehearse,
)

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "memory.json").read_text(encoding="utf-8")
)
# With the versions of the data there is no error at all.
VERSIONS = torch.__version__.split("+")[0], transformers.__version__
EXACT = (DATA["torch"], DATA["transformers"]) == VERSIONS


def close(bytes_: int) -> Any:
    return pytest.approx(bytes_, rel=0 if EXACT else 1e-3)


def published(name: str, attn: str) -> Callable[[], nn.Module]:
    config = dict(DATA["models"][name])
    (kind,) = config.pop("architectures")
    settings = AutoConfig.for_model(
        **config, decoder_start_token_id=0, attn_implementation=attn
    )
    return lambda: getattr(transformers, kind)(settings)


@pytest.mark.measures
@pytest.mark.parametrize(
    "row", DATA["train"], ids=lambda row: "-".join(map(str, row[:6]))
)
def test_training_of_published_models(row: Any) -> None:
    name, batch, tokens, precision, attn, checkpointing, parameters, *truth = row
    model, x = published(name, attn), ids(batch, tokens)
    step = rehearse(
        model, precision=precision, checkpointing=checkpointing, input_ids=x, labels=x
    )
    kept, forward, backward, update = truth
    assert step.activations == close(kept)
    peaks = step.peaks
    assert max(peaks["forward"], peaks["loss"]) == close(forward)
    assert (peaks["backward"], peaks["step"]) == (close(backward), close(update))
    assert step.peak == close(max(truth))
    assert step.peak_moment == ("step" if update > backward else "backward")
    size = 2 if precision == "bf16" else 4
    assert step.parameters == pytest.approx(size * parameters, rel=1e-4)


SLOWEST = """
import time
from tests.test_rehearsal import ids, published, rehearse

x, start = ids(4, 1024), time.process_time()
settings = {"precision": "amp", "checkpointing": True}
rehearse(published("qwen3-0.6b", "eager"), input_ids=x, labels=x, **settings)
print(time.process_time() - start)
"""


@pytest.mark.measures
def test_a_rehearsal_takes_seconds() -> None:
    """The slowest of those above, in a Python where nothing measures coverage."""
    assert float(fresh(SLOWEST)) < 5 * slowness()


@pytest.mark.parametrize(
    "row", DATA["infer"], ids=lambda row: "-".join(map(str, row[:6]))
)
def test_inference_of_published_models(row: Any) -> None:
    name, batch, tokens, precision, attn, logits, peak, kv_cache = row
    only: dict[str, Any] = {"logits_to_keep": 1} if logits == "last" else {}
    x, model = ids(batch, tokens), published(name, attn)
    run = rehearse(model, mode="infer", precision=precision, input_ids=x, **only)
    assert run.peak == close(peak)
    assert run.kv_cache == kv_cache
    vocabulary = DATA["models"][name]["vocab_size"]
    assert (
        run.logits == -(-batch * (1 if only else tokens) * vocabulary * 2 // 512) * 512
    )
    assert (run.peak_moment, run.activations, run.gradients) == ("forward", 0, 0)


def test_decoding_appends_to_the_cache() -> None:
    model, x = published("gpt2", "sdpa"), ids(2, 100)
    prompt = rehearse(model, mode="infer", input_ids=x)
    # Newer transformers warn at the older name.
    name = "cache" if hasattr(prompt.output, "cache") else "past_key_values"
    cache = getattr(prompt.output, name)
    token = rehearse(model, mode="infer", input_ids=x[:, :1], **{name: cache})
    assert prompt.kv_cache == 2 * 12 * 768 * 4 * 2 * 100
    assert token.kv_cache == 2 * 12 * 768 * 4 * 2 * 101
    assert cache.get_seq_length() == 100, "the caller's cache has grown"
    # One layer's keys and values stand there twice while they are copied.
    assert token.by_kind["kv_cache"] > token.kv_cache


def test_a_window_that_is_a_slice_keeps_its_storage() -> None:
    run = rehearse(
        published("gemma-3-1b", "sdpa"), mode="infer", input_ids=ids(1, 2048)
    )
    assert run.kv_cache < run.by_kind["kv_cache"]


# The allocations of real steps


def torchs_own() -> nn.Module:
    layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    return nn.Sequential(nn.Embedding(1024, 128), nn.TransformerEncoder(layer, 2))


def allocated(model: nn.Module, *inputs: Tensor, **named: Tensor) -> int:
    """Return how far a real training step gets above where it began."""
    stepper = torch.optim.AdamW(model.parameters(), foreach=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stepper.step()
    stepper.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss = scalar(model(*inputs, **named))
        torch.autograd.backward(loss)
        del loss
        stepper.step()
    assert seen.profiler is not None
    events = [
        e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"
    ]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def scalar(output: Any) -> Tensor:
    loss: Tensor = output.sum() if isinstance(output, Tensor) else output.loss
    return loss


@pytest.mark.skipif(torch.get_default_device().type != "cpu", reason="CPU's allocator")
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: encoder("llama"), (4, 128, 128)),
        (lambda: encoder("llama"), (1, 16, 128)),  # the step is its peak
        (lambda: encoder("bert"), (1, 1024, 128)),
        (tiny_llama, (4, 128)),
        (torchs_own, (4, 128)),
    ],
)
def test_real_allocations(
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A real run keeps one table of turns for all layers; on meta each makes its own.
    monkeypatch.setattr("tfdoc.positions._may_keep", lambda x: False)
    with torch.device("cpu"):
        model = build().train()
        x = torch.randint(1024, shape) if len(shape) == 2 else torch.randn(shape)
        named: dict[str, Any] = (
            {"labels": x} if isinstance(model, LlamaForCausalLM) else {}
        )
        real = allocated(model, x, **named)
    step = rehearse(model, x, **named, loss=scalar, fused=False)
    before = step.parameters + step.buffers + step.inputs + step.optimizer
    # A scalar takes 512 bytes there and 4 here; nothing else differs.
    assert 0 <= step.peak - before - real + 12 <= 1024 + 12


# FLOPs


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_of_the_counter(checkpointing: bool) -> None:
    x = torch.zeros(2, 64, dtype=torch.long)
    step = rehearse(tiny_llama(), input_ids=x, labels=x, checkpointing=checkpointing)
    model = tiny_llama().cpu().train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    with FlopCounterMode(display=False) as counter:
        x = x.cpu()
        model(input_ids=x, labels=x).loss.backward()
    assert step.flops.total == counter.get_total_flops()


def test_flops_are_the_closed_form() -> None:
    b, s, layers, heads, head_dim = 2, 96, 2, 4, 64
    x = torch.zeros(b, s, dtype=torch.long)
    model = tiny_llama(attn_implementation="sdpa")
    matmul = sum(p.numel() for p in model.parameters() if p.ndim == 2) - 1024 * 256
    products, scores = 2 * matmul * b * s, 4 * b * s * s * layers * heads * head_dim
    for fused, precision in ((False, "fp32"), (True, "fp32"), (True, "bf16")):
        settings: dict[str, Any] = {"fused": fused, "precision": precision}
        step = rehearse(model, input_ids=x, labels=x, **settings)
        assert step.flops.forward == products + scores
        # A fused kernel computes the scores again in the backward pass.
        again = 2.5 if fused else 2
        assert step.flops.backward == 2 * products + again * scores


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp"])
def test_flops_of_experts(precision: Any) -> None:
    x = torch.zeros(2, 32, dtype=torch.long)
    config = OlmoeConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_experts_per_tok=2,
        num_experts=8,
    )
    model = OlmoeForCausalLM(config)
    step = rehearse(model, input_ids=x, labels=x, precision=precision)
    # Two of the experts, each with three matrices, see a token.
    once = 2 * (2 * 32) * 2 * (3 * 64 * 96)
    assert step.flops_by_module["model.layers.0.mlp.experts"] == (once, 2 * once)


def test_flops_go_to_their_modules() -> None:
    x = torch.zeros(1, 32, dtype=torch.long)
    for checkpointing in (False, True):
        step = rehearse(
            tiny_llama(), input_ids=x, labels=x, checkpointing=checkpointing
        )
        per = step.flops_by_module
        assert per[""] == step.flops
        once = 2 * 32 * 256 * 512
        name = "model.layers.1.mlp.up_proj"
        assert per[name] == (once, (3 if checkpointing else 2) * once)
        layer, attention = per["model.layers.0"], per["model.layers.0.self_attn"]
        scores = 4 * 32 * 32 * 4 * 64
        inside = [per[f"model.layers.0.self_attn.{n}_proj"].total for n in "qkvo"]
        times = 4 if checkpointing else 3
        assert attention.total == sum(inside) + times * scores
        assert layer.total == attention.total + per["model.layers.0.mlp"].total
        assert step.flops.total == 2 * layer.total + per["lm_head"].total
