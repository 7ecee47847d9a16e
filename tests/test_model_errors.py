"""What caches, embeddings, heads and models refuse, and the words they do it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tfdoc as t
from tests.subjects import DECODERS, FFN, HEADS, SEQ2SEQ, D, V

IDS = torch.zeros(1, 3, dtype=torch.long)


def call(function: Any, *args: Any, **settings: Any) -> Any:
    """Call without the type checker's eyes."""
    return function(*args, **settings)


def gpt2() -> t.Decoder:
    built: t.Decoder = DECODERS["gpt2"].build(D)
    return built


def filled() -> t.GrowingCache:
    cache = t.GrowingCache()
    cache.update(*torch.randn(2, 2, 1, 3, 4))
    return cache


def decoder(**settings: Any) -> t.Decoder:
    blocks = (t.part(t.PreNormBlock, attention=HEADS, feedforward=FFN),)
    return t.Decoder(D, **{"vocab_size": V, "blocks": blocks, **settings})


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no room": (
        lambda: t.PreallocatedCache(0),
        ValueError,
        "max_length must be at least 1",
    ),
    "half a window": (
        lambda: call(t.SlidingCache, 2.5),
        TypeError,
        r"window must be a positive integer, got 2\.5",
    ),
    "an empty cache read": (
        lambda: t.GrowingCache().held(),
        ValueError,
        "cache is empty",
    ),
    "cropped to more": (
        lambda: filled().crop(4),
        ValueError,
        "length must be at most 3, the tokens seen, got 4",
    ),
    "cropped below nothing": (
        lambda: filled().crop(-1),
        ValueError,
        "length must be at least 0, got -1",
    ),
    "another batch": (
        lambda: filled().update(*torch.randn(2, 3, 1, 1, 4)),
        ValueError,
        r"key of shape \(3, 1, 1, 4\) and torch.float32 does not continue .* a new batch needs a new cache",
    ),
    "another precision": (
        lambda: filled().update(*torch.randn(2, 2, 1, 1, 4).bfloat16()),
        ValueError,
        r"key of shape \(2, 1, 1, 4\) and torch.bfloat16 does not continue",
    ),
    "another width": (
        lambda: filled().update(torch.randn(2, 1, 1, 4), torch.randn(2, 1, 1, 5)),
        ValueError,
        r"value of shape \(2, 1, 1, 5\) and torch.float32 does not continue",
    ),
    "no heads": (
        lambda: t.GrowingCache().update(torch.randn(2, 3, 4), torch.randn(2, 3, 4)),
        ValueError,
        "key must have at least 4 dimensions",
    ),
    "vectors for tokens": (
        lambda: gpt2()(torch.randn(1, 3)),
        TypeError,
        "tokens must be a tensor of token ids, got a tensor of dtype torch.float32",
    ),
    "a list for tokens": (
        lambda: call(gpt2(), [1, 2]),
        TypeError,
        "tensor of token ids",
    ),
    "one row": (lambda: gpt2()(IDS[0]), ValueError, r"needs tokens\[None\]"),
    "an unknown token": (
        lambda: gpt2()(IDS + V),
        ValueError,
        rf"tokens must be from 0 to {V - 1} \(vocab_size={V}\), got {V} to {V}",
    ),
    "a negative token": (lambda: gpt2()(IDS - 1), ValueError, "got -1 to -1"),
    "padding as numbers": (
        lambda: gpt2()(IDS, real=torch.ones(1, 3)),
        TypeError,
        r"mask must be a bool tensor \(True = real token\)",
    ),
    "padding of another shape": (
        lambda: gpt2()(IDS, real=torch.ones(1, 4).bool()),
        ValueError,
        r"mask must have shape \(1, 3\)",
    ),
    "a word for positions": (
        lambda: call(gpt2(), IDS, positions="0"),
        TypeError,
        "positions must be None, an integer offset or a tensor of integers, got str",
    ),
    "an unknown keyword": (
        lambda: call(gpt2(), IDS, attention_mask=None),
        TypeError,
        "attention_mask",
    ),
    "too many tokens": (
        lambda: gpt2()(torch.zeros(1, 81, dtype=torch.long)),
        ValueError,
        "positions 0 to 80 do not fit max_positions=80",
    ),
    "a head of nothing": (
        lambda: t.Head(D, 0),
        ValueError,
        "vocab_size must be at least 1, got 0",
    ),
    "scores times nothing": (
        lambda: t.Head(D, V, scale=0),
        ValueError,
        "scale must not be 0",
    ),
    "a cap of nothing": (
        lambda: t.Head(D, V, softcap=0),
        ValueError,
        "softcap must be above 0",
    ),
    "a tied head alone": (
        lambda: t.Head(D, V, tied=True)(torch.randn(1, D)),
        ValueError,
        "a tied head is called with the weight of the embedding",
    ),
    "a head with two weights": (
        lambda: t.Head(D, V)(torch.randn(1, D), torch.randn(V, D)),
        ValueError,
        "and another one without",
    ),
    "blocks in a list": (
        lambda: call(decoder, blocks=[1]),
        TypeError,
        "blocks must be a tuple with a part for each layer",
    ),
    "a built head": (
        lambda: decoder(head=t.Head(D, V)),
        TypeError,
        "head must be a part, got Head",
    ),
    "built positions": (
        lambda: decoder(positions=t.LearnedPositions(D, max_positions=4)),
        TypeError,
        "positions must be a part, got LearnedPositions",
    ),
    "tied by a word": (
        lambda: call(decoder, tied="yes"),
        TypeError,
        "tied must be True or False",
    ),
    "a built cross-attention": (
        lambda: t.PreNormCrossBlock(
            D, attention=HEADS, cross_attention=call(HEADS.build, D), feedforward=FFN
        ),
        TypeError,
        "cross_attention must be a part, got MultiHeadAttention",
    ),
    "a built decoder": (
        lambda: call(SEQ2SEQ["transformer"].but(decoder=gpt2()).build, D),
        TypeError,
        "decoder must be a part, got Decoder",
    ),
    "two sizes of one table": (
        lambda: SEQ2SEQ["two vocabularies"].but(shared=True).build(D),
        ValueError,
        f"shared=True needs one vocab_size, got 11 for the source and {V} for the target",
    ),
    "an embedding without a table": (
        lambda: SEQ2SEQ["transformer"].build(D).embed(IDS),
        ValueError,
        "this embedding has no table of its own",
    ),
    "three widths of a head": (
        lambda: call(t.MultiHeadAttention, D, num_heads=2, head_dim=(1, 2, 3)),
        ValueError,
        "head_dim must be one width, or two for queries and values",
    ),
    "a bias of nobody": (
        lambda: t.MultiHeadAttention(D, num_heads=2, bias="kv"),
        ValueError,
        "bias must be True, False, 'qkv' or 'out', got 'kv'",
    ),
    "a built core": (
        lambda: call(t.MultiHeadAttention, D, num_heads=2, core=t.DotProductCore()),
        TypeError,
        "core must be a part, got DotProductCore",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_with_its_reason(what: str) -> None:
    wrong, error, text = BAD[what]
    with pytest.raises(error, match=text):
        wrong()
