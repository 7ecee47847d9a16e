"""Published models put together of parts: their weights are the ledger's, name by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from inspect import isfunction
from typing import Any

import pytest
import torch
from torch import nn

from tests.hugging_face import t5_name
from tfdoc import (
    AcrossHeads,
    ALiBi,
    Causal,
    Decoder,
    EachHead,
    Encoder,
    EncoderDecoder,
    FeedForward,
    GatedFeedForward,
    Head,
    LatentAttention,
    LayerNorm,
    LearnedPositions,
    MixtureOfExperts,
    MultiHeadAttention,
    OutputNormBlock,
    ParallelBlock,
    Part,
    PreNormBlock,
    PreNormCrossBlock,
    RelativeBias,
    RMSNorm,
    RoPE,
    SandwichBlock,
    SigmoidRouter,
    SoftmaxRouter,
    TokenEmbedding,
    TwoNormParallelBlock,
    UnitOffsetRMSNorm,
    ledger,
    part,
)

Sizes = dict[str, int]
Recipe = Callable[[Sizes], Part[Decoder]]

RMS, GEMMA, LAYER = part(RMSNorm), part(UnitOffsetRMSNorm), part(LayerNorm)
NO_BIAS = part(LayerNorm, bias=False)


def gated(s: Sizes) -> Part[nn.Module]:
    return part(GatedFeedForward, hidden_dim=s["F"])


def plain(bias: bool = True) -> Callable[[Sizes], Part[nn.Module]]:
    return lambda s: part(FeedForward, hidden_dim=s["F"], bias=bias)


def mixture(
    router: Any = SoftmaxRouter, shared: int = 0, **more: Any
) -> Callable[[Sizes], Part[nn.Module]]:
    def build(s: Sizes) -> Part[nn.Module]:
        both = part(GatedFeedForward, hidden_dim=shared * s["M"]) if shared else None
        return part(
            MixtureOfExperts,
            num_experts=s["E"],
            hidden_dim=s["M"],
            router=part(router, top_k=s["K"], **more),
            shared=both,
        )

    return build


def heads(**more: Any) -> Callable[[Sizes], Part[nn.Module]]:
    """Grouped heads with rotary positions and without biases, if nothing else is said."""

    def build(s: Sizes) -> Part[nn.Module]:
        sight = {"mask": Causal(), "bias": False, "rotary": RoPE()}
        numbers = {"num_heads": s["H"], "num_kv_heads": s["G"], "head_dim": s["d"]}
        own = {k: v(s) if isfunction(v) else v for k, v in more.items()}
        return part(MultiHeadAttention, **(numbers | sight | own))

    return build


ROTARY = heads()


def decoder(
    norm: Part[nn.Module] = RMS,
    attention: Callable[[Sizes], Part[nn.Module]] = ROTARY,
    feedforward: Callable[[Sizes], Part[nn.Module]] = gated,
    wiring: type[nn.Module] = PreNormBlock,
    dense: int = 0,
    **more: Any,
) -> Recipe:
    """Say how a family is built; the first `dense` layers have no experts."""

    def build(s: Sizes) -> Part[Decoder]:
        def block(branch: Callable[[Sizes], Part[nn.Module]]) -> Part[nn.Module]:
            branches = {"attention": attention(s), "feedforward": branch(s)}
            return part(wiring, **branches, norm=norm)

        first = (block(gated),) * dense if dense else ()
        own = {k: v(s) if isfunction(v) else v for k, v in more.items()}
        blocks = (*first, *(block(feedforward),) * (s["L"] - dense))
        return part(Decoder, vocab_size=s["V"], blocks=blocks, **({"norm": norm} | own))

    return build


def learned(offset: int = 0) -> Callable[[Sizes], Part[nn.Module]]:
    return lambda s: part(LearnedPositions, max_positions=s["P"], offset=offset)


def latent(
    query_rank: int | None, nope: int = 128
) -> Callable[[Sizes], Part[nn.Module]]:
    return lambda s: part(
        LatentAttention,
        num_heads=s["H"],
        head_dim=(nope, 64, 128),
        kv_rank=512,
        query_rank=query_rank,
        mask=Causal(),
    )


def alibi(s: Sizes) -> ALiBi:
    return ALiBi(s["H"])


OLD = {"bias": True, "rotary": None}
BIASED_HEAD = part(Head, bias=True)

RECIPES: dict[str, Recipe] = {
    "llama-3-8b": decoder(),
    "llama-3.2-1b": decoder(tied=True),
    "llama-3.1-405b": decoder(),
    "mistral-7b-v0.1": decoder(),
    "mistral-nemo-12b": decoder(),
    "yi-34b": decoder(),
    "smollm3-3b": decoder(tied=True),
    "granite-3.1-8b": decoder(tied=True),
    "seed-oss-36b": decoder(attention=heads(bias="qkv")),
    "qwen2.5-0.5b": decoder(attention=heads(bias="qkv"), tied=True),
    "qwen3-8b": decoder(attention=heads(qk_norm=RMS)),
    "gemma-2b": decoder(GEMMA, tied=True),
    "gemma-2-2b": decoder(GEMMA, wiring=SandwichBlock, tied=True),
    "gemma-3-1b": decoder(GEMMA, heads(qk_norm=GEMMA), wiring=SandwichBlock, tied=True),
    "olmo-2-7b": decoder(
        attention=heads(qk_norm=part(AcrossHeads)), wiring=OutputNormBlock
    ),
    "olmo-1b": decoder(part(LayerNorm, weight=False, bias=False), tied=True),
    "aya-23-8b": decoder(NO_BIAS, wiring=ParallelBlock, tied=True),
    "command-r7b": decoder(NO_BIAS, wiring=ParallelBlock, tied=True),
    "stablelm-3b-4e1t": decoder(LAYER),
    "stablelm-2-12b": decoder(
        LAYER, heads(qk_norm=part(EachHead, norm=NO_BIAS)), wiring=ParallelBlock
    ),
    "glm-4-9b-hf": decoder(attention=heads(bias="qkv")),
    "phi-3-mini": decoder(),
    "nemotron-minitron-4b": decoder(LAYER, feedforward=plain(bias=False)),
    "starcoder2-3b": decoder(LAYER, heads(bias=True), plain(), tied=True),
    "phi-2": decoder(LAYER, heads(bias=True), plain(), ParallelBlock, head=BIASED_HEAD),
    "gpt-j-6b": decoder(LAYER, heads(), plain(), ParallelBlock, head=BIASED_HEAD),
    "pythia-160m": decoder(LAYER, heads(bias=True), plain(), TwoNormParallelBlock),
    "falcon-7b": decoder(LAYER, heads(), plain(bias=False), ParallelBlock, tied=True),
    "gpt2": decoder(LAYER, heads(**OLD), plain(), positions=learned(), tied=True),
    "gpt-neo-1.3b": decoder(
        LAYER, heads(bias="out", rotary=None), plain(), positions=learned(), tied=True
    ),
    "opt-1.3b": decoder(
        LAYER, heads(**OLD), plain(), positions=learned(offset=2), tied=True
    ),
    "bloom-1b1": decoder(
        LAYER,
        heads(**OLD, position_bias=alibi),
        plain(),
        embed_norm=LAYER,
        tied=True,
    ),
    "mpt-7b": decoder(
        NO_BIAS,
        heads(rotary=None, position_bias=alibi),
        plain(bias=False),
        tied=True,
    ),
    "mixtral-8x7b": decoder(feedforward=mixture()),
    "granite-3.1-1b-a400m": decoder(feedforward=mixture(), tied=True),
    "qwen3-30b-a3b": decoder(attention=heads(qk_norm=RMS), feedforward=mixture()),
    "olmoe-1b-7b": decoder(
        attention=heads(qk_norm=part(AcrossHeads)), feedforward=mixture()
    ),
    "deepseek-v2-lite": decoder(
        attention=latent(None), feedforward=mixture(shared=2), dense=1
    ),
    "deepseek-v3": decoder(
        attention=latent(1536),
        feedforward=mixture(SigmoidRouter, shared=1, num_groups=8, top_groups=4),
        dense=3,
    ),
}

# Names of transformers, and what they are called here; norms by their wiring.
TRUNK = [
    (r"^(model\.decoder|model|transformer|gpt_neox)\.", ""),
    (r"^(layers|h|blocks)\.(\d+)\.", r"blocks.\2."),
    (r"^(embed_tokens|wte|word_embeddings|embed_in)\.", "embed."),
    (r"^(wpe|embed_positions)\.", "embed.positions."),
    (r"^word_embeddings_layernorm\.", "embed.norm."),
    (r"^(ln_f|norm_f|final_layer_?norm)\.", "norm."),
    (r"^(lm_head|embed_out)\.", "head."),
    (r"\.(self_attn|self_attention|attn\.attention|attn|attention)\.", ".attention."),
    (r"\.attention\.(out_proj|dense|c_proj)\.", ".attention.o_proj."),
    (r"\.attention\.(query_key_value|Wqkv|c_attn|qkv_proj)\.", ".attention.qkv."),
    (r"\.attention\.([qk])_layernorm\.", r".attention.\1_norm."),
    (r"\.attention\.(kv_a_proj)_with_mqa\.", r".attention.\1."),
    (r"\.(attention\..*)layernorm\.", r".\1norm."),
    (r"\.(mlp|ffn|block_sparse_moe)\.", ".feedforward."),
    (r"\.(fc1|fc2)\.", r".feedforward.\1."),
    (r"\.feedforward\.(feedforward\.)+", ".feedforward."),
    (r"\.(fc1|c_fc|fc_in|dense_h_to_4h)\.", ".up_proj."),
    (r"(feedforward\.)(fc2|c_proj|fc_out|dense_4h_to_h)\.", r"\1down_proj."),
    (r"feedforward\.(gate|router\.layer)\.", "feedforward.router."),
    (r"feedforward\.input_linear\.weight", "feedforward.experts.gate_up_proj"),
    (r"feedforward\.output_linear\.weight", "feedforward.experts.down_proj"),
    (r"\.(self_attn_layer_norm|input_layernorm|ln_1|norm_1)\.", ".attn_norm."),
]
NORMS: dict[type[nn.Module], list[tuple[str, str]]] = {
    SandwichBlock: [
        (r"\.post_attention_layernorm\.", ".attn_out_norm."),
        (r"\.pre_feedforward_layernorm\.", ".ffn_norm."),
        (r"\.post_feedforward_layernorm\.", ".ffn_out_norm."),
    ],
    ParallelBlock: [(r"\.attn_norm\.", ".norm.")],
    OutputNormBlock: [
        (r"\.post_attention_layernorm\.", ".attn_norm."),
        (r"\.post_feedforward_layernorm\.", ".ffn_norm."),
    ],
}
OTHERS = [
    (r"\.(post_attention_layernorm|final_layer_norm|ln_2|norm_2)\.", ".ffn_norm.")
]

ACROSS = [(r"\.([qk])_norm\.", r".\1_norm.norm.")]


def published(name: str, wiring: type[nn.Module]) -> Iterator[tuple[str, list[int]]]:
    """Yield our names of a published model's weights, with their shapes."""
    book = ledger(name)
    s = book.sizes
    conv = book.architecture.startswith("GPT2")  # its matrices lie transposed
    for entry in book.entries:
        if entry.tied_to:
            continue
        own, shape = entry.name, list(entry.shape)
        across = book.architecture.startswith("Olmo")
        for theirs, ours in [*TRUNK, *NORMS.get(wiring, OTHERS), *ACROSS * across]:
            own = re.sub(theirs, ours, own)
        if conv and "blocks" in own:
            shape.reverse()
        if ".qkv." in own:
            for letter, rows in zip("qkv", (s["H"], s["G"], s["G"]), strict=True):
                split = own.replace("qkv", f"{letter}_proj")
                yield split, [rows * s["d"], *shape[1:]]
        elif own.endswith("feedforward.gate_up_proj.weight"):
            for half in ("gate", "up"):
                yield own.replace("gate_up", half), [shape[0] // 2, *shape[1:]]
        else:
            yield own, shape


@pytest.mark.parametrize("name", RECIPES)
def test_its_weights_are_the_ledger_s(name: str) -> None:
    sizes = ledger(name).sizes
    recipe = RECIPES[name](sizes)
    with torch.device("meta"):
        model = recipe.build(sizes["D"])
    ours = {key: list(value.shape) for key, value in model.named_parameters()}
    theirs = dict(published(name, type(model.blocks[0])))
    assert ours == theirs
    assert sum(p.numel() for p in model.parameters()) == ledger(name).total


@pytest.mark.parametrize(
    ("name", "feedforward"), [("t5-base", plain(bias=False)), ("flan-t5-small", gated)]
)
def test_encoder_decoders_are_the_ledger_s(
    name: str, feedforward: Callable[[Sizes], Part[nn.Module]]
) -> None:
    book = ledger(name)
    s = book.sizes

    def attention(*, bidirectional: bool) -> Part[nn.Module]:
        shared = RelativeBias(s["H"], bidirectional=bidirectional)
        return heads(rotary=None, mask=None, position_bias=shared)(s)

    with torch.device("meta"):
        both = {"feedforward": feedforward(s), "norm": RMS}
        block = part(PreNormBlock, attention=attention(bidirectional=True), **both)
        cross = part(
            PreNormCrossBlock,
            attention=attention(bidirectional=False).but(mask=Causal()),
            cross_attention=heads(rotary=None, mask=None)(s),
            **both,
        )
        tied = any(e.name == "lm_head.weight" and e.tied_to for e in book.entries)
        model = EncoderDecoder(
            s["D"],
            embed=part(TokenEmbedding, vocab_size=s["V"]),
            encoder=part(Encoder, blocks=(block,) * s["L"], norm=RMS),
            decoder=part(
                Decoder,
                vocab_size=s["V"],
                blocks=(cross,) * s["L"],
                norm=RMS,
                tied=tied,
            ),
        )
    ours = {key: tuple(value.shape) for key, value in model.named_parameters()}
    theirs = {t5_name(e.name): e.shape for e in book.entries if not e.tied_to}
    assert ours == theirs
