"""Wirings, norms of queries and keys, scaled branches: parity, and what must hold."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.cohere.configuration_cohere import CohereConfig
from transformers.models.cohere.modeling_cohere import CohereDecoderLayer
from transformers.models.gemma2.configuration_gemma2 import Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer
from transformers.models.gpt_neox.configuration_gpt_neox import GPTNeoXConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer
from transformers.models.olmo2.configuration_olmo2 import Olmo2Config
from transformers.models.olmo2.modeling_olmo2 import (
    Olmo2Attention,
    Olmo2DecoderLayer,
)
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention
from transformers.models.stablelm.modeling_stablelm import StableLmLayerNormPerHead

from tests.helpers import drawn, equal, randn64
from tests.test_huggingface import (
    FUSED,
    HIDDEN,
    PRECISIONS,
    D,
    G,
    H,
    T,
    Tensors,
    agree,
    neighbours,
    rotation,
)
from tfdoc import (
    AcrossHeads,
    Causal,
    DeepNormBlock,
    EachHead,
    Encoder,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    LayerScale,
    MultiHeadAttention,
    OutputNormBlock,
    ParallelBlock,
    PostNormBlock,
    PreNormBlock,
    ResidualScale,
    ReZero,
    RMSNorm,
    RoPE,
    SandwichBlock,
    TwoNormParallelBlock,
    UnitOffsetRMSNorm,
    part,
)

SIZES: dict[str, Any] = FUSED | {
    "hidden_size": D,
    "num_attention_heads": H,
    "num_key_value_heads": G,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 1,
}
HEADS = part(
    MultiHeadAttention,
    num_heads=H,
    num_kv_heads=G,
    bias=False,
    mask=Causal(),
    rotary=RoPE(base=500.0),
)
GATED = part(GatedFeedForward, hidden_dim=HIDDEN)
TANH_GELU = partial(F.gelu, approximate="tanh")


def translate(
    tensors: Tensors, renames: dict[str, str], norm_heads: int = 0
) -> Tensors:
    """Rename pieces of names, and pair the channels of queries and keys as here."""
    heads = {"q_proj": H, "k_proj": G}
    if norm_heads:
        heads |= {"q_norm": norm_heads, "k_norm": norm_heads * G // H or 1}
    ours = {}
    for name, tensor in tensors.items():
        pieces = [renames.get(piece, piece) for piece in name.split(".")]
        owner = name.split(".")[-2]
        paired = neighbours(tensor, heads[owner]) if owner in heads else tensor
        if norm_heads > 1 and owner in ("q_norm", "k_norm"):
            pieces.insert(-1, "norm")
        ours[".".join(pieces)] = paired
    return ours


def turned(theirs: nn.Module, dtype: torch.dtype) -> Any:
    """Return their forward, given the rotation; attention returns a pair."""

    def run(x: Tensor) -> Tensor:
        out = theirs(x, position_embeddings=rotation(dtype), attention_mask=None)
        found: Tensor = out[0] if isinstance(out, tuple) else out
        return found

    return run


LAYER = {"self_attn": "attention", "mlp": "feedforward"}


def test_qk_norm_of_each_head_is_qwen3() -> None:
    theirs = Qwen3Attention(Qwen3Config(head_dim=D // H, **SIZES), 0)
    ours = HEADS.but(qk_norm=part(RMSNorm, eps=1e-6)).build(D)
    change = partial(translate, renames={}, norm_heads=1)
    dtype = torch.float32
    agree(ours, theirs, change, dtype, 1e-5, turned(theirs, dtype))


def test_qk_norm_across_heads_is_olmo2() -> None:
    theirs = Olmo2Attention(Olmo2Config(rms_norm_eps=1e-6, **SIZES), 0)
    ours = HEADS.but(qk_norm=part(AcrossHeads, norm=part(RMSNorm, eps=1e-6))).build(D)
    change = partial(translate, renames={}, norm_heads=H)
    dtype = torch.float32
    agree(ours, theirs, change, dtype, 1e-5, turned(theirs, dtype))


def test_output_norms_are_olmo2() -> None:
    theirs = Olmo2DecoderLayer(Olmo2Config(rms_norm_eps=1e-6, **SIZES), 0)
    norm = part(RMSNorm, eps=1e-6)
    heads = HEADS.but(qk_norm=part(AcrossHeads, norm=norm))
    ours = OutputNormBlock(D, attention=heads, feedforward=GATED, norm=norm)
    renames = LAYER | {
        "post_attention_layernorm": "attn_norm",
        "post_feedforward_layernorm": "ffn_norm",
    }
    change = partial(translate, renames=renames, norm_heads=H)
    dtype = torch.float32
    agree(ours, theirs, change, dtype, 1e-5, turned(theirs, dtype))


def test_a_sandwich_is_gemma2() -> None:
    config = Gemma2Config(
        head_dim=D // H,
        query_pre_attn_scalar=D // H,
        attn_logit_softcapping=None,
        **SIZES,
    )
    theirs = Gemma2DecoderLayer(config, 0)
    ours = SandwichBlock(
        D,
        attention=HEADS,
        feedforward=GATED.but(activation=TANH_GELU),
        norm=part(UnitOffsetRMSNorm, eps=1e-6),
    )
    renames = LAYER | {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "attn_out_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "ffn_out_norm",
    }
    change = partial(translate, renames=renames)
    dtype = torch.float32
    agree(ours, theirs, change, dtype, 1e-5, turned(theirs, dtype))


def from_cohere(tensors: Tensors) -> Tensors:
    """Give each head its own row of the norms' weights; channels are paired as here."""
    renames = LAYER | {"input_layernorm": "norm"}
    ours: Tensors = {}
    for name, tensor in tensors.items():
        new = ".".join(renames.get(piece, piece) for piece in name.split("."))
        if name.split(".")[-2] in ("q_norm", "k_norm"):
            owner = new.removesuffix(".weight")
            rows = enumerate(tensor)
            ours |= {f"{owner}.norms.{n}.weight": row for n, row in rows}
        else:
            ours[new] = tensor
    return ours


