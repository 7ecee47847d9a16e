"""Whole models: parity with torch and Hugging Face, padding, heads, embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.helpers import drawn, equal, randn64
from tests.hugging_face import LLAMA, gpt2_weights, renamed, t5_name
from tests.subjects import DECODERS, ENCODERS, FFN, HEADS, PAST, SEQ2SEQ, D, H, V
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
    MixtureOfExperts,
    MultiHeadAttention,
    PostNormCrossBlock,
    PreNormBlock,
    PreNormCrossBlock,
    RelativeBias,
    RMSNorm,
    RoPE,
    SoftmaxRouter,
    TokenEmbedding,
    UnitOffsetRMSNorm,
    half_to_interleaved,
    part,
    record,
)

HIDDEN = 40


def same_logits(ours: nn.Module, theirs: Any, tolerance: float = 1e-5) -> None:
    tokens, mask = torch.randint(V, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    with torch.no_grad():
        equal(ours(tokens), theirs(tokens).logits, tolerance)
        mask[1, :3] = 0
        real = mask.bool()
        at = (mask.cumsum(1) - 1).clamp(min=0)
        padded = theirs(tokens, attention_mask=mask, position_ids=at).logits
        equal(ours(tokens, real=real)[real], padded[real], tolerance)


def test_a_whole_llama() -> None:
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=H,
        num_key_value_heads=2,
    )
    theirs = drawn(LlamaForCausalLM(config)).eval()
    norm = part(RMSNorm, eps=1e-6)
    block = part(
        PreNormBlock,
        attention=part(
            MultiHeadAttention,
            num_heads=H,
            num_kv_heads=2,
            bias=False,
            mask=Causal(),
            rotary=RoPE(layout="half"),
        ),
        feedforward=part(GatedFeedForward, hidden_dim=HIDDEN),
        norm=norm,
    )
    ours = Decoder(D, vocab_size=V, blocks=(block,) * 2, norm=norm).eval()
    weights = renamed(dict(theirs.state_dict()), LLAMA)
    ours.load_state_dict(weights)
    same_logits(ours, theirs)
    interleaved = block.but(
        attention=block.settings["attention"].but(rotary=RoPE(layout="interleaved"))
    )
    turned = Decoder(D, vocab_size=V, blocks=(interleaved,) * 2, norm=norm).eval()
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights[name] = half_to_interleaved(weight, len(weight) * H // D)
    turned.load_state_dict(weights)
    same_logits(turned, theirs)


def test_a_whole_gpt2() -> None:
    config = GPT2Config(
        vocab_size=V,
        n_embd=D,
        n_layer=2,
        n_head=H,
        n_positions=32,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = drawn(GPT2LMHeadModel(config)).eval()
    tanh_gelu = partial(F.gelu, approximate="tanh")
    block = part(
        PreNormBlock,
        attention=PAST,
        feedforward=part(FeedForward, hidden_dim=4 * D, activation=tanh_gelu),
    )
    ours = Decoder(
        D,
        vocab_size=V,
        blocks=(block,) * 2,
        norm=part(LayerNorm),
        positions=part(LearnedPositions, max_positions=32),
        tied=True,
    ).eval()
    ours.load_state_dict(gpt2_weights(theirs.state_dict()))
    same_logits(ours, theirs, 1e-4)


def test_a_whole_gemma() -> None:
    config = GemmaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=H,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=None,
    )
    theirs = drawn(GemmaForCausalLM(config)).eval()
    norm = part(UnitOffsetRMSNorm, eps=1e-6)
    tanh_gelu = partial(F.gelu, approximate="tanh")
    block = part(
        PreNormBlock,
        attention=part(
            MultiHeadAttention,
            num_heads=H,
            num_kv_heads=1,
            head_dim=8,
            bias=False,
            mask=Causal(),
            rotary=RoPE(layout="half"),
        ),
        feedforward=part(GatedFeedForward, hidden_dim=HIDDEN, activation=tanh_gelu),
        norm=norm,
    )
    ours = Decoder(
        D, vocab_size=V, blocks=(block,) * 2, norm=norm, embed_scale=D**0.5, tied=True
    ).eval()
    weights = renamed(dict(theirs.state_dict()), LLAMA)
    del weights["head.weight"]
    ours.load_state_dict(weights)
    same_logits(ours, theirs, 1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
def test_cross_blocks_equal_torch(norm_first: bool) -> None:
    theirs = nn.TransformerDecoderLayer(
        D, H, 24, 0.0, "gelu", batch_first=True, norm_first=norm_first
    )
    theirs = drawn(theirs.to(torch.get_default_device()).double()).eval()
    wiring = PreNormCrossBlock if norm_first else PostNormCrossBlock
    ours = wiring(D, attention=PAST, cross_attention=HEADS, feedforward=FFN).double()
    names = {
        "self_attn": "attention",
        "multihead_attn": "cross_attention",
        "out_proj": "o_proj",
        "linear1": "feedforward.up_proj",
        "linear2": "feedforward.down_proj",
        "norm1": "attn_norm",
        "norm2": "cross_norm",
        "norm3": "ffn_norm",
    }
    weights = {}
    for name, weight in renamed(dict(theirs.state_dict()), names).items():
        if "in_proj" in name:
            for letter, third in zip("qkv", weight.chunk(3), strict=True):
                weights[name.replace("in_proj_", f"{letter}_proj.")] = third
        else:
            weights[name] = weight
    ours.load_state_dict(weights)
    x, context = randn64(2, 5, D), randn64(2, 7, D)
    future = ~Causal().table(5)
    hidden = torch.arange(7) >= torch.tensor([[4], [7]])
    at = torch.where(hidden, -1, torch.arange(7))
    expected = theirs(x, context, tgt_mask=future, memory_key_padding_mask=hidden)
    equal(ours(x, context, context_positions=at), expected)


def test_a_whole_t5() -> None:
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=V,
        d_model=D,
        d_kv=6,
        d_ff=HIDDEN,
        num_layers=2,
        num_heads=H,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        tie_word_embeddings=True,
        decoder_start_token_id=0,
    )
    theirs = drawn(T5ForConditionalGeneration(config)).eval()
    sides = {
        name: RelativeBias(
            H, num_buckets=8, max_distance=20, bidirectional=name == "encoder"
        )
        for name in ("encoder", "decoder")
    }
    norm = part(RMSNorm, eps=1e-6)
    plain = part(MultiHeadAttention, num_heads=H, head_dim=6, bias=False)
    relu = part(FeedForward, hidden_dim=HIDDEN, activation=F.relu, bias=False)
    block = part(
        PreNormBlock,
        attention=plain.but(position_bias=sides["encoder"]),
        feedforward=relu,
        norm=norm,
    )
    cross = part(
        PreNormCrossBlock,
        attention=plain.but(position_bias=sides["decoder"], mask=Causal()),
        cross_attention=plain,
        feedforward=relu,
        norm=norm,
    )
    ours = EncoderDecoder(
        D,
        embed=part(TokenEmbedding, vocab_size=V),
        encoder=part(Encoder, blocks=(block,) * 2, norm=norm),
        decoder=part(
            Decoder,
            vocab_size=V,
            blocks=(cross,) * 2,
            norm=norm,
            tied=True,
            head=part(Head, scale=D**-0.5),
        ),
    ).eval()
    weights: dict[str, Tensor] = {}
    for name, weight in theirs.state_dict().items():
        if "embed_tokens" in name or name == "lm_head.weight":
            continue
        own = t5_name(name)
        weights[own] = weight * (6**0.5 if "attention.q_proj" in own else 1)
    missing = ours.load_state_dict(weights, strict=False)
    shared = {f"{side}.blocks.1.attention.position_bias.weight" for side in sides}
    assert set(missing.missing_keys) == shared
    assert not missing.unexpected_keys
    source, target = torch.randint(V, (2, 8)), torch.randint(V, (2, 5))
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    with torch.no_grad():
        expected = theirs(source, mask, decoder_input_ids=target).logits
        equal(ours(source, target, real=mask.bool()), expected, 1e-4)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_padding_holds_never_reaches_a_token(name: str, side: str) -> None:
    encoder = drawn(ENCODERS[name].build(D)).double().eval()
    x, real = randn64(2, 6, D), torch.ones(2, 6, dtype=torch.bool)
    real[1, :2] = False
    real = real if side == "left" else real.flip(1)
    alone = encoder(x[1:, real[1]])
    for filling in (0.0, 1e4, float("nan"), float("inf")):
        out = encoder(x.masked_fill(~real[..., None], filling), real=real)
        equal(out[1, real[1]], alone[0])
        equal(out[:1], encoder(x[:1]))
        assert out.isfinite().all()
    x = x.requires_grad_()
    (grad,) = torch.autograd.grad(encoder(x, real=real)[real].square().sum(), x)
    assert not grad[~real].any()
    assert grad.isfinite().all()


def test_padding_takes_no_capacity() -> None:
    mixture = part(
        MixtureOfExperts,
        num_experts=4,
        hidden_dim=8,
        router=part(SoftmaxRouter, top_k=1),
        capacity=1.0,
    )
    block = part(PreNormBlock, attention=HEADS, feedforward=mixture)
    encoder = Encoder(D, blocks=(block,)).double().eval()
    x, real = randn64(2, 8, D), torch.ones(2, 8, dtype=torch.bool)
    real[1, 2:] = False
    with record(encoder, "*load") as seen:
        encoder(x, real=real)
    assert seen["blocks.0.feedforward.load"].sum() == real.sum()


def test_last_is_the_last() -> None:
    for recipe in DECODERS.values():
        model, tokens = recipe.build(D).double().eval(), torch.randint(V, (2, 6))
        equal(model(tokens, last=True), model(tokens)[:, -1:])


def test_tied_is_one_table() -> None:
    model = DECODERS["gpt2"].build(D)
    assert [n for n, p in model.named_parameters() if p.shape == (V, D)] == [
        "embed.weight"
    ]
    seq2seq = SEQ2SEQ["transformer"].build(D)
    assert [n for n, p in seq2seq.named_parameters() if p.shape == (V, D)] == [
        "decoder.embed.weight"
    ]


def test_a_head_by_hand() -> None:
    head = drawn(Head(D, V, bias=True, scale=0.5, softcap=3.0).double())
    x = randn64(2, D)
    assert head.weight is not None
    assert head.bias is not None
    plain = 0.5 * (x @ head.weight.T + head.bias)
    equal(head(x), 3 * torch.tanh(plain / 3))
    assert head(x).abs().max() < 3
    assert repr(head) == f"Head({D}, {V}, bias=True, scale=0.5, softcap=3)"


def test_an_embedding_by_hand() -> None:
    embed = TokenEmbedding(
        D,
        vocab_size=V,
        positions=part(LearnedPositions, max_positions=8),
        norm=part(LayerNorm),
        scale=3.0,
    ).double()
    tokens = torch.randint(V, (2, 5))
    assert embed.weight is not None
    rows = embed.get_parameter("positions.weight")[2:7]
    expected = F.layer_norm(3 * embed.weight[tokens] + rows, (D,))
    equal(embed(tokens, 2), expected)
    assert "vocab_size=23, scale=3" in repr(embed)


def test_attention_dropout_is_the_core_s() -> None:
    heads = HEADS.but(core=part(DotProductCore, dropout=0.5)).build(D)
    x = torch.randn(1, 4, D)
    assert not torch.equal(heads(x), heads(x))
    heads.eval()
    assert torch.equal(heads(x), heads(x))


@pytest.mark.parametrize("bias", [True, False, "qkv", "out"])
def test_which_projections_have_a_bias(bias: bool | str) -> None:
    heads = HEADS.but(bias=bias).build(D)
    has = {n.split("_")[0] for n, _ in heads.named_parameters() if n.endswith("bias")}
    inner = {"q", "k", "v"} if bias in (True, "qkv") else set()
    assert has == inner | ({"o"} if bias in (True, "out") else set())
