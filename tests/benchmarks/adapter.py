"""The components of tfdoc, with the weights and the inputs of the cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hugging_face import LLAMA, gpt2_weights, renamed
from tfdoc import (
    Causal,
    Decoder,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    LearnedPositions,
    MixtureOfExperts,
    MultiHeadAttention,
    Part,
    PostNormBlock,
    PreNormBlock,
    RMSNorm,
    RoPE,
    Window,
    fused_attention,
    generate,
    part,
)

from . import attention, decoding, encoder, language, layers, multihead
from .cases import Run, halves, impl, interleave_rows, interleaved, load
from .encoder import real_rows
from .language import TrainingStep, hf_weights

# Whose cases are implemented here; importing them registered the peers.
HOMES = (attention, decoding, encoder, language, layers, multihead)

Build = Callable[[Any, Any], Any]


def own(cases: str | list[str], **settings: Any) -> Callable[[Build], Build]:
    """Register an implementation of ours."""
    register: Callable[[Build], Build] = impl(cases, "tfdoc", kind="own", **settings)
    return register


# What each case hides; padding is a bool tensor there too.
MASKS = {
    "causal": Causal(),
    "gqa": Causal(),
    "decode": Causal(),
    "decode_gqa": Causal(),
}


@own(["attn/" + case for case in ("full", "padding", "fullmask", "window", *MASKS)])
def _(t: Any, p: Any) -> Any:
    mask = MASKS.get(p.variant, getattr(t, "mask", None))
    if p.variant == "window":
        mask = Causal() & Window(p.w)
    return Run(lambda: fused_attention(t.q, t.k, t.v, mask))


@own(["mha/bidir", "mha/causal", "mha/llama"])
def _(t: Any, p: Any) -> Any:
    attention = MultiHeadAttention(
        p.D,
        num_heads=p.h,
        num_kv_heads=p.hk,
        bias=False,
        mask=Causal() if p.case.causal else None,
        rotary=RoPE() if p.case.rope else None,
    ).to(t.x)
    turn = interleave_rows if p.case.rope else lambda weight, _heads: weight
    queries, keys = turn(t.wq, p.h), turn(t.wk, p.hk)
    heads = {"q_proj": queries, "k_proj": keys, "v_proj": t.wv, "o_proj": t.wo}
    load(attention, **{f"{name}__weight": weight for name, weight in heads.items()})
    return Run(lambda: attention(t.x), params=attention.parameters())


@own(["norm/layer", "norm/rms"])
def _(t: Any, p: Any) -> Any:
    norm = (LayerNorm if p.case.layer else RMSNorm)(p.d, eps=p.eps).to(t.x)
    load(norm, weight=t.w)
    return Run(lambda: norm(t.x), params=norm.parameters())


@own("ffn/gelu")
def _(t: Any, p: Any) -> Any:
    ffn = FeedForward(p.D, hidden_dim=p.I, bias=False).to(t.x)
    load(ffn, up_proj__weight=t.w1, down_proj__weight=t.w2)
    return Run(lambda: ffn(t.x), params=ffn.parameters())


@own("ffn/swiglu")
def _(t: Any, p: Any) -> Any:
    ffn = GatedFeedForward(p.D, hidden_dim=p.I).to(t.x)
    load(ffn, gate_proj__weight=t.w1, up_proj__weight=t.w3, down_proj__weight=t.w2)
    return Run(lambda: ffn(t.x), params=ffn.parameters())


@own("ffn/moe")
def _(t: Any, p: Any) -> Any:
    moe = MixtureOfExperts(p.D, num_experts=8, hidden_dim=p.I).to(t.x)
    both = torch.cat((t.w1, t.w3), 1)
    load(moe, router__weight=t.wg, experts__gate_up_proj=both)
    load(moe, experts__down_proj=t.w2)
    return Run(lambda: moe(t.x), params=moe.parameters())


@own("rope")
def _(t: Any, p: Any) -> Any:
    del p
    rope, given = RoPE(), [interleaved(x) for x in (t.q, t.k)]

    def turn() -> list[Tensor]:
        return [rope(x.transpose(1, 2)) for x in given]

    def theirs(out: list[Tensor]) -> Tensor:
        return torch.cat([halves(x) for x in out], 1)

    return Run(turn, inputs=given, post=theirs)


@own(["encoder/nomask", "encoder/padded"])
def _(t: Any, p: Any) -> Any:
    block = PostNormBlock(
        p.D,
        attention=part(MultiHeadAttention, num_heads=p.h, bias=False),
        feedforward=part(FeedForward, hidden_dim=p.I, bias=False),
        norm=part(LayerNorm, bias=False),
    ).to(t.x)
    heads = {"q": t.wq, "k": t.wk, "v": t.wv, "o": t.wo}
    load(block, **{f"attention__{n}_proj__weight": w for n, w in heads.items()})
    load(block, feedforward__up_proj__weight=t.w1, feedforward__down_proj__weight=t.w2)
    mask = t.mask[:, None, None] if p.case.pad else None
    return Run(
        lambda: block(t.x, mask=mask), params=block.parameters(), post=real_rows(t, p)
    )


def gpt2(p: Any) -> Decoder:
    """Build the harness's GPT-2."""
    block = part(
        PreNormBlock,
        attention=part(MultiHeadAttention, num_heads=p.h, mask=Causal()),
        feedforward=part(FeedForward, hidden_dim=4 * p.D),
    )
    model = Decoder(
        p.D,
        vocab_size=p.V,
        blocks=(block,) * p.L,
        norm=part(LayerNorm),
        positions=part(LearnedPositions, max_positions=p.ctx),
        tied=True,
    )
    model.load_state_dict(gpt2_weights(hf_weights(p, "gpt2")))
    return model