@pytest.mark.parametrize("qk_norm", [False, True])
def test_parallel_branches_are_cohere(qk_norm: bool) -> None:
    theirs = CohereDecoderLayer(CohereConfig(use_qk_norm=qk_norm, **SIZES), 0)
    norm = part(LayerNorm, bias=False)
    each = part(EachHead, norm=norm) if qk_norm else None
    ours = ParallelBlock(
        D, attention=HEADS.but(qk_norm=each), feedforward=GATED, norm=norm
    )
    turns = RoPE(base=500.0).table(torch.arange(T), D // H)[None]
    both = [t.float().repeat_interleave(2, -1) for t in (turns.real, turns.imag)]

    def run(x: Tensor) -> Tensor:
        out: Tensor = theirs(x, position_embeddings=both)
        return out

    agree(ours, theirs, from_cohere, torch.float32, 1e-5, run)


def from_neox(tensors: Tensors) -> Tensors:
    """Cut the joint projection, which goes head by head, in three."""
    renames = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "dense": "o_proj",
        "mlp": "feedforward",
        "dense_h_to_4h": "up_proj",
        "dense_4h_to_h": "down_proj",
    }
    ours = {}
    for name, tensor in tensors.items():
        if "query_key_value" in name:
            kind = name.rsplit(".", 1)[1]
            q, k, v = tensor.unflatten(0, (H, 3, -1)).unbind(1)
            ours[f"attention.q_proj.{kind}"] = neighbours(q.flatten(0, 1), H)
            ours[f"attention.k_proj.{kind}"] = neighbours(k.flatten(0, 1), H)
            ours[f"attention.v_proj.{kind}"] = v.flatten(0, 1)
        else:
            ours[".".join(renames.get(p, p) for p in name.split("."))] = tensor
    return ours


@PRECISIONS
@pytest.mark.parametrize("parallel", [True, False])
def test_two_norms_are_gpt_neox(
    parallel: bool, dtype: torch.dtype, tolerance: float
) -> None:
    config = GPTNeoXConfig(
        **SIZES,
        use_parallel_residual=parallel,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    theirs = GPTNeoXLayer(config, 0)
    heads = HEADS.but(num_kv_heads=H, bias=True)
    ours = (TwoNormParallelBlock if parallel else PreNormBlock)(
        D, attention=heads, feedforward=part(FeedForward, hidden_dim=HIDDEN)
    )
    agree(ours, theirs, from_neox, dtype, tolerance, turned(theirs, dtype))


def test_a_norm_for_each_head_is_stablelm() -> None:
    theirs = drawn(StableLmLayerNormPerHead(8, 4).to(torch.get_default_device()))
    ours = EachHead(8, num_heads=4, norm=part(LayerNorm, bias=False))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, 5, 8)
    torch.testing.assert_close(ours(x.transpose(1, 2)), theirs(x).transpose(1, 2))


