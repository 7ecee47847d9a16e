"""Published decoders put together of parts: weights as the ledger's, numbers as theirs."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.families import RECIPES, SEQ2SEQ, adopted, seq2seq_weights
from tfdoc import (
    Decoder,
    EncoderDecoder,
    ledger,
    preset,
    preset_names,
)
from tfdoc.cost.tables import model as table

transformers.logging.set_verbosity_error()
PUBLISHED = [n for n in preset_names() if preset(n)["model_type"] in RECIPES]


def config_of(config: dict[str, Any], **more: Any) -> Any:
    """Return the config as transformers reads it, with the defaults of its type."""
    kind = CONFIG_MAPPING[config["model_type"]]
    return kind(**{k: v for k, v in config.items() if k != "model_type"}, **more)


def decoder(config: dict[str, Any], **more: Any) -> tuple[Decoder, dict[str, int]]:
    """Build the parts that a config asks for."""
    sizes = ledger(config, "ForCausalLM").sizes
    recipe = RECIPES[config["model_type"]](config_of(config, **more), sizes)
    return recipe.build(sizes["D"]).eval(), sizes


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_weights_are_the_ledger_s(name: str) -> None:
    config, book = preset(name), ledger(name)
    with torch.device("meta"):
        model, sizes = decoder(config)
        theirs = {e.name: torch.empty(e.shape) for e in book.entries if not e.tied_to}
        theirs = adopted(config["model_type"], sizes, type(model.blocks[0]), theirs)
    ours = {key: value.shape for key, value in model.named_parameters()}
    assert ours == {key: value.shape for key, value in theirs.items()}
    assert sum(p.numel() for p in model.parameters()) == book.total


SMALL = {
    "V": 61, "D": 32, "F": 40, "M": 12, "S": 20, "P": 24, "L": 4, "H": 4, "G": 2, "d": 8,
    "g": 2, "Y": 32, "Ld": 3, "Fd": 36, "Hd": 2, "R": 8, "E": 8, "K": 2, "W": 5,
    "window": 5, "c": 12, "b": 16, "n": 6, "r": 4, "v": 6, "first": 1, "shared": 2,
    "step": 1, "labels": 2,
}  # fmt: skip
ALL = {"num_key_value_heads": 4}  # as many heads of keys as of queries
TIMES = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22}
TIMES |= {"logits_scaling": 8.0, "attention_multiplier": 0.1}
GROUPS = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
MIXED = ["sliding_attention", "full_attention"] * 2
NEAR = {"layer_types": MIXED, "use_sliding_window": True}
PARTIAL = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}

# One small model or more of each type; what is not said is the type's default.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
    ("mistral", {}),
    ("seed_oss", {}),
    ("qwen2", {}),
    ("qwen2", NEAR),
    ("phi3", {"sliding_window": None}),
    ("phi3", {"rope_parameters": PARTIAL}),
    ("glm", {}),
    ("smollm3", {}),
    ("qwen3", {}),
    ("qwen3", NEAR),
    ("granite", TIMES),
    ("granitemoe", TIMES),
    ("gemma", {}),
    ("gemma2", {"query_pre_attn_scalar": 20}),
    ("gemma3_text", {"query_pre_attn_scalar": 20, "layer_types": MIXED}),
    ("olmo", {}),
    ("olmo2", {}),
    ("cohere", {}),
    ("cohere", {"use_qk_norm": True}),
    ("cohere2", {}),
    ("stablelm", {"use_qkv_bias": True}),
    ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    ("nemotron", {}),
    ("starcoder2", {"sliding_window": 5}),
    ("phi", ALL),
    ("gpt_neox", {}),
    ("gptj", {"rotary_dim": 4}),
    ("falcon", {"multi_query": True, "num_kv_heads": None}),
    ("falcon", {"new_decoder_architecture": True, "bias": True}),
    ("gpt2", {}),
    ("gpt_bigcode", {}),
    ("gpt_neo", {"attention_types": [[["global", "local"], 2]], "window_size": 5}),
    ("opt", {}),
    ("bloom", {}),
    ("mpt", {}),
    ("mixtral", {}),
    ("mixtral", {"sliding_window": None}),
    ("qwen3_moe", {"norm_topk_prob": True}),
    ("olmoe", {}),
    ("phimoe", {"attention_bias": True, "lm_head_bias": True}),
    ("qwen2_moe", {}),
    ("deepseek_v2", ALL),
    ("deepseek_v2", ALL | GROUPS | {"topk_method": "group_limited_greedy"}),
    ("deepseek_v3", ALL | GROUPS),
    ("glm4_moe", {"attention_bias": True}),
    ("glm4_moe", GROUPS | {"use_qk_norm": True}),
    ("llama4_text", {"num_experts_per_tok": 1}),
    ("llama4_text", {"interleave_moe_layer_step": 2}),
    ("gpt_oss", {}),
]


def small(model_type: str, own: dict[str, Any]) -> dict[str, Any]:
    """Return a config of small sizes under the keys of its type."""
    keys = {key: symbol for key, (symbol, *_) in table(model_type)["keys"].items()}
    sizes = {key: SMALL[symbol] for key, symbol in keys.items() if symbol in SMALL}
    return {"model_type": model_type, "pad_token_id": 0} | sizes | own


@pytest.mark.parametrize(("model_type", "own"), CASES)
def test_its_scores_are_those_of_transformers(
    model_type: str, own: dict[str, Any]
) -> None:
    config = small(model_type, own)
    theirs = hugging_face(config)
    ours, sizes = decoder(config)
    weights = theirs.state_dict()
    if ours.tied:
        del weights[
            next(name for name in weights if name.startswith(("lm_", "embed_out")))
        ]
    named = adopted(model_type, sizes, type(ours.blocks[0]), weights)
    missing, unknown = ours.load_state_dict(named, strict=False)
    if model_type == "llama4_text":  # whose routers have no such bias: 0 here
        missing = [name for name in missing if "correction_bias" not in name]
    assert not missing + unknown
    tokens = torch.randint(1, sizes["V"], (2, 17))  # 0 would be padding
    expected = theirs(tokens, use_cache=False).logits
    cache, pieces = ours.new_cache(), tokens.split([9, 1, 1, 3, 1, 2], 1)
    steps = torch.cat([ours(piece, cache=cache) for piece in pieces], 1)
    assert agree(ours(tokens), expected)
    assert agree(steps, expected)


def hugging_face(config: dict[str, Any], head: str = "ForCausalLM") -> Any:
    """Build transformers' model, with numbers drawn for every weight."""
    read = config_of(config)
    module = type(read).__module__.replace("configuration_", "modeling_")
    kind = getattr(importlib.import_module(module), ledger(config, head).architecture)
    model = kind(read).eval()
    for name, p in model.state_dict().items():  # with the biases of routers
        is_scale = p.ndim == 1 and "norm" in name and "bias" not in name
        nn.init.normal_(p, mean=0.5 if is_scale else 0, std=0.2)
        if "embed" in name or "shared" in name:
            p.mul_(5)
        if "logits_bias" in name:  # of BART, 0 in all that is published
            p.zero_()
    return model.requires_grad_(False)


