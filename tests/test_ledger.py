"""The ledger: published models to the last parameter.

``data/ledger.json`` holds the parameters of the models that transformers builds from 106
published configs, presets all but three, component by component and layer by layer; for some, the
trainable parameters of peft's adapters of rank 8, and batch, tokens, bytes of the cache
and of the weights as measured in bfloat16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_house import fresh, slowness
from tfdoc import Entry, Ledger, count_params, ledger, preset, preset_names
from tfdoc.cost.tables import TYPES, model

DATA = Path(__file__).parent / "data"
MODELS: dict[str, dict[str, Any]] = {
    name: {"config": truth.get("config") or preset(name)} | truth
    for name, truth in json.loads(
        (DATA / "ledger.json").read_text(encoding="utf-8")
    ).items()
}
COUNTED = json.loads((DATA / "params.json").read_text(encoding="utf-8"))
LLAMA = MODELS["llama-3-8b"]["config"]


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


# As their publishers count them.
TOTALS = {
    "gpt2-xl": 1_557_611_200,
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-1.7b": 1_720_574_976,
    "llama-3.2-3b": 3_212_749_824,
    "llama-2-7b": 6_738_415_616,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "phi-4": 14_659_507_200,
    "gemma-2-27b": 27_227_128_320,
    "mixtral-8x7b": 46_702_792_704,
    "llama-3-70b": 70_553_706_496,
    "gpt-oss-120b": 116_829_156_672,
}


def test_every_preset_is_counted_against_a_truth() -> None:
    for name, total in TOTALS.items():
        assert ledger(name).total == total, name
    assert {*preset_names()} <= MODELS.keys() | TOTALS.keys()


def test_a_preset_is_a_copy_found_in_any_case() -> None:
    config = preset("Llama-3-8B")
    assert config == LLAMA
    config["hidden_size"] = 1
    assert preset("llama-3-8b") == LLAMA
    with pytest.raises(KeyError, match="name='llama-3-9b' is no preset; did you mean"):
        preset("llama-3-9b")
    with pytest.raises(KeyError, match=r"name='' is no preset; see preset_names"):
        preset("")
    with pytest.raises(TypeError, match="name must be a string, got 8"):
        preset(8)  # type: ignore[arg-type]


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


SLOWEST = """
import time
from tfdoc import ledger, preset, preset_names

def seconds(config):
    start = time.process_time()
    ledger(config).active
    return time.process_time() - start

# Other work on the machine only ever adds: the least of several runs is the cost.
configs = [preset(name) for name in preset_names()]
print(max(min(seconds(config) for _ in range(20)) for config in configs))
"""


@pytest.mark.measures
def test_a_config_takes_less_than_a_millisecond() -> None:
    """In a Python of its own, where nothing measures what is covered."""
    assert float(fresh(SLOWEST)) < 1e-3 * slowness()


def test_sizes_are_those_of_the_model_built() -> None:
    gpt2, nemo = ledger("gpt2").sizes, ledger("mistral-nemo-12b").sizes
    assert list(gpt2) == list("VDLFHGdP")
    assert [*gpt2.values()] == [50_257, 768, 12, 3072, 12, 12, 64, 1024]
    assert list(nemo) == list("VDLFHGd")
    assert nemo["H"] * nemo["d"] < nemo["D"]  # read, not divided
    assert ledger("mpt-7b").sizes["F"] == 4 * 4096  # which no key of its config says
    assert ledger("mixtral-8x7b").sizes.keys() == {*"VDLHGdEKM"}  # no dense layer
    deepseek = ledger("deepseek-v3").sizes
    assert (deepseek["E"], deepseek["K"], deepseek["M"]) == (256, 8, 2048)
    assert "d" not in deepseek
    assert ledger("opt-1.3b").sizes["G"] == ledger("bert-base-uncased").sizes["G"] + 20


@pytest.mark.parametrize("name", preset_names())
def test_sizes_agree_with_the_shapes_of_entries(name: str) -> None:
    book = ledger(name)
    table = next(e.shape for e in book.entries if e.component == "embed_tokens")
    assert table[0] == book.sizes["V"]
    assert ("F" in book.sizes) == ("ffn" in book.by_component)
    assert ("E" in book.sizes) == (book.active < book.total)
    widths = {size for e in book.entries if e.component == "ffn" for size in e.shape}
    if widths:
        D, F = book.sizes["D"], book.sizes["F"]
        assert D in widths
        assert widths & {F, 2 * F}


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