@pytest.mark.parametrize("qk_norm", [RMSNorm, AcrossHeads, EachHead])
def test_scores_no_longer_grow_with_the_weights(qk_norm: Any) -> None:
    attention = MultiHeadAttention(
        16, num_heads=4, num_kv_heads=2, bias=False, qk_norm=part(qk_norm)
    ).double()
    x = randn64(2, 5, 16)
    before = attention(x)
    with torch.no_grad():
        attention.q_proj.weight *= 1e3
        attention.k_proj.weight *= 1e3
    equal(attention(x), before, 1e-3)


def test_without_qk_norm_there_is_nothing_of_it() -> None:
    attention = MultiHeadAttention(16, num_heads=4)
    assert attention.q_norm is None
    assert "norm" not in repr(attention)


PARTS: dict[str, Any] = {
    "attention": part(MultiHeadAttention, num_heads=2),
    "feedforward": part(FeedForward, hidden_dim=16),
}


def test_alpha_one_is_post_norm() -> None:
    deep, post = DeepNormBlock(8, alpha=1, **PARTS), PostNormBlock(8, **PARTS)
    post.load_state_dict(deep.state_dict())
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(deep(x), post(x))


def test_deep_norm_by_hand() -> None:
    block = drawn(DeepNormBlock(8, alpha=2.5, **PARTS).double())
    x = randn64(2, 3, 8)
    h = block.attn_norm(2.5 * x + block.attention(x))
    equal(block(x), block.ffn_norm(2.5 * h + block.feedforward(h)))
    assert "alpha=2.5" in repr(block)


WIRINGS: list[Any] = [
    PreNormBlock,
    OutputNormBlock,
    SandwichBlock,
    ParallelBlock,
    TwoNormParallelBlock,
]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_silent_branches_leave_the_stream_alone(wiring: Any) -> None:
    silent = {name: part(ReZero, branch=branch) for name, branch in PARTS.items()}
    x = torch.randn(2, 3, 8)
    assert torch.equal(wiring(8, **silent)(x), x)


@pytest.mark.parametrize("wiring", [*WIRINGS, partial(DeepNormBlock, alpha=1.5)])
def test_masks_and_positions_reach_the_attention(wiring: Any) -> None:
    attention = part(MultiHeadAttention, num_heads=2, rotary=RoPE())
    block = wiring(8, **{**PARTS, "attention": attention}).double()
    x = randn64(1, 4, 8)
    later = x.clone()
    later[:, -1] += 1
    causal = [block(t, mask=Causal()) for t in (x, later)]
    equal(causal[0][:, :-1], causal[1][:, :-1])
    assert not torch.equal(block(x)[:, 0], block(later)[:, 0])
    equal(block(x, positions=7), block(x), 1e-10)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_dropout_is_off_in_evaluation(wiring: Any) -> None:
    block, x = wiring(8, dropout=0.5, **PARTS), torch.randn(2, 5, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_layer_scale_by_hand() -> None:
    scaled = LayerScale(8, branch=PARTS["attention"], init=0.25).double()
    x = randn64(2, 3, 8)
    assert scaled.scale.tolist() == [0.25] * 8
    drawn(scaled)
    mask = Causal()
    equal(scaled(x, mask=mask), scaled.scale * scaled.branch(x, mask=mask))


def test_a_residual_scale_by_hand() -> None:
    scaled = ResidualScale(8, branch=PARTS["attention"], scale=0.25).double()
    x, mask = randn64(2, 3, 8), Causal()
    equal(scaled(x, mask=mask), 0.25 * scaled.branch(x, mask=mask))
    assert set(scaled.state_dict()) == {
        f"branch.{name}" for name in scaled.branch.state_dict()
    }


def test_rezero_without_norms_is_the_identity_and_learns() -> None:
    rezero: dict[str, Any] = {
        name: part(ReZero, branch=branch) for name, branch in PARTS.items()
    }
    block = part(PreNormBlock, norm=part(nn.Identity), **rezero)
    encoder, x = Encoder(8, blocks=(block,) * 3), torch.randn(2, 3, 8)
    assert torch.equal(encoder(x), x)
    encoder(x).square().sum().backward()
    for name, p in encoder.named_parameters():
        moved = p.grad is not None and p.grad.abs().max() > 0
        assert moved == name.endswith("scale"), name
