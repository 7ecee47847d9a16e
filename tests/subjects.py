"""The components that the invariants are tested on: how to build each, and on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers import drawn
from tfdoc import (
    AcrossHeads,
    ALiBi,
    Causal,
    Chunked,
    ClampedExperts,
    Decoder,
    DeepNormBlock,
    DotProductCore,
    EachHead,
    Encoder,
    EncoderDecoder,
    FactorisedEmbedding,
    FeedForward,
    GatedFeedForward,
    GroupedSoftmaxRouter,
    Head,
    LatentAttention,
    LayerNorm,
    LayerScale,
    LearnedPositions,
    MaskedHead,
    MixtureOfExperts,
    MultiHeadAttention,
    OutputNormBlock,
    ParallelBlock,
    Part,
    PostNormBlock,
    PostNormCrossBlock,
    Prefix,
    PreNormBlock,
    PreNormCrossBlock,
    RelativeBias,
    RepeatedBlock,
    ResidualScale,
    ReZero,
    RMSNorm,
    RoPE,
    SandwichBlock,
    ScaledInputExperts,
    SigmoidGate,
    SigmoidRouter,
    SinkCore,
    Sinusoidal,
    SoftcapCore,
    SoftmaxRouter,
    SparseMixerRouter,
    TextEncoder,
    TokenEmbedding,
    TokenTypes,
    TwoNormParallelBlock,
    UnitOffsetRMSNorm,
    Window,
    YaRN,
    part,
)

D, H, V, HIDDEN = 16, 4, 23, 24

HEADS = part(MultiHeadAttention, num_heads=H)
PAST = HEADS.but(mask=Causal())
ROTARY = PAST.but(num_kv_heads=2, bias=False, rotary=RoPE())
FFN = part(FeedForward, hidden_dim=HIDDEN)
GATED = part(GatedFeedForward, hidden_dim=HIDDEN)
MIXTURE = part(MixtureOfExperts, num_experts=4, hidden_dim=HIDDEN)
RMS = part(RMSNorm)

MIXTURES: dict[str, Part[Any]] = {
    "gpt-oss's mixture": MIXTURE.but(
        router=part(SoftmaxRouter, bias=True), experts=part(ClampedExperts)
    ),
    "Llama 4's mixture": MIXTURE.but(
        router=part(SigmoidRouter, top_k=1, normalise=False),
        experts=part(ScaledInputExperts),
        shared=GATED,
    ),
    "Qwen2's mixture": MIXTURE.but(shared=part(SigmoidGate, branch=GATED)),
    "DeepSeek-V2's mixture": MIXTURE.but(
        router=part(GroupedSoftmaxRouter, num_groups=2, top_groups=1, scale=16)
    ),
    "DeepSeek-V3's mixture": MIXTURE.but(
        router=part(SigmoidRouter, num_groups=2, top_groups=1, scale=2.5)
    ),
    "Phi-3.5's mixture": MIXTURE.but(router=part(SparseMixerRouter, jitter=0.3)),
}

ATTENTION: dict[str, Part[Any]] = {
    "plain": HEADS,
    "grouped, rotary": ROTARY,
    "half rotary": PAST.but(rotary=RoPE(layout="half", rotary_dim=2)),
    "ALiBi": PAST.but(position_bias=ALiBi(H)),
    "QK-norm": ROTARY.but(qk_norm=RMS),
    "window": ROTARY.but(mask=Causal() & Window(3)),
    "wide values": PAST.but(head_dim=(6, 10), num_kv_heads=1),
    "norm across heads": ROTARY.but(qk_norm=part(AcrossHeads)),
    "norm of each head": ROTARY.but(qk_norm=part(EachHead, norm=part(LayerNorm))),
    "YaRN": ROTARY.but(rotary=RoPE(scaling=YaRN(4.0, original_length=64))),
    "sink": ROTARY.but(core=part(SinkCore)),
    "capped": ROTARY.but(core=part(SoftcapCore, cap=2.0)),
    "latent": part(
        LatentAttention,
        num_heads=H,
        head_dim=(6, 4, 5),
        kv_rank=6,
        query_rank=7,
        mask=Causal(),
    ),
}
WIRINGS: tuple[type[nn.Module], ...] = (
    PreNormBlock,
    PostNormBlock,
    SandwichBlock,
    OutputNormBlock,
    ParallelBlock,
    TwoNormParallelBlock,
)
BLOCKS = {
    wiring.__name__: part(wiring, attention=PAST, feedforward=FFN) for wiring in WIRINGS
}
BLOCKS |= {
    "DeepNormBlock": part(DeepNormBlock, attention=PAST, feedforward=FFN, alpha=1.5),
    "scaled branches": part(
        PreNormBlock,
        attention=part(LayerScale, branch=PAST),
        feedforward=part(ReZero, branch=FFN),
        norm=part(UnitOffsetRMSNorm),
    ),
    "one scale": part(
        PreNormBlock,
        attention=part(ResidualScale, branch=PAST, scale=0.2),
        feedforward=FFN,
        norm=part(LayerNorm, bias=False),
    ),
}
LLAMA = part(PreNormBlock, attention=ROTARY, feedforward=GATED, norm=RMS)
MIXTRAL = LLAMA.but(feedforward=MIXTURE)
GPT2 = part(PreNormBlock, attention=PAST, feedforward=FFN)
CROSS = part(PreNormCrossBlock, attention=PAST, cross_attention=HEADS, feedforward=FFN)
T5 = GPT2.but(
    attention=PAST.but(
        position_bias=RelativeBias(H, bidirectional=False),
        core=part(DotProductCore, scale=1.0),
    )
)


def _of(*blocks: Part[Any]) -> Part[Any]:
    return part(Decoder, vocab_size=V, blocks=blocks, norm=RMS)


DECODERS: dict[str, Part[Any]] = {
    "llama": part(Decoder, vocab_size=V, blocks=(LLAMA,) * 2, norm=RMS),
    "mistral": part(
        Decoder,
        vocab_size=V,
        blocks=(LLAMA.but(attention=ATTENTION["window"]), LLAMA),
        norm=RMS,
    ),
    "mixtral": part(Decoder, vocab_size=V, blocks=(LLAMA, MIXTRAL), norm=RMS),
    "gpt2": part(
        Decoder,
        vocab_size=V,
        blocks=(GPT2,) * 2,
        norm=part(LayerNorm),
        positions=part(LearnedPositions, max_positions=80),
        tied=True,
    ),
    "bloom": part(
        Decoder,
        vocab_size=V,
        blocks=(GPT2.but(attention=ATTENTION["ALiBi"]),) * 2,
        norm=part(LayerNorm),
        embed_norm=part(LayerNorm),
        tied=True,
    ),
    "gemma": part(
        Decoder,
        vocab_size=V,
        blocks=(part(SandwichBlock, attention=ROTARY, feedforward=GATED, norm=RMS),)
        * 2,
        norm=RMS,
        embed_scale=D**0.5,
        tied=True,
        head=part(Head, softcap=30.0),
    ),
    "deepseek": _of(LLAMA.but(attention=ATTENTION["latent"])),
    "gpt-oss": _of(
        LLAMA.but(attention=ATTENTION["window"].but(core=part(SinkCore))),
        LLAMA.but(attention=ATTENTION["sink"]),
    ),
    "t5": _of(T5, T5),
    "llama 4": _of(LLAMA.but(attention=ROTARY.but(mask=Causal() & Chunked(3))), LLAMA),
    "streaming": _of(
        LLAMA.but(attention=ROTARY.but(mask=Causal() & (Window(3) | Prefix(2))))
    ),
}
ENCODERS: dict[str, Part[Any]] = {
    "bert": part(
        Encoder, blocks=(part(PostNormBlock, attention=HEADS, feedforward=FFN),) * 2
    ),
    "encoder with a mixture": part(
        Encoder,
        blocks=(part(PreNormBlock, attention=HEADS, feedforward=MIXTURE),) * 2,
        norm=RMS,
    ),
}
TYPED = part(
    TokenEmbedding,
    vocab_size=V,
    positions=part(LearnedPositions, max_positions=80, offset=2),
    types=part(TokenTypes),
    norm=part(LayerNorm),
)
SHARED = part(RepeatedBlock, block=ENCODERS["bert"].settings["blocks"][0], times=3)
TEXT_ENCODERS: dict[str, Part[Any]] = {
    "bert of tokens": part(TextEncoder, embed=TYPED, encoder=ENCODERS["bert"]),
    "masked bert": part(
        TextEncoder,
        embed=TYPED,
        encoder=ENCODERS["bert"],
        head=part(MaskedHead, vocab_size=V),
        tied=True,
    ),
    "albert": part(
        TextEncoder,
        embed=part(FactorisedEmbedding, embed=TYPED, rank=6),
        encoder=part(Encoder, blocks=(SHARED,)),
        head=part(MaskedHead, vocab_size=V, rank=6),
        tied=True,
    ),
}
WAVES = part(TokenEmbedding, vocab_size=V, positions=part(Sinusoidal))
SEQ2SEQ = {
    "transformer": part(
        EncoderDecoder,
        embed=WAVES,
        encoder=ENCODERS["bert"],
        decoder=part(
            Decoder,
            vocab_size=V,
            blocks=(part(PostNormCrossBlock, **CROSS.settings),) * 2,
            positions=part(Sinusoidal),
            tied=True,
        ),
    ),
    "two vocabularies": part(
        EncoderDecoder,
        embed=WAVES.but(vocab_size=11),
        encoder=ENCODERS["bert"].but(norm=RMS),
        decoder=part(Decoder, vocab_size=V, blocks=(CROSS,) * 2, norm=part(LayerNorm)),
        shared=False,
    ),
}


@dataclass(frozen=True)
class Subject:
    """A component's recipe and its inputs, (B, T)."""

    recipe: Part[Any]
    inputs: Callable[[int, int], tuple[Tensor, ...]]

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Build it with random weights, in evaluation."""
        module: nn.Module = drawn(self.recipe.build(D)).to(dtype).eval()
        for buffer in module.buffers():
            buffer.normal_(std=0.5)
        return module


def _vectors(batch: int, tokens: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, tokens, D, dtype=torch.float64),)


def _ids(batch: int, tokens: int) -> tuple[Tensor, ...]:
    return (torch.randint(V, (batch, tokens)),)


def _pairs(batch: int, tokens: int) -> tuple[Tensor, ...]:
    return torch.randint(11, (batch, tokens + 2)), torch.randint(V, (batch, tokens))


OF_VECTORS = ATTENTION | MIXTURES | BLOCKS | ENCODERS
OF_TOKENS = DECODERS | TEXT_ENCODERS
SUBJECTS = (
    {name: Subject(recipe, _vectors) for name, recipe in OF_VECTORS.items()}
    | {name: Subject(recipe, _ids) for name, recipe in OF_TOKENS.items()}
    | {name: Subject(recipe, _pairs) for name, recipe in SEQ2SEQ.items()}
)
# With dropout, and whose inputs they take.
DROPOUT: dict[str, tuple[Part[Any], str]] = {
    "attention": (HEADS.but(core=part(DotProductCore, dropout=0.5)), "plain"),
    "sink": (HEADS.but(core=part(SinkCore, dropout=0.5)), "plain"),
    "cap": (HEADS.but(core=part(SoftcapCore, cap=2.0, dropout=0.5)), "plain"),
    "latent": (
        ATTENTION["latent"].but(core=part(DotProductCore, dropout=0.5)),
        "plain",
    ),
    "feed-forward": (FFN.but(dropout=0.5), "plain"),
    **{name: (recipe.but(dropout=0.5), "plain") for name, recipe in BLOCKS.items()},
    "decoder": (DECODERS["gpt2"].but(dropout=0.5), "gpt2"),
    "encoder of tokens": (
        TEXT_ENCODERS["bert of tokens"].but(embed=TYPED.but(dropout=0.5)),
        "bert of tokens",
    ),
    "cross block": (
        SEQ2SEQ["transformer"].but(
            decoder=part(Decoder, vocab_size=V, blocks=(CROSS.but(dropout=0.5),))
        ),
        "transformer",
    ),
}
