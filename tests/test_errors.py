"""Wrong input: each error names the argument, its value and the likely fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tfdoc as t

NAN, INF = float("nan"), float("inf")


def x(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def mha(**settings: Any) -> t.MultiHeadAttention:
    return t.MultiHeadAttention(**{"embed_dim": 8, "num_heads": 2, **settings})


def block(**settings: Any) -> t.PreNormBlock:
    parts: dict[str, Any] = {
        "attention": t.part(t.MultiHeadAttention, num_heads=2),
        "feedforward": t.part(t.FeedForward, hidden_dim=16),
    }
    return t.PreNormBlock(8, **{**parts, **settings})


def moe(**settings: Any) -> t.MixtureOfExperts:
    return t.MixtureOfExperts(
        **{"embed_dim": 8, "num_experts": 4, "hidden_dim": 16, **settings}
    )


def deep(**settings: Any) -> t.DeepNormBlock:
    parts: dict[str, Any] = {
        "attention": t.part(t.MultiHeadAttention, num_heads=2),
        "feedforward": t.part(t.FeedForward, hidden_dim=16),
    }
    return t.DeepNormBlock(8, **{**parts, **settings})


class WithTable(t.FeedForward):
    """A component with a matrix of its own."""

    def __init__(self) -> None:
        super().__init__(8)
        self.table = nn.Parameter(x(3, 8))


def watch(model: nn.Module, pattern: str) -> None:
    with t.record(model, pattern):
        pass


# Anything that a type checker would stop goes through here.
call: Any = lambda f, *args, **kwargs: f(*args, **kwargs)

CASES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    # Numbers.
    (
        "zero width",
        lambda: t.LayerNorm(0),
        ValueError,
        "embed_dim must be at least 1, got 0",
    ),
    (
        "float width",
        lambda: call(t.LayerNorm, 8.0),
        TypeError,
        "embed_dim must be a positive integer, got 8.0 (float); round or convert it",
    ),
    (
        "bool width",
        lambda: t.RMSNorm(True),
        TypeError,
        "embed_dim must be a positive integer, got True (bool)",
    ),
    (
        "text width",
        lambda: call(t.FeedForward, "8"),
        TypeError,
        "embed_dim must be a positive integer, got '8' (str)",
    ),
    (
        "negative hidden width",
        lambda: t.FeedForward(8, hidden_dim=-4),
        ValueError,
        "hidden_dim must be at least 1, got -4",
    ),
    (
        "float hidden width",
        lambda: call(t.GatedFeedForward, 8, hidden_dim=10.67),
        TypeError,
        "hidden_dim must be a positive integer, got 10.67 (float)",
    ),
    (
        "NaN eps",
        lambda: t.LayerNorm(8, eps=NAN),
        ValueError,
        "eps must be finite, got nan",
    ),
    ("zero eps", lambda: t.RMSNorm(8, eps=0), ValueError, "eps must be above 0, got 0"),
    (
        "text eps",
        lambda: call(t.RMSNorm, 8, eps="1e-5"),
        TypeError,
        "eps must be a number, got '1e-5' (str)",
    ),
    (
        "NaN dropout",
        lambda: mha(core=t.part(t.DotProductCore, dropout=NAN)),
        ValueError,
        "dropout must be finite, got nan",
    ),
    (
        "dropout in percent",
        lambda: mha(core=t.part(t.DotProductCore, dropout=10)),
        ValueError,
        "dropout must be at least 0 and below 1, got 10; 0.1 drops a tenth",
    ),
    (
        "negative dropout",
        lambda: t.FeedForward(8, dropout=-0.1),
        ValueError,
        "dropout must be at least 0 and below 1, got -0.1",
    ),
    ("NaN base", lambda: t.RoPE(base=NAN), ValueError, "base must be finite, got nan"),
    ("zero base", lambda: t.RoPE(base=0), ValueError, "base must be above 0, got 0"),
    ("zero window", lambda: t.Window(0), ValueError, "size must be at least 1, got 0"),
    (
        "float window",
        lambda: call(t.Window, 2.5),
        TypeError,
        "size must be a positive integer, got 2.5 (float)",
    ),
    (
        "no length",
        lambda: t.Causal().table(0),
        ValueError,
        "length must be at least 1, got 0",
    ),
    # Heads.
    (
        "heads do not divide",
        lambda: mha(embed_dim=10, num_heads=4),
        ValueError,
        "num_heads=4 does not divide embed_dim=10; the nearest that do are 2 and 5",
    ),
    (
        "groups do not divide",
        lambda: mha(num_heads=8, num_kv_heads=3),
        ValueError,
        "num_kv_heads=3 does not divide num_heads=8; the nearest that do are 2 and 4",
    ),
    (
        "more groups than heads",
        lambda: mha(num_heads=2, num_kv_heads=4),
        ValueError,
        "num_kv_heads=4 does not divide num_heads=2; the nearest that does is 2",
    ),
    (
        "no heads",
        lambda: mha(num_heads=0),
        ValueError,
        "num_heads must be at least 1, got 0",
    ),
    (
        "odd heads for RoPE",
        lambda: mha(head_dim=3, rotary=t.RoPE()),
        ValueError,
        "head_dim must be even, got 3; choose another num_heads or head_dim",
    ),
    (
        "odd heads in RoPE itself",
        lambda: t.RoPE()(x(1, 1, 2, 3), torch.arange(2)),
        ValueError,
        "RoPE turns pairs: head_dim must be even, got 3",
    ),
    (
        "not a RoPE",
        lambda: mha(rotary=10_000),
        TypeError,
        "rotary must be a RoPE, got 10000; RoPE() makes one",
    ),
    # Positions.
    (
        "another layout",
        lambda: t.RoPE(layout="halves"),
        ValueError,
        "layout must be one of interleaved, half; got 'halves'",
    ),
    (
        "a scaling by name",
        lambda: call(t.RoPE, scaling="linear"),
        TypeError,
        "scaling must be a Scaling such as LinearScaling(4.0), got 'linear'",
    ),
    (
        "an odd part of the channels",
        lambda: t.RoPE(rotary_dim=5),
        ValueError,
        "RoPE turns pairs: rotary_dim must be even, got 5",
    ),
    (
        "more channels than there are",
        lambda: mha(rotary=t.RoPE(rotary_dim=8)),
        ValueError,
        "rotary_dim=8 is more than head_dim=4; RoPE cannot turn more channels",
    ),
    (
        "a list of positions for RoPE",
        lambda: call(t.RoPE(), x(1, 1, 3, 2), [0, 1, 2]),
        TypeError,
        "positions must be None, an integer offset or a tensor of integers, got list",
    ),
    (
        "a factor that shortens",
        lambda: t.LinearScaling(0.25),
        ValueError,
        "factor must be at least 1, got 0.25; it is new length over old",
    ),
    (
        "a factor by text",
        lambda: call(t.NTKScaling, "4"),
        TypeError,
        "factor must be a number, got '4' (str)",
    ),
    (
        "no trained length",
        lambda: t.DynamicNTKScaling(2.0, original_length=0),
        ValueError,
        "original_length must be at least 1, got 0",
    ),
    (
        "a ramp that falls",
        lambda: t.YaRN(4.0, 2048, beta_fast=1.0, beta_slow=32.0),
        ValueError,
        "beta_fast must be above beta_slow, got 1.0 and 32.0; were they swapped?",
    ),
    (
        "swapped frequencies",
        lambda: t.Llama3Scaling(low_freq_factor=4.0, high_freq_factor=1.0),
        ValueError,
        "high_freq_factor must be above low_freq_factor, got 1.0 and 4.0",
    ),
    (
        "one divisor for all",
        lambda: call(t.LongRoPE, 1.0, 2.0, original_length=64),
        TypeError,
        "short_factor must hold one divisor a pair, got 1.0",
    ),
    (
        "divisors of two lengths",
        lambda: t.LongRoPE((1.0,), (1.0, 2.0), original_length=64),
        ValueError,
        "short_factor and long_factor must have one divisor a pair, both, got 1 and 2",
    ),
    (
        "a divisor of 0",
        lambda: t.LongRoPE((1.0,), (0.0,), original_length=64),
        ValueError,
        "long_factor must be above 0, got 0.0",
    ),
    (
        "divisors for another head",
        lambda: mha(rotary=t.RoPE(scaling=t.LongRoPE((1.0,), (2.0,), 64))),
        ValueError,
        "LongRoPE has 1 divisors for 2 pairs of channels; give one a pair",
    ),
    (
        "rows that are no heads",
        lambda: t.half_to_interleaved(x(10, 4), 4),
        ValueError,
        "num_heads=4 does not divide rows=10; the nearest that do are 2 and 5",
    ),
    (
        "more rows than a head has",
        lambda: t.interleaved_to_half(x(8, 4), 4, rotary_dim=4),
        ValueError,
        "RoPE turns pairs within a head of 2 rows, so it cannot turn 4; give num_heads",
    ),
    (
        "odd waves",
        lambda: t.Sinusoidal(7),
        ValueError,
        "waves come in pairs: embed_dim must be even, got 7",
    ),
    (
        "longer than the table",
        lambda: t.LearnedPositions(8, max_positions=4)(x(1, 5, 8)),
        ValueError,
        "positions 0 to 4 do not fit max_positions=4, which has rows for 0 to 3; shorten",
    ),
    (
        "before the table",
        lambda: t.LearnedPositions(8, max_positions=4)(x(1, 2, 8), -1),
        ValueError,
        "positions=-1 as an offset must be at least 0",
    ),
    # Biases.
    (
        "no heads for ALiBi",
        lambda: t.ALiBi(0),
        ValueError,
        "num_heads must be at least 1, got 0",
    ),
    (
        "ALiBi on float positions",
        lambda: t.ALiBi(2)(torch.arange(3.0), torch.arange(3)),
        TypeError,
        "query must hold whole positions of shape (tokens,) or (batch, tokens)",
    ),
    (
        "one bucket",
        lambda: t.RelativeBias(2, num_buckets=2),
        ValueError,
        "num_buckets=2 is too few or odd; 4 and larger even numbers can be halved",
    ),
    (
        "a furthest that is near",
        lambda: t.RelativeBias(2, max_distance=8),
        ValueError,
        "max_distance must be above 8, the distances with a bucket of their own, got 8",
    ),
    (
        "both sides by number",
        lambda: call(t.RelativeBias, 2, bidirectional=1),
        TypeError,
        "bidirectional must be True or False, got 1 (int)",
    ),
    (
        "a mask as bias",
        lambda: call(t.attention, x(3, 4), x(3, 4), x(3, 4), bias=t.Causal()),
        TypeError,
        "bias must be a Bias such as ALiBi(8) or a floating-point tensor that is added "
        "to the scores, got Causal() (Causal); what says who may attend is a mask",
    ),
    (
        "a bool tensor as bias",
        lambda: t.fused_attention(
            x(3, 4), x(3, 4), x(3, 4), bias=torch.ones(3, 3).bool()
        ),
        TypeError,
        "added to the scores, got a tensor of dtype torch.bool and shape (3, 3)",
    ),
    (
        "a bias as mask",
        lambda: call(t.attention, x(3, 4), x(3, 4), x(3, 4), t.ALiBi(1)),
        TypeError,
        "mask must be a bool tensor (True = may attend), got ALiBi; numbers to add",
    ),
    (
        "a bias for other heads",
        lambda: t.attention(
            x(1, 2, 3, 4), x(1, 2, 3, 4), x(1, 2, 3, 4), bias=t.ALiBi(8)
        ),
        ValueError,
        "bias of shape (8, 3, 3) does not fit scores of shape (1, 2, 3, 3)",
    ),
    (
        "a tensor as the constructor's bias",
        lambda: call(mha, position_bias=x(2, 3, 3)),
        TypeError,
        "position_bias must be a Bias such as ALiBi(2), got a tensor of dtype "
        "torch.float32 and shape (2, 3, 3); a tensor goes to the call",
    ),
    (
        "the constructor's bias for other heads",
        lambda: mha(position_bias=t.ALiBi(8)),
        ValueError,
        "position_bias is made for num_heads=8, but the attention has num_heads=2",
    ),
    # Inputs.
    (
        "token ids",
        lambda: mha()(torch.zeros(1, 3, 8, dtype=torch.long)),
        TypeError,
        "x must hold floating-point vectors, got dtype torch.int64; embed token ids first",
    ),
    (
        "a list",
        lambda: call(t.LayerNorm(2), [1.0, 2.0]),
        TypeError,
        "x must be a torch.Tensor, got list; torch.as_tensor() converts",
    ),
    (
        "wrong width",
        lambda: mha()(x(1, 3, 7)),
        ValueError,
        "the last dimension of x must be 8, got 7 in shape (1, 3, 7)",
    ),
    (
        "no batch",
        lambda: mha()(x(3, 8)),
        ValueError,
        "x must have shape (batch, tokens, 8), got (3, 8); a single sequence needs x[None]",
    ),
    (
        "wrong width of a norm",
        lambda: t.RMSNorm(8)(x(2, 4)),
        ValueError,
        "the last dimension of x must be 8, got 4 in shape (2, 4)",
    ),
    (
        "wrong width of a network",
        lambda: t.FeedForward(8)(x(2, 4)),
        ValueError,
        "the last dimension of x must be 8, got 4 in shape (2, 4)",
    ),
    (
        "wrong width of a stack",
        lambda: t.Encoder(8, blocks=(t.part(t.TransformerBlock, num_heads=2),))(
            x(1, 2, 4)
        ),
        ValueError,
        "the last dimension of x must be 8, got 4 in shape (1, 2, 4)",
    ),
    (
        "a scalar",
        lambda: t.LayerNorm(8)(torch.tensor(1.0)),
        ValueError,
        "x must have at least 1 dimensions, got shape ()",
    ),
    (
        "batches differ",
        lambda: mha()(x(2, 3, 8), x(1, 3, 8)),
        ValueError,
        "x and context must have the same batch size, got 2 and 1",
    ),
    (
        "key of another width",
        lambda: t.attention(x(3, 4), x(3, 5), x(3, 5)),
        ValueError,
        "the last dimension of key must be 4, got 5 in shape (3, 5)",
    ),
    (
        "more values than keys",
        lambda: t.fused_attention(x(3, 4), x(3, 4), x(2, 4)),
        ValueError,
        "key and value must agree in all but the last dimension, got (3, 4) and (2, 4)",
    ),
    (
        "key of another batch",
        lambda: t.attention(x(2, 3, 4), x(1, 3, 4), x(1, 3, 4)),
        ValueError,
        "query of shape (2, 3, 4) and key of shape (1, 3, 4) must agree in all",
    ),
    (
        "key heads that do not divide",
        lambda: t.attention(x(1, 4, 3, 4), x(1, 3, 3, 4), x(1, 3, 3, 4)),
        ValueError,
        "key heads=3 does not divide query heads=4; the nearest that do are 2 and 4",
    ),
    (
        "negative scale",
        lambda: t.attention(x(3, 4), x(3, 4), x(3, 4), scale=-1.0),
        ValueError,
        "scale must be above 0, got -1.0",
    ),
    (
        "positions that do not fit RoPE",
        lambda: t.RoPE()(x(1, 1, 4, 2), torch.arange(3)),
        ValueError,
        "positions of shape (3,) do not fit the 4 tokens of x, shape (1, 1, 4, 2)",
    ),
    (
        "float positions for RoPE",
        lambda: t.RoPE()(x(1, 1, 3, 2), torch.arange(3.0)),
        TypeError,
        "positions must be a tensor of integers, got dtype torch.float32",
    ),
    (
        "three-dimensional input of RoPE",
        lambda: t.RoPE()(x(1, 3, 2), torch.arange(3)),
        ValueError,
        "x must have at least 4 dimensions, got shape (1, 3, 2)",
    ),
    (
        "positions of another length",
        lambda: mha()(x(1, 3, 8), positions=torch.arange(4)),
        ValueError,
        "positions must have shape (3,) or (1, 3) for x of shape (1, 3, 8), got (4,)",
    ),
    (
        "float positions",
        lambda: mha()(x(1, 3, 8), positions=torch.arange(3.0)),
        TypeError,
        "a tensor of int64 or int32, got a tensor of dtype torch.float32",
    ),
    (
        "a mask of real tokens as positions",
        lambda: mha()(x(1, 3, 8), positions=torch.ones(1, 3, dtype=torch.bool)),
        TypeError,
        "goes to a model's real=",
    ),
    (
        "bytes of positions",
        lambda: t.RoPE()(x(1, 1, 3, 2), torch.arange(3).byte()),
        TypeError,
        "positions must be a tensor of integers, got dtype torch.uint8",
    ),
    (
        "positions that are true",
        lambda: mha()(x(1, 3, 8), positions=True),
        TypeError,
        "an integer offset or a tensor of integers, got bool",
    ),
    (
        "a core told of other heads",
        lambda: mha(core=t.part(t.SinkCore, num_heads=8)),
        ValueError,
        "the core part has num_heads=8 and the attention 2",
    ),
    (
        "a word for a bias",
        lambda: t.FeedForward(8, bias="none"),  # type: ignore[arg-type]
        TypeError,
        "bias must be True or False, got 'none'",
    ),
    (
        "choices of other tokens",
        lambda: t.GatedExperts(8, num_experts=4, hidden_dim=8)(
            x(3, 8), torch.zeros(2, 2, dtype=torch.long), torch.ones(2, 2)
        ),
        ValueError,
        "chosen and weights must have shape (..., k) for x of shape (..., D)",
    ),
    (
        "choices that are no numbers",
        lambda: t.GatedExperts(8, num_experts=4, hidden_dim=8)(
            x(3, 8), torch.zeros(3, 2), torch.ones(3, 2)
        ),
        TypeError,
        "chosen must hold experts' numbers (int64), got torch.float32",
    ),
    (
        "one special token",
        lambda: t.byte_tokenizer(special="<end>"),  # type: ignore[arg-type]
        TypeError,
        "special must be a tuple of texts, got '<end>'; write (text,)",
    ),
    (
        "a special letter",
        lambda: t.byte_tokenizer(special=("a",)),
        ValueError,
        "a special token must be a text of at least two bytes",
    ),
    (
        "special twice",
        lambda: t.train_bpe(["a"], vocab_size=300, special=("<x>", "<x>")),
        ValueError,
        "special must name each token once",
    ),
    (
        "a list of positions",
        lambda: call(mha(), x(1, 3, 8), positions=[0, 1, 2]),
        TypeError,
        "positions must be None, an integer offset or a tensor of integers, got list",
    ),
    # Masks.
    (
        "a mask of zeros and ones",
        lambda: mha()(x(1, 3, 8), mask=torch.ones(3, 3)),
        TypeError,
        "got dtype torch.float32; a 0/1 mask needs .bool(), a torch.nn mask",
    ),
    (
        "an integer mask",
        lambda: t.fused_attention(x(3, 4), x(3, 4), x(3, 4), torch.ones(3, 3).long()),
        TypeError,
        "mask must be a bool tensor (True = may attend), got dtype torch.int64",
    ),
    (
        "a nested list as mask",
        lambda: call(mha(), x(1, 3, 8), mask=[[True]]),
        TypeError,
        "mask must be a bool tensor (True = may attend), got list",
    ),
    (
        "a padding mask without its axes",
        lambda: mha()(x(2, 3, 8), mask=torch.ones(2, 3).bool()),
        ValueError,
        "mask of shape (2, 3) does not fit scores of shape (2, 2, 3, 3) (batch, heads, "
        "queries, keys); a padding mask of shape (batch, keys) needs mask[:, None, None, :]",
    ),
    (
        "a mask larger than the scores",
        lambda: t.attention(x(3, 4), x(3, 4), x(3, 4), torch.ones(2, 3, 3).bool()),
        ValueError,
        "mask of shape (2, 3, 3) does not fit scores of shape (3, 3)",
    ),
    (
        "a tensor for the constructor",
        lambda: mha(mask=torch.ones(3, 3).bool()),
        TypeError,
        "mask must be a Mask such as Causal(), got Tensor; a tensor goes to the call",
    ),
    (
        "a mask class instead of a mask",
        lambda: mha(mask=t.Causal),
        TypeError,
        "mask must be a Mask such as Causal(), got ABCMeta",
    ),
    (
        "a mask with a tensor",
        lambda: call(t.Causal().__and__, torch.ones(3, 3).bool()),
        TypeError,
        "a mask combines with masks by '&', got a tensor of dtype torch.bool and shape "
        "(3, 3); give a bool tensor to the call",
    ),
    (
        "a mask on float positions",
        lambda: t.Causal()(torch.arange(3.0), torch.arange(3)),
        TypeError,
        "query must hold whole positions of shape (tokens,) or (batch, tokens), got a "
        "tensor of dtype torch.float32 and shape (3,)",
    ),
    (
        "padding by a 0/1 mask",
        lambda: t.Padding(torch.ones(2, 3).long()),
        TypeError,
        "got a tensor of dtype torch.int64 and shape (2, 3); a 0/1 mask of shape (B, T) "
        "has mask.sum(1)",
    ),
    (
        "negative lengths",
        lambda: t.Padding([2, -1]),
        ValueError,
        "lengths must be at least 0, got [2, -1]",
    ),
    (
        "torch's mask with another word",
        lambda: t.mask_from_torch(torch.ones(3, 3).bool(), true_means="keep"),
        ValueError,
        "true_means must be 'blocked' or 'kept', got 'keep'",
    ),
    (
        "no mask of torch",
        t.mask_from_torch,
        ValueError,
        "give attn_mask, key_padding_mask or both; got neither",
    ),
    (
        "a bias of torch",
        lambda: t.mask_from_torch(torch.tensor([[0.0, -1.5]])),
        ValueError,
        "attn_mask is a float tensor with values other than 0 and -inf, from -1.5 to 0",
    ),
    (
        "an integer mask of torch",
        lambda: t.mask_from_torch(key_padding_mask=torch.ones(1, 3).long()),
        TypeError,
        "key_padding_mask must be bool or float, got dtype torch.int64",
    ),
    (
        "torch's three-dimensional mask",
        lambda: t.mask_from_torch(torch.ones(4, 3, 3).bool()),
        ValueError,
        "attn_mask of shape (4, 3, 3) may mean (B * H, T, S) or (B, T, S)",
    ),
    (
        "one row of padding",
        lambda: t.mask_from_torch(key_padding_mask=torch.ones(3).bool()),
        ValueError,
        "key_padding_mask must have shape (B, S), got (3,); one sequence needs mask[None]",
    ),
    # Parts.
    (
        "a misspelt keyword",
        lambda: t.part(t.MultiHeadAttention, num_haeds=4),
        TypeError,
        "MultiHeadAttention has no setting 'num_haeds'; did you mean 'num_heads'? It takes",
    ),
    (
        "a keyword of nothing",
        lambda: t.part(t.RMSNorm, colour=4),
        TypeError,
        "RMSNorm has no setting 'colour'; it takes ['eps']",
    ),
    (
        "a missing keyword",
        lambda: t.part(t.GatedFeedForward),
        TypeError,
        "GatedFeedForward also needs hidden_dim=...",
    ),
    (
        "a list in a part",
        lambda: t.part(t.Encoder, blocks=[t.part(t.TransformerBlock, num_heads=2)]),
        TypeError,
        "is not hashable (list); a part holds fixed values, such as a tuple",
    ),
    (
        "a part of a part",
        lambda: t.part(t.part(t.RMSNorm)),  # type: ignore[arg-type]
        TypeError,
        "part() takes a component class first, got RMSNorm(); a part changes with .but",
    ),
    (
        "a misspelt change",
        lambda: t.part(t.RMSNorm).but(esp=1e-5),
        TypeError,
        "RMSNorm has no setting 'esp'; did you mean 'eps'?",
    ),
    (
        "a built component as attention",
        lambda: block(attention=mha()),
        TypeError,
        "attention must be a part, got MultiHeadAttention; write part(Component, ...)",
    ),
    (
        "a class as norm",
        lambda: block(norm=t.RMSNorm),
        TypeError,
        "norm must be a part, got type; write part(Component, ...)",
    ),
    (
        "a number of blocks",
        lambda: call(t.Encoder, 8, blocks=3),
        TypeError,
        "blocks must be a tuple with a part for each layer, got 3; (block,) * 6 repeats",
    ),
    (
        "no blocks",
        lambda: t.Encoder(8, blocks=()),
        TypeError,
        "blocks must be a tuple with a part for each layer, got ()",
    ),
    (
        "built blocks",
        lambda: call(t.Encoder, 8, blocks=(block(),)),
        TypeError,
        "blocks and norm must be parts, got PreNormBlock",
    ),
    (
        "an activation class",
        lambda: call(t.FeedForward, 8, activation=nn.GELU),
        TypeError,
        "activation must be a function of a tensor, such as F.gelu, got <class",
    ),
    (
        "an activation by name",
        lambda: call(t.FeedForward, 8, activation="gelu"),
        TypeError,
        "activation must be a function of a tensor, such as F.gelu, got 'gelu'",
    ),
    (
        "a wiring by name",
        lambda: call(t.TransformerLayer, wiring="pre"),
        TypeError,
        "wiring must be a block class, PostNormBlock or PreNormBlock, got 'pre'",
    ),
    # Mixtures of experts.
    (
        "no experts",
        lambda: moe(num_experts=0),
        ValueError,
        "num_experts must be at least 1, got 0",
    ),
    (
        "an expert without width",
        lambda: moe(hidden_dim=0),
        ValueError,
        "hidden_dim must be at least 1, got 0",
    ),
    (
        "more choices than experts",
        lambda: moe(router=t.part(t.SoftmaxRouter, top_k=5)),
        ValueError,
        "top_k=5 is more than num_experts=4: a token takes different experts",
    ),
    (
        "a router instead of a part",
        lambda: moe(router=t.SoftmaxRouter(8)),
        TypeError,
        "router must be a part, got SoftmaxRouter; write part(Component, ...) instead",
    ),
    (
        "a width as shared expert",
        lambda: moe(shared=16),
        TypeError,
        "shared must be a part, got int; write part(Component, ...) instead",
    ),
    (
        "two numbers of experts",
        lambda: moe(router=t.part(t.SoftmaxRouter, num_experts=8)),
        ValueError,
        "the router part has num_experts=8 and the mixture num_experts=4; leave it out in",
    ),
    (
        "two numbers of networks",
        lambda: moe(experts=t.part(t.GatedExperts, num_experts=8)),
        ValueError,
        "the experts part has num_experts=8 and the mixture num_experts=4; leave it out",
    ),
    (
        "two widths of experts",
        lambda: moe(experts=t.part(t.ClampedExperts, hidden_dim=8)),
        ValueError,
        "the experts part has hidden_dim=8 and the mixture hidden_dim=16; leave it out in "
        "the experts part",
    ),
    (
        "experts instead of a part",
        lambda: moe(experts=t.GatedExperts(8)),
        TypeError,
        "experts must be a part, got GatedExperts; write part(Component, ...) instead",
    ),
    (
        "experts that are one network",
        lambda: moe(experts=t.part(t.GatedFeedForward, hidden_dim=16)),
        TypeError,
        "GatedFeedForward has no setting 'num_experts'",
    ),
    (
        "no number of experts alone",
        lambda: t.ScaledInputExperts(8, num_experts=0),
        ValueError,
        "num_experts must be at least 1, got 0",
    ),
    (
        "a float as width of experts",
        lambda: call(t.ClampedExperts, 8.0),
        TypeError,
        "embed_dim must be a positive integer, got 8.0 (float)",
    ),
    (
        "wrong width of experts",
        lambda: t.GatedExperts(8, num_experts=2, hidden_dim=4)(
            x(3, 7), torch.zeros(3, 1).long(), x(3, 1)
        ),
        ValueError,
        "the last dimension of x must be 8, got 7 in shape (3, 7)",
    ),
    (
        "experts clamped to nothing",
        lambda: t.ClampedExperts(8, hidden_dim=4, limit=0),
        ValueError,
        "limit must be above 0, got 0",
    ),
    (
        "a gate that never opens",
        lambda: t.ClampedExperts(8, hidden_dim=4, alpha=-1),
        ValueError,
        "alpha must be above 0, got -1",
    ),
    (
        "a network instead of a part behind a gate",
        lambda: call(t.SigmoidGate, 8, branch=t.FeedForward(8)),
        TypeError,
        "branch must be a part, got FeedForward; write part(Component, ...) instead",
    ),
    (
        "wrong width of a gate",
        lambda: t.SigmoidGate(8, branch=t.part(t.FeedForward, hidden_dim=4))(x(3, 7)),
        ValueError,
        "the last dimension of x must be 8, got 7 in shape (3, 7)",
    ),
    (
        "a router of nothing",
        lambda: moe(router=t.part(t.RMSNorm)),
        TypeError,
        "RMSNorm has no setting 'num_experts'; it takes ['eps']",
    ),
    (
        "no capacity",
        lambda: moe(capacity=0),
        ValueError,
        "capacity must be above 0, got 0",
    ),
    (
        "infinite capacity",
        lambda: moe(capacity=INF),
        ValueError,
        "capacity must be finite, got inf",
    ),
    (
        "an expert's activation by name",
        lambda: moe(experts=t.part(t.GatedExperts, activation="silu")),
        TypeError,
        "activation must be a function of a tensor, such as F.gelu, got 'silu'",
    ),
    (
        "wrong width of a mixture",
        lambda: moe()(x(1, 3, 7)),
        ValueError,
        "the last dimension of x must be 8, got 7 in shape (1, 3, 7)",
    ),
    (
        "an attention mask for a mixture",
        lambda: moe()(x(2, 3, 8), torch.ones(2, 1, 1, 3).bool()),
        ValueError,
        "mask must have shape (2, 3) for x of shape (2, 3, 8), got (2, 1, 1, 3)",
    ),
    (
        "a 0/1 mask for a mixture",
        lambda: moe()(x(2, 3, 8), torch.ones(2, 3)),
        TypeError,
        "mask must be a bool tensor (True = real token), got torch.float32; a 0/1 mask "
        "needs .bool()",
    ),
    (
        "a list as mask for a mixture",
        lambda: call(moe(), x(1, 1, 8), [[True]]),
        TypeError,
        "mask must be a bool tensor (True = real token), got list",
    ),
    (
        "normalise by a number",
        lambda: call(t.SoftmaxRouter, 8, normalise=1),
        TypeError,
        "normalise must be True or False, got 1 (int)",
    ),
    (
        "a router's bias by a number",
        lambda: call(t.SoftmaxRouter, 8, bias=1),
        TypeError,
        "bias must be True or False, got 1 (int)",
    ),
    (
        "groups without their number",
        lambda: t.part(t.GroupedSoftmaxRouter, num_groups=2),
        TypeError,
        "GroupedSoftmaxRouter also needs top_groups=...",
    ),
    (
        "grouped scores that do not divide",
        lambda: t.GroupedSoftmaxRouter(8, num_groups=5, top_groups=1),
        ValueError,
        "num_groups=5 does not divide num_experts=8; the nearest that do are 4 and 8",
    ),
    (
        "too few groups for the scores",
        lambda: t.GroupedSoftmaxRouter(8, num_groups=8, top_groups=1),
        ValueError,
        "top_groups=1 of num_groups=8 groups of 1 experts cannot give top_k=2; it must be "
        "between 2 and 8",
    ),
    (
        "no scale of grouped scores",
        lambda: t.GroupedSoftmaxRouter(8, num_groups=2, top_groups=1, scale=0),
        ValueError,
        "scale must be above 0, got 0",
    ),
    (
        "no rivals at all",
        lambda: t.SparseMixerRouter(8, jitter=0),
        ValueError,
        "jitter must be above 0, got 0",
    ),
    (
        "more rounds than experts",
        lambda: t.SparseMixerRouter(8, num_experts=2, top_k=3),
        ValueError,
        "top_k=3 is more than num_experts=2: a token takes different experts",
    ),
    (
        "groups that do not divide",
        lambda: t.SigmoidRouter(8, num_experts=8, num_groups=3),
        ValueError,
        "num_groups=3 does not divide num_experts=8; the nearest that do are 2 and 4",
    ),
    (
        "groups of one",
        lambda: t.SigmoidRouter(8, num_experts=4, num_groups=4, top_groups=2),
        ValueError,
        "num_groups=4 leaves groups of 1 of the num_experts=4; a group is judged by its "
        "two best",
    ),
    (
        "too few groups for the choices",
        lambda: t.SigmoidRouter(8, num_experts=8, top_k=3, num_groups=4),
        ValueError,
        "top_groups=1 of num_groups=4 groups of 2 experts cannot give top_k=3; it must be "
        "between 2 and 4",
    ),
    (
        "more groups than there are",
        lambda: t.SigmoidRouter(8, top_groups=2),
        ValueError,
        "top_groups=2 of num_groups=1 groups of 8 experts cannot give top_k=2; it must be "
        "between 1 and 1",
    ),
    (
        "negative scale of a router",
        lambda: t.SigmoidRouter(8, scale=-1),
        ValueError,
        "scale must be above 0, got -1",
    ),
    (
        "the load of other experts",
        lambda: t.SigmoidRouter(8).update_bias(torch.zeros(4)),
        ValueError,
        "load must be a tensor of one number for each of the 8 experts, got (4,)",
    ),
    (
        "a list as load",
        lambda: call(t.SigmoidRouter(8).update_bias, [0] * 8),
        ValueError,
        "load must be a tensor of one number for each of the 8 experts, got list",
    ),
    (
        "a rate of nothing",
        lambda: t.SigmoidRouter(8).update_bias(torch.zeros(8), rate=0),
        ValueError,
        "rate must be above 0, got 0",
    ),
    (
        "no scores to balance",
        lambda: t.load_balancing_loss([], 2),
        ValueError,
        "scores must hold one tensor at least, got none",
    ),
    (
        "choices to balance instead of scores",
        lambda: t.load_balancing_loss(torch.zeros(3, 2).long(), 2),
        TypeError,
        "scores must hold floating-point vectors, got dtype torch.int64",
    ),
    (
        "balance of more than there are",
        lambda: t.load_balancing_loss(x(3, 4), 5),
        ValueError,
        "top_k must be at most 4, the number of experts, got 5",
    ),
    (
        "logits of one token",
        lambda: t.router_z_loss(x(4)),
        ValueError,
        "logits must have at least 2 dimensions, got shape (4,)",
    ),
    (
        "a mask of other logits",
        lambda: t.router_z_loss(x(3, 4), mask=torch.ones(4).bool()),
        ValueError,
        "mask must have shape (3,) for logits of shape (3, 4), got (4,)",
    ),
    # Norms, wirings, initialisation.
    (
        "a weight that is no bool",
        lambda: call(t.LayerNorm, 8, weight=1),
        TypeError,
        "weight must be True or False, got 1 (int)",
    ),
    (
        "an offset norm of another width",
        lambda: t.UnitOffsetRMSNorm(8)(x(2, 4)),
        ValueError,
        "the last dimension of x must be 8, got 4 in shape (2, 4)",
    ),
    (
        "a built QK-norm",
        lambda: mha(qk_norm=t.RMSNorm(4)),
        TypeError,
        "qk_norm must be a part, got RMSNorm; part(RMSNorm) makes one",
    ),
    (
        "heads after channels",
        lambda: t.AcrossHeads(4, num_heads=2)(x(3, 5, 4)),
        ValueError,
        "x must have shape (..., 2, 4), heads before channels, got (3, 5, 4)",
    ),
    (
        "a class as norm of heads",
        lambda: call(t.EachHead, 4, norm=t.RMSNorm),
        TypeError,
        "norm must be a part, got type; write part(Component, ...)",
    ),
    (
        "a built branch",
        lambda: call(t.LayerScale, 8, branch=mha()),
        TypeError,
        "branch must be a part, got MultiHeadAttention; write part(Component, ...)",
    ),
    (
        "a scale of zero",
        lambda: t.LayerScale(8, branch=t.part(t.FeedForward), init=0),
        ValueError,
        "init must be above 0, got 0",
    ),
    (
        "a fixed scale of zero",
        lambda: t.ResidualScale(8, branch=t.part(t.FeedForward), scale=0),
        ValueError,
        "scale must be above 0, got 0",
    ),
    (
        "an infinite alpha",
        lambda: deep(alpha=INF),
        ValueError,
        "alpha must be finite, got inf",
    ),
    (
        "no layers",
        lambda: t.init_gpt2_(mha(), num_layers=0),
        ValueError,
        "num_layers must be at least 1, got 0",
    ),
    (
        "a spread of zero",
        lambda: t.init_gpt2_(mha(), num_layers=2, std=0),
        ValueError,
        "std must be above 0, got 0",
    ),
    (
        "names of another library",
        lambda: t.init_gpt2_(nn.Sequential(nn.Linear(8, 8)), num_layers=2),
        ValueError,
        "no matrix of Sequential is named o_proj or down_proj, so none would get the "
        "scale of the residual branches; it has ['0']",
    ),
    (
        "a matrix of no known module",
        lambda: t.init_small_(WithTable(), num_layers=2),
        ValueError,
        "the scheme knows matrices called weight only, and the model also has "
        "['table']; draw those yourself",
    ),
    # Watching and converting.
    (
        "nothing to watch",
        lambda: watch(mha(), "*attn*"),
        KeyError,
        "no module of MultiHeadAttention matches '*attn*'; its probes are "
        "['core.scores', 'core.weights']",
    ),
    (
        "no counterpart",
        lambda: t.from_torch(nn.Conv1d(1, 1, 1)),
        TypeError,
        "no counterpart of Conv1d in tfdoc; there is one of ['LayerNorm', 'RMSNorm'",
    ),
    (
        "more than the counterpart has",
        lambda: t.from_torch(nn.MultiheadAttention(8, 2, add_bias_kv=True)),
        ValueError,
        "MultiheadAttention uses ['add_bias_kv'], which MultiHeadAttention does not have",
    ),
    (
        "a norm over two dimensions",
        lambda: t.from_torch(nn.LayerNorm((2, 3))),
        ValueError,
        "converts only with one normalised dimension and with weights",
    ),
]


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_it_is_refused_with_its_reason(
    make: Callable[[], Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        make()


def test_there_are_many() -> None:
    assert len(CASES) >= 40
    assert len({text for *_, text in CASES}) >= 40


def test_good_input_is_not_refused() -> None:
    """The other side of the cases above: the same calls with their mistake mended."""
    mha()(x(1, 3, 8), mask=torch.ones(3, 3).bool(), positions=torch.arange(3))
    mha(num_heads=8, num_kv_heads=4)(x(2, 3, 8), x(2, 5, 8))
    block(norm=t.part(t.RMSNorm), dropout=0.1)(x(1, 3, 8))
    t.FeedForward(8, hidden_dim=2, activation=F.relu)(x(8))
    moe(capacity=1, router=t.part(t.SigmoidRouter, num_groups=2))(
        x(2, 3, 8), torch.ones(2, 3).bool()
    )
    groups = t.part(t.GroupedSoftmaxRouter, num_groups=2, top_groups=1)
    gated = t.part(t.SigmoidGate, branch=t.part(t.FeedForward, hidden_dim=4))
    clamped = t.part(t.ClampedExperts, limit=1, alpha=1)
    moe(router=groups, experts=clamped, shared=gated)(x(3, 8))
    moe(router=t.part(t.SparseMixerRouter, jitter=1), hidden_dim=8)(x(3, 8))
    t.mask_from_torch(torch.zeros(3, 3), true_means="kept")
    mha(rotary=t.RoPE(rotary_dim=4, layout="half"), position_bias=t.ALiBi(2))(
        x(1, 3, 8), position_bias=t.RelativeBias(2)
    )
    t.LearnedPositions(8, max_positions=4)(x(1, 2, 8), 2)
