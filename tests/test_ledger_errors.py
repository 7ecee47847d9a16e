"""What a ledger refuses, and how: the key or argument, its value, the likely fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_ledger import LLAMA, MODELS
from tfdoc import ledger

QWEN_MOE = MODELS["qwen1.5-moe-a2.7b"]["config"]


def changed(**keys: Any) -> dict[str, Any]:
    return {**LLAMA, **keys}


WRONG: list[tuple[Any, type[Exception], str]] = [
    ("lama-3-8b", ValueError, "config='lama-3-8b' is no preset, and there is no file lama-3-8b; did you mean 'llama-3-8b'"),
    (changed(hidden_size=-4096), ValueError, "hidden_size must be at least 1, got -4096"),
    (changed(hidden_size=0), ValueError, "hidden_size must be at least 1, got 0"),
    (changed(vocab_size=float("nan")), TypeError, "vocab_size must be a positive integer, got nan"),
    (changed(vocab_size=float("inf")), TypeError, "vocab_size must be a positive integer, got inf"),
    (changed(vocab_size=32000.0), TypeError, "vocab_size must be a positive integer, got 32000.0 (float); round or convert it with int()"),
    (changed(vocab_size="32000"), TypeError, "vocab_size must be a positive integer, got '32000' (str)"),
    (changed(vocab_size=None), TypeError, "vocab_size must be a positive integer, got None"),
    (changed(vocab_size=[32000]), TypeError, "vocab_size must be a positive integer, got [32000]"),
    (changed(num_hidden_layers=True), TypeError, "num_hidden_layers must be a positive integer, got True (bool)"),
    (changed(num_hidden_layers=10**6), ValueError, "num_hidden_layers=1000000 is too large; at most 100000 is counted"),
    (changed(intermediate_size=10**30), ValueError, f"intermediate_size={10**30} is too large"),
    (changed(num_attention_heads=33), ValueError, "num_attention_heads=33 does not divide hidden_size=4096; the nearest that do are 32 and 64"),
    (changed(num_key_value_heads=7), ValueError, "num_key_value_heads=7 does not divide num_attention_heads=32; the nearest that do are 4 and 8"),
    (changed(num_key_value_heads=64), ValueError, "num_key_value_heads=64 does not divide"),
    (changed(head_dim=0), ValueError, "head_dim must be at least 1, got 0"),
    (changed(tie_word_embeddings="false"), TypeError, "tie_word_embeddings must be True or False, got 'false' (str)"),
    (changed(attention_bias=1), TypeError, "attention_bias must be True or False, got 1 (int)"),
    (changed(hiden_size=4096), ValueError, "hiden_size=4096 is not known for model_type='llama'; did you mean 'hidden_size'"),
    (changed(n_routed_experts=8), ValueError, "n_routed_experts=8 is not known for model_type='llama'; remove it if it changes no size"),
    (changed(architectures=["MistralForCausalLM"]), ValueError, "architecture='MistralForCausalLM' is no class of model_type='llama'; its classes are LlamaForCausalLM, "),
    (changed(architectures=[]), ValueError, "architectures=[] must list one class; choose with architecture="),
    (changed(architectures="LlamaModel"), ValueError, "architectures='LlamaModel' must list one class"),
    (changed(architectures=[3]), TypeError, "architecture must be a string, got 3"),
    (changed(model_type="lama"), ValueError, "model_type='lama' is not known; did you mean 'llama'"),
    (changed(model_type="quux"), ValueError, "model_type='quux' is not known; known are albert, bart, "),
    (changed(model_type=7), TypeError, "model_type must be a string, got 7"),
    ({"hidden_size": 8}, ValueError, "config has no model_type; add the one of its transformers class"),
    ({}, ValueError, "config has no model_type"),
    ({"text_config": 3}, TypeError, "text_config must be an object, got 3"),
    (changed(num_labels=3, id2label={"0": "a"}), ValueError, "num_labels=3 but id2label names 1"),
    (changed(id2label=["a"]), TypeError, "id2label must be an object, got ['a']"),
    (changed(id2label={}), ValueError, "num_labels must be at least 1, got 0"),
    ({"model_type": "gpt2", "n_embd": 768, "hidden_size": 8}, ValueError, "hidden_size=8 and n_embd=768 are one setting; keep one"),
    ({"model_type": "gpt2", "add_cross_attention": True}, ValueError, "add_cross_attention=True is not covered for model_type='gpt2', only False"),
    ({"model_type": "phi3", "attention_bias": 0}, ValueError, "attention_bias=0 is not covered for model_type='phi3', only False"),
    ({"model_type": "mpt", "expansion_ratio": 8}, ValueError, "expansion_ratio=8 is not covered for model_type='mpt', only 4"),
    ({"model_type": "t5", "feed_forward_proj": 3}, TypeError, "feed_forward_proj must be a string such as 'gated-gelu', got 3"),
    ({"model_type": "gemma2", "layer_types": ["full"] * 26}, ValueError, "layer_types must hold 'full_attention', "),
    ({"model_type": "gemma2", "layer_types": "full_attention"}, TypeError, "layer_types must be a list, got 'full_attention'"),
    ({"model_type": "gemma2", "layer_types": ["full_attention"]}, ValueError, "layer_types has 1 entries but num_hidden_layers=26; give one for each layer"),
    ({"model_type": "deepseek_v2"}, TypeError, "num_experts_per_tok must be a positive integer, got None"),
    ({**QWEN_MOE, "num_experts_per_tok": 61}, ValueError, "num_experts_per_tok=61 must be at most num_experts=60"),
    ({**QWEN_MOE, "mlp_only_layers": [-1]}, ValueError, "mlp_only_layers's entries must be at least 0, got -1"),
    ({1: 2}, TypeError, "config's keys must be strings, got 1"),
    (7, TypeError, "config must be a preset, a dict, a config.json or its folder, got 7 (int)"),
    (None, TypeError, "config must be a preset, a dict, a config.json or its folder, got None"),
    ("no/such/config.json", ValueError, "config='no/such/config.json' is no preset, and there is no file"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "error", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_configs_are_named(
    config: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        ledger(config)


FILES = [
    ('{"model_type": "llama"', ValueError, "is not JSON: Expecting ',' delimiter in line 1"),
    ("", ValueError, "is not JSON: Expecting value in line 1; is it complete?"),
    ("[1, 2]", TypeError, "must hold an object, got list"),
    ('{"a": ' * 10**5 + "1" + "}" * 10**5, ValueError, "is nested too deeply to be a config"),
    ('{"model_type": "llama", "model_type": "gpt2"}', ValueError, "the key 'model_type' stands twice in the config; keep one"),
    ('{"model_type": "llama", "vocab_size": NaN}', TypeError, "vocab_size must be a positive integer, got nan"),
    ('{"model_type": "llama", "vocab_size": 1e400}', TypeError, "vocab_size must be a positive integer, got inf"),
    (" " * (2**24 + 1), ValueError, "is larger than 16777216 bytes"),
    (b"\xff\xfe\x00", ValueError, "is not text in UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error", "message"), FILES, ids=range(len(FILES)))
def test_wrong_files_are_named(
    tmp_path: Path, text: str | bytes, error: type[Exception], message: str
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(error, match=re.escape(message)):
        ledger(tmp_path)


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*config\.json"):
        ledger(tmp_path)


ASKED: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
    ("bytes", ("int4",), ValueError, "dtype must be one of fp32, bf16, fp16, fp8; got 'int4'"),
    ("bytes", ("bf16", "nf8"), ValueError, "quant must be one of none, int8, nf4; got 'nf8'"),
    ("lora", (0,), ValueError, "r must be at least 1, got 0"),
    ("lora", (8.0,), TypeError, "r must be a positive integer, got 8.0"),
    ("lora", (8, "q_prj"), ValueError, "targets='q_prj' names no linear layer of LlamaForCausalLM; did you mean 'q_proj'"),
    ("lora", (8, ["lm_head"]), ValueError, "targets='lm_head' names no linear layer"),
    ("lora", (8, [3]), TypeError, "targets must be names of modules, got 3"),
    ("lora", (8, []), ValueError, "targets is empty; name a module or take 'all-linear'"),
    ("kv_cache", (0, 8), ValueError, "batch must be at least 1, got 0"),
    ("kv_cache", (1, "8"), TypeError, "seq must be a positive integer, got '8'"),
    ("kv_cache", (1, 8, "bf16", 4), ValueError, "source=4 but LlamaForCausalLM has no encoder and decoder"),
    ("flops", (1, -8), ValueError, "seq must be at least 1, got -8"),
    ("flops", (1, 8, None, "some"), ValueError, "logits must be one of all, last; got 'some'"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "arguments", "error", "message"), ASKED, ids=str)
def test_wrong_questions_are_named(
    method: str, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        getattr(ledger(LLAMA), method)(*arguments)


def test_half_of_a_fused_matrix_is_no_target() -> None:
    book = ledger(MODELS["qwen3-30b-a3b"]["config"])
    with pytest.raises(ValueError, match="'gate_proj' without 'up_proj'"):
        book.lora(8, ["gate_proj"])
    both = book.lora(8, ["gate_proj", "up_proj"])
    assert both == 48 * 128 * 2 * 8 * (2048 + 2 * 768)
