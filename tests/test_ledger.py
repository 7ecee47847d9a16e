"""The ledger: published models to the last parameter, and what it refuses.

``data/ledger.json`` holds 106 published configs with the parameters of the models that
transformers builds from them, component by component and layer by layer; for some, the
trainable parameters of peft's adapters of rank 8, and batch, tokens, bytes of the cache
and of the weights as measured in bfloat16.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tfdoc import Entry, Ledger, count_params, ledger
from tfdoc.cost.tables import TYPES, model

DATA = Path(__file__).parent / "data"
MODELS: dict[str, dict[str, Any]] = json.loads(
    (DATA / "ledger.json").read_text(encoding="utf-8")
)
COUNTED = json.loads((DATA / "params.json").read_text(encoding="utf-8"))
LLAMA = MODELS["llama-3-8b"]["config"]
QWEN_MOE = MODELS["qwen1.5-moe-a2.7b"]["config"]


@pytest.mark.parametrize("name", MODELS)
def test_published_models_to_the_last_parameter(name: str) -> None:
    truth = MODELS[name]
    book = ledger(truth["config"])
    assert book.total == truth["total"]
    assert book.by_component == truth["components"]
    assert book.embedding == truth["embedding"]
    assert book.active == truth.get("active", truth["total"])
    layers = {
        (stack, layer): parts
        for stack, first, last, parts in truth["layers"]
        for layer in range(first, last + 1)
    }
    assert book.by_layer == layers


@pytest.mark.parametrize("name", [name for name in MODELS if "lora" in MODELS[name]])
def test_adapters_are_those_of_peft(name: str) -> None:
    truth = MODELS[name]
    book = ledger(truth["config"])
    for targets, trainable in truth["lora"].items():
        for r in (1, 8, 64):
            assert book.lora(r, targets) == trainable * r // 8
    for targets, names in truth["names"].items():
        assert book.lora(8, names) == book.lora(8, ",".join(names))
        assert book.lora(8, names) == truth["lora"][targets]


@pytest.mark.parametrize("name", [name for name in MODELS if "bf16" in MODELS[name]])
def test_caches_and_weights_have_the_measured_bytes(name: str) -> None:
    book = ledger(MODELS[name]["config"])
    for batch, seq, cache, weights in MODELS[name]["bf16"]:
        assert book.kv_cache(batch, seq) == cache
        assert book.bytes() == weights


def test_quantisation_keeps_tables_head_and_norms() -> None:
    book = ledger(LLAMA)
    matrices = sum(e.shape[0] * e.shape[1] for e in book.entries if e.quantisable)
    assert matrices == 32 * 218_103_808
    rest = 2 * (book.total - matrices)
    bits = 8 * (book.bytes(quant="nf4") - rest) / matrices
    assert round(bits, 3) == 4.127
    assert round(book.bytes(quant="nf4") / 1e9, 2) == 5.70
    scales = sum(e.shape[0] for e in book.entries if e.quantisable)
    assert book.bytes("fp32", "int8") == 2 * rest + matrices + 4 * scales


def test_operations_without_biases_have_a_closed_form() -> None:
    book = ledger(LLAMA)
    matrices = book.total - book.by_component["norms"] - book.embedding
    B, T = 3, 100
    attention = 4 * B * T * T * 32 * 4096
    assert book.flops(B, T) == 2 * matrices * B * T + attention
    last = book.flops(B, T, logits="last")
    assert book.flops(B, T) - last == 2 * B * (T - 1) * 4096 * 128_256


def test_the_head_is_chosen() -> None:
    base = ledger(LLAMA, "LlamaModel")
    head = 128_256 * 4096
    assert ledger(LLAMA).total == base.total + head
    assert ledger(LLAMA, "ForSequenceClassification").total == base.total + 2 * 4096
    named = LLAMA | {"id2label": {"0": "a", "1": "b", "2": "c"}}
    assert ledger(named, "ForSequenceClassification").total == base.total + 3 * 4096
    assert base.architecture == "LlamaModel"
    assert {e.name for e in base.entries} >= {"embed_tokens.weight", "norm.weight"}


def test_a_text_model_says_what_it_leaves_out() -> None:
    text = MODELS["gemma-3-1b"]["config"]
    outer = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"hidden_size": 1152},
        "mm_tokens_per_image": 256,
    }
    book = ledger(outer)
    assert book.total == MODELS["gemma-3-1b"]["total"]
    assert book.left_out == ("mm_tokens_per_image", "vision_config")
    assert ledger(text).left_out == ()


def test_a_text_model_is_tied_as_the_whole_says() -> None:
    text = {"model_type": "llama", "num_hidden_layers": 1}
    outer = {"model_type": "llava", "text_config": text, "tie_word_embeddings": True}
    assert ledger(outer).total == ledger({**text, "tie_word_embeddings": True}).total
    inner = {**text, "tie_word_embeddings": False}
    assert ledger({**outer, "text_config": inner}).total == ledger(text).total


def test_windows_follow_the_rule_of_each_type() -> None:
    def kept(model_type: str, **keys: Any) -> int:
        config = {"model_type": model_type, "num_hidden_layers": 6, "hidden_size": 64}
        return ledger(config | {"num_attention_heads": 4, **keys}).kv_cache(1, 9)

    few = {"num_key_value_heads": 4, "head_dim": 16, "sliding_window": 4}
    qwen = few | {"use_sliding_window": True, "max_window_layers": 3}
    unit = 2 * 2 * 4 * 16  # bytes of a token in a layer
    assert kept("mixtral", **few | {"sliding_window": None}) == unit * 6 * 9
    assert kept("mixtral", **few) == unit * 6 * 3
    assert kept("qwen2", **qwen) == unit * (3 * 3 + 3 * 9)  # from the fourth on
    assert kept("qwen2_moe", **qwen) == unit * (2 * 3 + 4 * 9)  # the first and third
    assert kept("gemma2", **few) == unit * (3 * 3 + 3 * 9)  # every other
    assert kept("cohere2", **few) == unit * (5 * 3 + 1 * 9)  # all but every fourth


def test_falcon_repeats_its_keys_before_it_stores_them() -> None:
    book = ledger(MODELS["falcon-40b"]["config"])
    assert book.kv_cache(1, 10) == 10 * 60 * 2 * 128 * 64 * 2
    book = ledger(MODELS["falcon-7b"]["config"])
    assert book.kv_cache(1, 10) == 10 * 32 * 2 * 1 * 64 * 2


def test_files_folders_and_dicts_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA), encoding="utf-8")
    for given in (file, str(file), tmp_path, str(tmp_path)):
        assert ledger(given).total == ledger(LLAMA).total


def test_every_key_is_accounted_for() -> None:
    book = ledger(LLAMA | {"rope_theta": 500_000.0})
    assert set(book.used) | set(book.neutral) == {*LLAMA, "rope_theta"}
    assert "rope_theta" in book.neutral
    assert "hidden_size" in book.used


# What published configs hold besides the keys that transformers declares today.
PUBLISHED: dict[str, dict[str, Any]] = {
    "albert": {"down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0, "num_memory_blocks": 0},
    "bart": {"add_bias_logits": False, "add_final_layer_norm": False, "classif_dropout": 0.1, "normalize_before": False, "num_hidden_layers": 12, "static_position_embeddings": False},
    "bert": {"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform", "position_embedding_type": "absolute"},
    "bloom": {"masked_softmax_fusion": True, "n_inner": None, "offset_alibi": 100, "seq_length": 2048, "skip_bias_add": True},
    "cohere2": {"layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "position_embedding_type": "rope_gptj", "rotary_pct": 1.0, "use_gated_activation": True},
    "deepseek_v3": {"aux_loss_alpha": 0.001, "ep_size": 1, "moe_layer_freq": 1, "scoring_func": "sigmoid", "seq_aux": True, "quantization_config": {"quant_method": "fp8"}},
    "distilbert": {"tie_weights_": True, "output_past": True},
    "gemma3_text": {"rope_local_base_freq": 10_000, "sliding_window_pattern": 6, "rope_scaling": None},
    "gpt2": {"n_ctx": 1024, "task_specific_params": {"text-generation": {}}, "summary_type": "cls_index"},
    "gpt_oss": {"experts_per_token": 4, "initial_context_length": 4096, "quantization_config": {"quant_method": "mxfp4"}},
    "gptj": {"rotary": True, "gradient_checkpointing": False},
    "llama": {"rope_scaling": {"rope_type": "llama3"}, "rope_theta": 5e5, "pretraining_tp": 1, "torch_dtype": "bfloat16"},
    "llama4_text": {"for_llm_compressor": False, "_attn_implementation_autoset": True},
    "modernbert": {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "reference_compile": None, "layer_norm_eps": 1e-5},
    "mpt": {"attn_config": {"alibi": True}, "expansion_ratio": 4, "init_config": {"name": "kaiming_normal_"}, "no_bias": True, "tokenizer_name": "neox", "verbose": 0},
    "opt": {"activation_dropout": 0.0, "prefix": "</s>"},
    "phi3": {"attention_bias": False, "rope_scaling": None, "lm_head_bias": False},
    "starcoder2": {"mlp_type": "default", "norm_type": "layer_norm"},
    "t5": {"n_positions": 512, "output_past": True},
}  # fmt: skip


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_keys_of_published_configs_are_known(model_type: str) -> None:
    bare = {"model_type": model_type}
    assert ledger(bare | PUBLISHED[model_type]).total == ledger(bare).total


def test_aliases_of_transformers_are_read() -> None:
    gpt2 = {"model_type": "gpt2"}
    assert ledger(gpt2 | {"hidden_size": 1024, "n_head": 16}).total == (
        ledger(gpt2 | {"n_embd": 1024, "n_head": 16}).total
    )


def test_entries_name_tie_and_target() -> None:
    entries = {e.name: e for e in ledger({"model_type": "gpt2"}).entries}
    assert entries["lm_head.weight"].tied_to == "transformer.wte.weight"
    assert entries["transformer.h.11.mlp.c_fc.weight"] == Entry(
        "ffn", "transformer.h", 11, "transformer.h.11.mlp.c_fc.weight", (768, 3072),
        None, True, "linear",
    )  # fmt: skip
    assert entries["transformer.h.0.ln_1.bias"].lora is None
    assert (
        repr(ledger(LLAMA)) == "<Ledger of LlamaForCausalLM: 8,030,261,248 parameters>"
    )


@pytest.mark.parametrize("name", [name for name in COUNTED if name in MODELS])
def test_counting_from_numbers_agrees(name: str) -> None:
    numbers = COUNTED[name]["arguments"]
    assert sum(count_params(**numbers).values()) == MODELS[name]["total"]


def test_a_config_takes_less_than_a_millisecond() -> None:
    for truth in MODELS.values():
        seconds = float("inf")
        for _ in range(20):  # other work on the machine only ever adds
            start = time.perf_counter()
            _ = ledger(truth["config"]).active
            seconds = min(seconds, time.perf_counter() - start)
        assert seconds < 1e-3


def test_the_table_is_closed() -> None:
    """Every type has a first head, and no key is both used and neutral."""
    for name in TYPES:
        table = model(name)
        keys, only = table["keys"].keys(), table["only"].keys()
        assert not keys & table["neutral"]
        assert not only & (keys | table["neutral"])
        assert isinstance(
            ledger({"model_type": name, **REQUIRED.get(name, {})}), Ledger
        )


REQUIRED = {"deepseek_v2": {"num_experts_per_tok": 6}}


def changed(**keys: Any) -> dict[str, Any]:
    return {**LLAMA, **keys}


WRONG: list[tuple[Any, type[Exception], str]] = [
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
    (7, TypeError, "config must be a dict, a config.json or its folder, got 7 (int)"),
    (None, TypeError, "config must be a dict, a config.json or its folder, got None"),
    ("no/such/config.json", ValueError, "config='no/such/config.json': there is no file"),
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
    ("bytes", ("int4",), ValueError, "dtype='int4' is none of fp32, bf16, fp16, fp8"),
    ("bytes", ("bf16", "nf8"), ValueError, "quant='nf8' is none of none, int8, nf4"),
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
    ("flops", (1, 8, None, "some"), ValueError, "logits='some' is none of all, last"),
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