def llama(p: Any) -> Decoder:
    """Build the harness's Llama, its rotary weights for neighbouring channels."""
    norm: Part[nn.Module] = part(RMSNorm, eps=1e-5)
    block = part(
        PreNormBlock,
        attention=part(
            MultiHeadAttention,
            num_heads=p.h,
            num_kv_heads=p.hk,
            bias=False,
            mask=Causal(),
            rotary=RoPE(),
        ),
        feedforward=part(GatedFeedForward, hidden_dim=p.I),
        norm=norm,
    )
    model = Decoder(p.D, vocab_size=p.V, blocks=(block,) * p.L, norm=norm)
    weights = renamed(hf_weights(p, "llama"), LLAMA)
    for name, heads in (("q_proj", p.h), ("k_proj", p.hk)):
        for key in weights:
            if name in key:
                weights[key] = interleave_rows(weights[key], heads)
    model.load_state_dict(weights)
    return model


def loss(model: Decoder, ids: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss of the next token."""
    return F.cross_entropy(model(ids).flatten(0, 1), y.flatten())


def models() -> Iterator[tuple[str, Callable[[Any], Decoder]]]:
    """Yield what the language models are called there, and how ours are built."""
    yield "gpt2", gpt2
    yield "llama", llama


def register(family: str, build: Callable[[Any], Decoder]) -> None:
    """Register forward, training step and generation of one family."""

    @own(f"lm/{family}/fwd")
    def _(t: Any, p: Any) -> Any:
        model = build(p)
        return Run(lambda: model(t.ids))

    @own(f"lm/{family}/train")
    def _(t: Any, p: Any) -> Any:
        model = build(p)
        return Run(TrainingStep(model, partial(loss, model), t, fused=True))

    @own(f"gen/{family}")
    def _(t: Any, p: Any) -> Any:
        model = build(p).eval()
        return Run(
            lambda: generate(model, t.ids, max_new_tokens=p.new, progress=False),
            post=lambda out: out[:, -p.new :].double(),
        )


for _family, _build in models():
    register(_family, _build)
