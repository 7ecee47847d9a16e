"""What caches, embeddings, heads and models refuse, and the words they do it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tfdoc as t
from tests.subjects import (
    DECODERS,
    ENCODERS,
    FFN,
    HEADS,
    SEQ2SEQ,
    SHARED,
    TEXT_ENCODERS,
    TYPED,
    D,
    V,
)

IDS = torch.zeros(1, 3, dtype=torch.long)


@pytest.fixture(autouse=True)
def _on_the_cpu(_same_start: None) -> Iterator[None]:
    """A token beyond the table would end a process that uses CUDA."""
    with torch.device("cpu"):
        yield


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


def typed(types: Any, embed: t.Part[Any] = TYPED) -> Any:
    return embed.build(D)(IDS, types=types)


def bert(name: str = "bert of tokens", **settings: Any) -> Any:
    return TEXT_ENCODERS[name].but(**settings).build(D)


def masked(**settings: Any) -> t.MaskedHead:
    return t.MaskedHead(D, **{"vocab_size": V, **settings})


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
        "ids, of int64 or int32, got a tensor of dtype torch.float32",
    ),
    "bytes for tokens": (
        lambda: gpt2()(IDS.byte()),
        TypeError,
        "ids, of int64 or int32, got a tensor of dtype torch.uint8",
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
        r"real must be a bool tensor \(True = real token\)",
    ),
    "padding of another shape": (
        lambda: gpt2()(IDS, real=torch.ones(1, 4).bool()),
        ValueError,
        r"real must have shape \(1, 3\)",
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
    "a narrow table to share": (
        lambda: call(
            SEQ2SEQ["transformer"].but,
            embed=t.part(t.FactorisedEmbedding, embed=TYPED, rank=4),
        ).build(D),
        TypeError,
        "shared=True needs a TokenEmbedding, got FactorisedEmbedding",
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
    "built types": (
        lambda: call(t.TokenEmbedding, D, vocab_size=V, types=t.TokenTypes(D)),
        TypeError,
        "types must be a part, got TokenTypes",
    ),
    "no types": (
        lambda: t.TokenTypes(D, num_types=0),
        ValueError,
        "num_types must be at least 1, got 0",
    ),
    "types for an embedding of none": (
        lambda: typed(IDS, TYPED.but(types=None)),
        ValueError,
        r"this embedding has no token types; build it with types=part\(TokenTypes\)",
    ),
    "types as bools": (
        lambda: typed(IDS > 0),
        TypeError,
        r"types must be a tensor of whole numbers, got a tensor of dtype torch.bool .* second.long\(\)",
    ),
    "types as a list": (
        lambda: typed([0, 0, 1]),
        TypeError,
        r"types must be a tensor of whole numbers, got \[0, 0, 1\] \(list\)",
    ),
    "types of one row": (
        lambda: typed(IDS[0]),
        ValueError,
        r"types must have shape \(1, 3\), one for each token, got \(3,\)",
    ),
    "a third type": (
        lambda: typed(IDS + 2),
        ValueError,
        r"types must be from 0 to 1 \(num_types=2\), got 2 to 2",
    ),
    "types of words": (
        lambda: t.TokenTypes(D)(call(IDS.clone)),
        TypeError,
        "x must hold floating-point vectors",
    ),
    "a negative offset": (
        lambda: t.LearnedPositions(D, max_positions=4, offset=-1),
        ValueError,
        "offset must be at least 0, got -1",
    ),
    "longer than a table with an offset": (
        lambda: t.LearnedPositions(D, max_positions=2, offset=2)(torch.zeros(1, 3, D)),
        ValueError,
        "positions 0 to 2 do not fit max_positions=2, which has rows for 0 to 1",
    ),
    "a built narrow embedding": (
        lambda: call(t.FactorisedEmbedding, D, embed=TYPED.build(4), rank=4),
        TypeError,
        "embed must be a part, got TokenEmbedding",
    ),
    "no rank": (
        lambda: t.FactorisedEmbedding(D, embed=TYPED, rank=0),
        ValueError,
        "rank must be at least 1, got 0",
    ),
    "a built block, repeated": (
        lambda: call(t.RepeatedBlock, D, block=decoder().blocks[0], times=2),
        TypeError,
        "block must be a part, got PreNormBlock",
    ),
    "never repeated": (
        lambda: SHARED.but(times=0).build(D),
        ValueError,
        "times must be at least 1, got 0",
    ),
    "a repeated block with a cache": (
        lambda: SHARED.build(D)(torch.zeros(1, 3, D), cache=t.GrowingCache()),
        ValueError,
        "keys and values of each of its 3 passes, and the cache would need a part for each",
    ),
    "a built encoder": (
        lambda: bert(encoder=ENCODERS["bert"].build(D)),
        TypeError,
        "encoder must be a part, got Encoder",
    ),
    "no embedding": (
        lambda: bert(embed=None),
        TypeError,
        "embed must be a part, got NoneType",
    ),
    "a built pooler": (
        lambda: bert(head=t.Pooler(D)),
        TypeError,
        "head must be a part, got Pooler",
    ),
    "tied to no head": (
        lambda: bert(tied=True),
        ValueError,
        r"there is none; head=part\(MaskedHead, vocab_size=...\) is one",
    ),
    "a tied pooler": (
        lambda: bert(tied=True, head=t.part(t.Pooler)),
        TypeError,
        "Pooler has no setting 'tied'",
    ),
    "an encoder tied by a word": (
        lambda: bert("masked bert", tied="yes"),
        TypeError,
        "tied must be True or False, got 'yes'",
    ),
    "types for a text encoder without": (
        lambda: bert(embed=TYPED.but(types=None))(IDS, types=IDS),
        ValueError,
        "this embedding has no token types",
    ),
    "a table of another rank": (
        lambda: bert("albert", head=t.part(t.MaskedHead, vocab_size=V))(IDS),
        ValueError,
        rf"weight must have shape \({V}, {D}\), vocab_size and rank, got \({V}, 6\)",
    ),
    "a table of other tokens": (
        lambda: bert("masked bert", head=t.part(t.MaskedHead, vocab_size=9))(IDS),
        ValueError,
        rf"weight must have shape \(9, {D}\), vocab_size and rank, got \({V}, {D}\)",
    ),
    "a masked head with two weights": (
        lambda: masked()(torch.zeros(1, D), torch.zeros(V, D)),
        ValueError,
        "and another one without",
    ),
    "a masked head's bias": (
        lambda: masked(bias="qkv"),
        ValueError,
        "bias must be True, False or 'out', got 'qkv'",
    ),
    "a masked head's built norm": (
        lambda: masked(norm=t.LayerNorm(D)),
        TypeError,
        "norm must be a part, got LayerNorm",
    ),
    "a masked head's activation": (
        lambda: masked(activation="gelu"),
        TypeError,
        "activation must be a function of a tensor",
    ),
    "a masked head's rank": (
        lambda: masked(rank=0),
        ValueError,
        "rank must be at least 1, got 0",
    ),
    "a text of nothing": (
        lambda: t.Pooler(D)(torch.zeros(2, 0, D)),
        ValueError,
        r"x must hold at least one token a row, got shape \(2, 0, 16\)",
    ),
    "the first of no real token's shape": (
        lambda: t.Pooler(D)(torch.zeros(2, 3, D), torch.ones(2, 4).bool()),
        ValueError,
        r"real must have shape \(2, 3\)",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_refused_with_its_reason(what: str) -> None:
    wrong, error, text = BAD[what]
    with pytest.raises(error, match=text):
        wrong()
