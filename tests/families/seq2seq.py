"""Recipes for encoder-decoders, and their weights."""

from __future__ import annotations

import re
from math import sqrt
from typing import Any

from torch import Tensor

from tests.families.recipes import ACTIVATIONS, Config, Sizes, heads
from tests.hugging_face import t5_name
from tfdoc import (
    Causal,
    Decoder,
    DotProductCore,
    Encoder,
    EncoderDecoder,
    FeedForward,
    GatedFeedForward,
    Head,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    Part,
    PostNormBlock,
    PostNormCrossBlock,
    PreNormBlock,
    PreNormCrossBlock,
    RelativeBias,
    RMSNorm,
    TokenEmbedding,
    part,
)

BART = [
    (r"^model\.", ""),
    (r"^shared\.", "decoder.embed."),
    (r"^encoder\.embed_positions\.", "embed.positions."),
    (r"^encoder\.layernorm_embedding\.", "embed.norm."),
    (r"^decoder\.embed_positions\.", "decoder.embed.positions."),
    (r"^decoder\.layernorm_embedding\.", "decoder.embed.norm."),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn\.", ".attention."),
    (r"\.encoder_attn\.", ".cross_attention."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.self_attn_layer_norm\.", ".attn_norm."),
    (r"\.encoder_attn_layer_norm\.", ".cross_norm."),
    (r"\.final_layer_norm\.", ".ffn_norm."),
    (r"\.fc1\.", ".feedforward.up_proj."),
    (r"\.fc2\.", ".feedforward.down_proj."),
]


def bart(c: Config, s: Sizes) -> Part[EncoderDecoder]:
    norm = part(LayerNorm)
    act = ACTIVATIONS[c.activation_function]
    rows = {"max_positions": c.max_position_embeddings, "offset": 2}
    start: dict[str, Any] = {"vocab_size": s["V"]}
    start["positions"] = part(LearnedPositions, **rows)
    scale = sqrt(s["D"]) if c.scale_embedding else 1.0
    ffn = part(FeedForward, hidden_dim=c.encoder_ffn_dim, activation=act)
    sides = [c.encoder_attention_heads, c.decoder_attention_heads]
    plain, inner = (part(MultiHeadAttention, num_heads=n) for n in sides)
    block = part(PostNormBlock, attention=plain, feedforward=ffn, norm=norm)
    cross = part(
        PostNormCrossBlock,
        attention=inner.but(mask=Causal()),
        cross_attention=inner,
        feedforward=ffn.but(hidden_dim=c.decoder_ffn_dim),
        norm=norm,
    )
    decoder = part(Decoder, blocks=(cross,) * c.decoder_layers, tied=True, **start)
    return part(
        EncoderDecoder,
        embed=part(TokenEmbedding, norm=norm, scale=scale, **start),
        encoder=part(Encoder, blocks=(block,) * c.encoder_layers),
        decoder=decoder.but(embed_norm=norm, embed_scale=scale),
    )


def t5(c: Config, s: Sizes) -> Part[EncoderDecoder]:
    norm = part(RMSNorm, eps=c.layer_norm_epsilon)
    sizes = {"num_buckets": c.relative_attention_num_buckets}
    sizes["max_distance"] = c.relative_attention_max_distance
    plain = heads(s, mask=None, core=part(DotProductCore, scale=1.0))
    sides = [
        plain.but(position_bias=RelativeBias(s["H"], bidirectional=both, **sizes))
        for both in (True, False)
    ]
    kind = GatedFeedForward if c.is_gated_act else FeedForward
    act = ACTIVATIONS[c.dense_act_fn]
    width = {"hidden_dim": s["F"], "activation": act, "bias": False}
    both = {"feedforward": part(kind, **width), "norm": norm}
    block = part(PreNormBlock, attention=sides[0], **both)
    past = sides[1].but(mask=Causal())
    cross = part(PreNormCrossBlock, attention=past, cross_attention=plain, **both)
    tied = c.scale_decoder_outputs  # where transformers keeps what the config says
    decoder = part(Decoder, vocab_size=s["V"], blocks=(cross,) * c.num_decoder_layers)
    head = part(Head, scale=s["D"] ** -0.5 if tied else 1.0)
    return part(
        EncoderDecoder,
        embed=part(TokenEmbedding, vocab_size=s["V"]),
        encoder=part(Encoder, blocks=(block,) * c.num_layers, norm=norm),
        decoder=decoder.but(norm=norm, tied=tied, head=head),
    )


def seq2seq_weights(model_type: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename what transformers holds; every block names the bias that T5's share."""
    out = {}
    for name, weight in weights.items():
        own = name
        if model_type == "t5":
            own = t5_name(name)
        for theirs, ours in BART if model_type == "bart" else []:
            own = re.sub(theirs, ours, own)
        out[own] = weight
    return out


SEQ2SEQ = {"bart": bart, "t5": t5}
