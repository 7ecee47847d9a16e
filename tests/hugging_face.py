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


BERT = {
    "roberta.": "",
    "bert.": "",
    "embeddings.word_embeddings": "embed",
    "embeddings.position_embeddings": "embed.positions",
    "embeddings.token_type_embeddings": "embed.types",
    "embeddings.LayerNorm": "embed.norm",
    "encoder.layer.": "encoder.blocks.",
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "attention.output.LayerNorm": "attn_norm",
    "intermediate.dense": "feedforward.up_proj",
    "output.dense": "feedforward.down_proj",
    "output.LayerNorm": "ffn_norm",
    "pooler.dense": "head.proj",
    "cls.predictions.transform.dense": "head.proj",
    "cls.predictions.transform.LayerNorm": "head.norm",
    "cls.predictions.bias": "head.head.bias",
    "lm_head.dense": "head.proj",
    "lm_head.layer_norm": "head.norm",
    "lm_head.bias": "head.head.bias",
}
DISTILBERT = {
    "distilbert.": "",
    "embeddings.word_embeddings": "embed",
    "embeddings.position_embeddings": "embed.positions",
    "embeddings.LayerNorm": "embed.norm",
    "transformer.layer.": "encoder.blocks.",
    **{f"attention.{x}_lin": f"attention.{x}_proj" for x in "qkv"},
    "attention.out_lin": "attention.o_proj",
    "sa_layer_norm": "attn_norm",
    "output_layer_norm": "ffn_norm",
    "ffn.lin1": "feedforward.up_proj",
    "ffn.lin2": "feedforward.down_proj",
    "vocab_transform": "head.proj",
    "vocab_layer_norm": "head.norm",
    "vocab_projector": "head.head",
}
ALBERT = {
    "albert.": "",
    "embeddings.word_embeddings": "embed.embed",
    "embeddings.position_embeddings": "embed.embed.positions",
    "embeddings.token_type_embeddings": "embed.embed.types",
    "embeddings.LayerNorm": "embed.embed.norm",
    "encoder.embedding_hidden_mapping_in": "embed.proj",
    "encoder.albert_layer_groups.": "encoder.blocks.",
    "albert_layers.0": "block",
    "attention.query": "attention.q_proj",
    "attention.key": "attention.k_proj",
    "attention.value": "attention.v_proj",
    "attention.dense": "attention.o_proj",
    "attention.LayerNorm": "attn_norm",
    "full_layer_layer_norm": "ffn_norm",
    "ffn_output": "feedforward.down_proj",
    ".ffn.": ".feedforward.up_proj.",
    "pooler": "head.proj",
    "predictions.dense": "head.proj",
    "predictions.LayerNorm": "head.norm",
    "predictions.bias": "head.head.bias",
}
MODERNBERT = {
    "decoder.": "head.head.",
    "head.dense": "head.proj",
    "model.": "",
    "embeddings.tok_embeddings": "embed",
    "embeddings.norm": "embed.norm",
    "final_norm": "encoder.norm",
    "layers.": "encoder.blocks.",
    "mlp_norm": "ffn_norm",
    "attn.Wo": "attention.o_proj",
    "mlp.Wo": "feedforward.down_proj",
}
ENCODERS = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "distilbert": DISTILBERT,
    "albert": ALBERT,
    "modernbert": MODERNBERT,
}
# What lies in one matrix there, and in several here.
FUSED = {
    "attn.Wqkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "mlp.Wi": ("feedforward.gate_proj", "feedforward.up_proj"),
}


def encoder_weights(family: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn an encoder's weights; those of ModernBERT are split."""
    out = renamed(weights, ENCODERS[family])
    for fused, own in FUSED.items():
        for name in [name for name in out if fused in name]:
            thirds = out.pop(name).chunk(len(own))
            out |= {name.replace(fused, o): w for o, w in zip(own, thirds, strict=True)}
    return out
