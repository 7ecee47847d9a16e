"""Initialisation: spreads by name, a generator of one's own, nothing left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tfdoc import (
    Decoder,
    DeepNormBlock,
    Encoder,
    FeedForward,
    GatedFeedForward,
    Head,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    TransformerBlock,
    init_deepnorm_,
    init_gpt2_,
    init_small_,
    part,
)

D, L = 128, 8
SCHEMES: list[Callable[..., Any]] = [init_gpt2_, init_small_, init_deepnorm_]


def model() -> nn.Sequential:
    block = part(TransformerBlock, num_heads=4)
    trunk = Encoder(D, blocks=(block,) * 2, norm=part(LayerNorm))
    return nn.Sequential(nn.Embedding(1000, D), trunk)


def spreads(model: nn.Module) -> dict[str, float]:
    """Return the spread of each kind of matrix; the largest and smallest are close."""
    found: dict[str, list[float]] = {}
    for path, p in model.named_parameters():
        if p.ndim == 2:
            found.setdefault(path.split(".")[-2], []).append(p.std().item())
    assert all(max(s) < 1.1 * min(s) for s in found.values())
    return {name: sum(s) / len(s) for name, s in found.items()}


def close(actual: float, expected: float) -> bool:
    return abs(actual / expected - 1) < 0.03


def test_gpt2() -> None:
    found = spreads(init_gpt2_(model(), num_layers=L))
    for name, spread in found.items():
        scale = 0.25 if name in ("o_proj", "down_proj") else 1.0
        assert close(spread, 0.02 * scale), name
    assert {"0", "q_proj", "up_proj", "o_proj", "down_proj"} < set(found)


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_decoder(tied: bool) -> None:
    whole = Decoder(
        D,
        vocab_size=1000,
        blocks=(part(TransformerBlock, num_heads=4),) * 2,
        norm=part(LayerNorm),
        positions=part(LearnedPositions, max_positions=64),
        head=part(Head, bias=True),
        tied=tied,
    )
    found = spreads(init_gpt2_(whole, num_layers=L))
    assert {"embed", "positions", "up_proj"} < set(found)
    assert tied == ("head" not in found)
    for name, spread in found.items():
        assert close(spread, 0.005 if name in ("o_proj", "down_proj") else 0.02), name
    assert not whole.get_parameter("head.bias").any()


def test_small() -> None:
    for name, spread in spreads(init_small_(model(), num_layers=L)).items():
        writes = name in ("o_proj", "down_proj")
        assert close(spread, 2 / (L * D**0.5) if writes else (2 / (5 * D)) ** 0.5), name


def test_deepnorm_is_xavier_with_two_gains() -> None:
    gated = part(GatedFeedForward, hidden_dim=3 * D)
    heads = part(MultiHeadAttention, num_heads=4)
    blocks = part(DeepNormBlock, attention=heads, feedforward=gated, alpha=2.0)
    trunk = init_deepnorm_(Encoder(D, blocks=(blocks,) * 2), num_layers=L)
    for name, spread in spreads(trunk).items():
        wide = name in ("gate_proj", "up_proj", "down_proj")
        xavier = (2 / (4 * D if wide else 2 * D)) ** 0.5
        gain = 1 if name in ("q_proj", "k_proj") else (8 * L) ** -0.25
        assert close(spread, gain * xavier), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_biases_are_zero_and_norms_stay(scheme: Callable[..., Any]) -> None:
    net = scheme(model(), num_layers=L)
    for name, p in net.named_parameters():
        if p.ndim == 1:
            norm = "norm" in name and name.endswith("weight")
            assert (p == (1 if norm else 0)).all(), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_generator_is_all_that_is_touched(scheme: Callable[..., Any]) -> None:
    first, second = model(), model()
    before = torch.get_rng_state()
    for net in (first, second):
        generator = torch.Generator(torch.get_default_device()).manual_seed(3)
        assert scheme(net, num_layers=L, generator=generator) is net
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_padding_stays_zero_and_tied_weights_are_drawn_once() -> None:
    embedding, head = nn.Embedding(50, 8, padding_idx=3), nn.Linear(8, 50)
    head.weight = embedding.weight
    net = nn.Sequential(embedding, FeedForward(8, hidden_dim=16), head)
    init_gpt2_(net, num_layers=2)
    assert (embedding.weight[3] == 0).all()
    assert head.weight is embedding.weight
