"""Decoder and encoder-decoder, alone and with their caches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tfdoc import (
    ALiBi,
    Causal,
    Decoder,
    FeedForward,
    GatedFeedForward,
    GrowingCache,
    LayerNorm,
    LearnedPositions,
    ModelCache,
    MultiHeadAttention,
    PreallocatedCache,
    PreNormBlock,
    RMSNorm,
    RoPE,
    Window,
    part,
)

V, D = 23, 16


def llama(**attention: object) -> Decoder:
    settings = {"num_heads": 4, "num_kv_heads": 2, "mask": Causal(), "rotary": RoPE()}
    block = part(
        PreNormBlock,
        attention=part(MultiHeadAttention, bias=False, **{**settings, **attention}),
        feedforward=part(GatedFeedForward, hidden_dim=32),
        norm=part(RMSNorm),
    )
    return (
        Decoder(D, vocab_size=V, blocks=(block,) * 2, norm=part(RMSNorm))
        .double()
        .eval()
    )


def gpt2() -> Decoder:
    block = part(
        PreNormBlock,
        attention=part(MultiHeadAttention, num_heads=4, mask=Causal()),
        feedforward=part(FeedForward, hidden_dim=32),
    )
    return (
        Decoder(
            D,
            vocab_size=V,
            blocks=(block,) * 2,
            norm=part(LayerNorm),
            positions=part(LearnedPositions, max_positions=64),
            tied=True,
        )
        .double()
        .eval()
    )


MODELS: dict[str, Callable[[], Decoder]] = {
    "llama": llama,
    "gpt2": gpt2,
    "alibi": lambda: llama(rotary=None, position_bias=ALiBi(4)),
    "window": lambda: llama(mask=Causal() & Window(4)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Decoder:
    torch.manual_seed(0)
    made: Decoder = MODELS[request.param]()
    return made


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def caches(model: Decoder) -> list[ModelCache]:
    return [
        model.new_cache(),
        model.new_cache(16),
        ModelCache(GrowingCache() for _ in model.blocks),
        ModelCache(PreallocatedCache(12) for _ in model.blocks),
    ]


@pytest.mark.parametrize("cuts", [(12,), (1,) * 12, (5, 1, 1, 5), (1, 7, 4)])
def test_any_chunking_of_a_cache_is_the_full_pass(
    model: Decoder, cuts: tuple[int, ...]
) -> None:
    tokens = torch.randint(V, (2, 12))
    full = model(tokens)
    for cache in caches(model):
        parts = [model(piece, cache=cache) for piece in tokens.split(cuts, dim=1)]
        close(torch.cat(parts, 1), full)
        assert cache.length == 12


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_nothing(model: Decoder, left: bool) -> None:
    tokens, more = torch.randint(V, (2, 6)), torch.randint(V, (2, 4))
    alone = model(torch.cat([tokens[1:, :4], more[1:]], 1))
    short = tokens[1:, :4]
    filling = tokens[1:, 4:]
    row = torch.cat([filling, short] if left else [short, filling], 1)
    batch = torch.cat([tokens[:1], row])
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, : 2 if left else None] = not left
    if not left:
        real[1, 4:] = False
    for cache in caches(model):
        first = model(batch, real=real, cache=cache)
        rest = torch.cat([model(t, cache=cache) for t in more.split(1, 1)], 1)
        close(torch.cat([first[1:][real[1:]][None], rest[1:]], 1), alone)
        close(
            torch.cat([first[:1], rest[:1]], 1), model(torch.cat([tokens, more], 1)[:1])
        )


def test_last_is_the_last(model: Decoder) -> None:
    tokens = torch.randint(V, (2, 6))
    close(model(tokens, last=True), model(tokens)[:, -1:])