def agree(scores: Tensor, expected: Tensor) -> bool:
    """Compare with what changes from one position to the next."""
    assert scores.shape == expected.shape
    change = expected.std(1).mean()
    return bool((scores - expected).abs().max() < 1e-4 * change)


TWO_SIDED = [n for n in preset_names() if preset(n)["model_type"] in SEQ2SEQ]


def encoder_decoder(config: dict[str, Any], head: str) -> EncoderDecoder:
    sizes = ledger(config, head).sizes
    recipe = SEQ2SEQ[config["model_type"]](config_of(config), sizes)
    return recipe.build(sizes["D"]).eval()


@pytest.mark.parametrize("name", TWO_SIDED)
def test_encoder_decoders_are_the_ledger_s(name: str) -> None:
    book, kind = ledger(name), preset(name)["model_type"]
    with torch.device("meta"):
        model = encoder_decoder(preset(name), "ForConditionalGeneration")
        theirs = {e.name: torch.empty(e.shape) for e in book.entries if not e.tied_to}
    ours = {key: value.shape for key, value in model.named_parameters()}
    theirs = seq2seq_weights(kind, theirs)
    assert ours == {key: value.shape for key, value in theirs.items()}
    assert sum(p.numel() for p in model.parameters()) == book.total


@pytest.mark.parametrize(
    ("model_type", "own"),
    [
        ("bart", {}),
        ("bart", {"scale_embedding": True, "activation_function": "relu"}),
        ("t5", {"tie_word_embeddings": True}),
        ("t5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    ],
)
def test_scores_of_encoder_decoders_are_those_of_transformers(
    model_type: str, own: dict[str, Any]
) -> None:
    config = small(model_type, {"decoder_start_token_id": 0} | own)
    theirs = hugging_face(config, "ForConditionalGeneration")
    ours = encoder_decoder(config, "ForConditionalGeneration")
    again = ("embed_tokens", "logits_bias", *["lm_head"] * ours.decoder.tied)
    state = theirs.state_dict().items()
    weights = {n: w for n, w in state if not any(part in n for part in again)}
    weights = seq2seq_weights(model_type, weights)
    ours.load_state_dict(weights, strict=False)
    assert {name for name, _ in ours.named_parameters()} == set(weights)
    source, target = torch.randint(1, 61, (2, 11)), torch.randint(1, 61, (2, 9))
    real = torch.arange(11) < torch.tensor([[11], [6]])
    call = {"input_ids": source, "decoder_input_ids": target}
    expected = theirs(**call, attention_mask=real.long(), use_cache=False).logits
    assert agree(ours(source, target, real=real), expected)
