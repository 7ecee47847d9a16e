"""Weights of Hugging Face's models under the names of ours."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

T = TypeVar("T")

LLAMA = {
    "self_attn": "attention",
    "mlp": "feedforward",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blocks",
    "model.embed_tokens": "embed",
    "model.norm": "norm",
    "lm_head": "head",
}
GPT2 = {
    "transformer.wte": "embed",
    "transformer.wpe": "embed.positions",
    "transformer.h": "blocks",
    "transformer.ln_f": "norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_proj": "attention.o_proj",
    "mlp.c_fc": "feedforward.up_proj",
    "mlp.c_proj": "feedforward.down_proj",
}
T5 = {
    "final_layer_norm": "norm",
    "block.": "blocks.",
    "layer.0.layer_norm": "attn_norm",
    "layer.0.SelfAttention.relative_attention_bias": "attention.position_bias",
    **{f"layer.0.SelfAttention.{x}.": f"attention.{x}_proj." for x in "qkvo"},
    **{f"layer.1.EncDecAttention.{x}.": f"cross_attention.{x}_proj." for x in "qkvo"},
    "layer.2.layer_norm": "ffn_norm",
    "layer.2.DenseReluDense": "feedforward",
    "layer.1.DenseReluDense": "feedforward",
    "wi.": "up_proj.",
    "wi_0.": "gate_proj.",
    "wi_1.": "up_proj.",
    "wo.": "down_proj.",
    "shared.": "decoder.embed.",
    "lm_head.": "decoder.head.",
}


def t5_name(name: str) -> str:
    """Return our name; what an encoder has second, a decoder has third."""
    (own,) = renamed({name: name}, T5)
    middle = "ffn_norm" if name.startswith("encoder") else "cross_norm"
    return own.replace("layer.1.layer_norm", middle)


def renamed(weights: dict[str, T], names: dict[str, str]) -> dict[str, T]:
    """Replace parts of names, in the order of `names`."""
    out = {}
    for key, value in weights.items():
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)  # noqa: PLW2901
        out[key] = value
    return out


def gpt2_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn GPT-2's weights: its matrices lie transposed, q, k and v in one; tied head."""
    out = {}
    for name, weight in renamed(weights, GPT2).items():
        if "c_attn" in name:
            for letter, third in zip("qkv", weight.chunk(3, -1), strict=True):
                own = name.replace("attn.c_attn", f"attention.{letter}_proj")
                out[own] = third.mT if third.ndim > 1 else third
        elif name != "lm_head.weight":
            out[name] = weight.mT if "proj.weight" in name else weight
    return out
