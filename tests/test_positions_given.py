"""Positions and padding in every form that a call takes, on every component."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers import drawn, equal, randn64
from tests.subjects import (
    ATTENTION,
    BLOCKS,
    CROSS,
    DECODERS,
    ENCODERS,
    FFN,
    HEADS,
    SEQ2SEQ,
    SUBJECTS,
    TEXT_ENCODERS,
    D,
    H,
    V,
)
from tfdoc import (
    ALiBi,
    Causal,
    Decoder,
    EncoderDecoder,
    GrowingCache,
    MultiHeadAttention,
    Part,
    PostNormCrossBlock,
    PreNormBlock,
    RelativeBias,
    RoPE,
    fused_attention,
    generate,
    part,
)

MODELS = ENCODERS | DECODERS | TEXT_ENCODERS
CROSSING: dict[str, dict[str, Any]] = {
    "rotary": {"rotary": RoPE()},
    "ALiBi": {"position_bias": ALiBi(H)},
    "relative": {"position_bias": RelativeBias(H)},
    "causal": {"mask": Causal()},
}


@pytest.mark.parametrize("name", ATTENTION | BLOCKS | MODELS)
def test_counted_given_or_offset_they_are_the_same(name: str) -> None:
    subject = SUBJECTS[name]
    model, inputs = subject.build(), subject.inputs(2, 5)
    expected, at = model(*inputs), torch.arange(5)
    for positions in (0, np.int64(0), at, at.int(), at.expand(2, -1)):
        equal(model(*inputs, positions=positions), expected)


@pytest.mark.parametrize("name", ATTENTION)
def test_further_on_they_are_the_same_too(name: str) -> None:
    model, (x,) = SUBJECTS[name].build(), SUBJECTS[name].inputs(2, 5)
    later = torch.arange(7, 12)
    equal(model(x, positions=7), model(x, positions=later))
    equal(model(x, positions=7), model(x, positions=later.expand(2, -1)))


def broken_row(model: nn.Module) -> None:
    """Make one token, the last, not a number wherever it has a row."""
    for owner in model.modules():
        weight = getattr(owner, "weight", None)
        if isinstance(weight, nn.Parameter) and len(weight) == V:
            weight.data[V - 1] = float("nan")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 2])
def test_negative_ones_are_no_tokens_whatever_they_hold(name: str, rows: int) -> None:
    subject = SUBJECTS[name]
    model, (x,) = subject.build(), subject.inputs(2, 6)
    x = x if x.is_floating_point() else x % (V - 1)
    alone = model(x[:, 2:])
    if x.is_floating_point():
        x[:, :2] = float("nan")
    else:
        x[:, :2] = V - 1
        broken_row(model)
    at = torch.arange(-2, 4)
    out = model(x, positions=at if rows == 1 else at.expand(2, -1))[:, 2:]
    equal(out[..., : V - 1], alone[..., : V - 1])


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_padding_of_source_and_target_may_be_nan(name: str) -> None:
    subject = SUBJECTS[name]
    model, (source, target) = subject.build(), subject.inputs(1, 5)
    target = target % (V - 1)
    source = source % 10
    alone = model(source, target)
    for owner in model.modules():
        weight = getattr(owner, "weight", None)
        if isinstance(weight, nn.Parameter) and len(weight) in (V, 11):
            weight.data[-1] = float("nan")
    assert isinstance(model, EncoderDecoder)
    last = model.embed.vocab_size - 1
    source = torch.cat([torch.full((1, 2), last), source], 1)
    target = torch.cat([target, torch.full((1, 3), V - 1)], 1)
    real = torch.arange(source.shape[1])[None] >= 2
    out = model(
        source, target, real=real, target_real=torch.arange(target.shape[1])[None] < 5
    )
    equal(out[:, :5, : V - 1], alone[..., : V - 1])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_of_padding_only_is_finite(name: str, training: bool) -> None:
    subject = SUBJECTS[name]
    model, inputs = subject.build().train(training), subject.inputs(3, 5)
    real = torch.ones(3, 5, dtype=torch.bool)
    real[1] = False
    real[2, :3] = False
    out = model(*inputs, real=real)
    assert out.isfinite().all()
    out.square().sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("settings", CROSSING.values(), ids=CROSSING)
@pytest.mark.parametrize("wiring", [CROSS.component, PostNormCrossBlock])
def test_queries_of_cross_attention_stand_where_their_tokens_do(
    settings: dict[str, Any], wiring: type[nn.Module]
) -> None:
    block = part(wiring, **CROSS.but(cross_attention=HEADS.but(**settings)).settings)
    model = drawn(Decoder(D, vocab_size=V, blocks=(block,) * 2).double()).eval()
    tokens, context = torch.randint(V, (2, 6)), randn64(2, 7, D)
    full = model(tokens, context=context)
    for room in (None, 20):
        cache = model.new_cache(room)
        steps = [model(t, context=context, cache=cache) for t in tokens.split(1, 1)]
        equal(torch.cat(steps, 1), full)
    padded = torch.cat([tokens[:, :2], tokens], 1)
    real = torch.arange(8).expand(2, -1) >= 2
    equal(model(padded, context=context, real=real)[:, 2:], full)
    texts = generate(model, tokens, max_new_tokens=4, context=context)
    for length in range(6, 10):
        chosen = model(texts[:, :length], context=context)[:, -1].argmax(-1)
        assert torch.equal(chosen, texts[:, length])


def test_only_blocks_with_cross_attention_are_told_of_a_context() -> None:
    plain: Part[Any] = part(
        PreNormBlock,
        attention=CROSS.settings["attention"],
        feedforward=FFN,
    )
    mixed = drawn(Decoder(D, vocab_size=V, blocks=(plain, CROSS)).double())
    tokens, context = torch.randint(V, (2, 6)), randn64(2, 7, D)
    first, second = mixed.blocks
    by_hand = mixed.head(second(first(mixed.embed(tokens)), context))
    equal(mixed(tokens, context=context), by_hand)
    with pytest.raises(ValueError, match="give context="):
        mixed(tokens)
    with pytest.raises(ValueError, match="no block of this model has cross-attention"):
        DECODERS["llama"].build(D)(tokens, context=context)


@pytest.mark.parametrize("shape", [(), (6,), (1,), (6, 1), (2, 1, 1, 1), (2, 1, 1, 6)])
@pytest.mark.parametrize("tokens", [1, 4])
def test_a_mask_of_any_shape_that_broadcasts(
    shape: tuple[int, ...], tokens: int
) -> None:
    q, k, v = randn64(2, 4, tokens, 8), randn64(2, 2, 6, 8), randn64(2, 2, 6, 8)
    if shape == (6, 1) and tokens == 1:
        shape = (1, 1)
    mask = torch.rand(shape) < 0.5
    if shape == (6, 1):
        mask = mask[:tokens]
    whole = mask.expand(2, 4, tokens, 6)
    equal(fused_attention(q, k, v, mask), fused_attention(q, k, v, whole))


def test_an_offset_counts_behind_padding_too() -> None:
    attention = MultiHeadAttention(D, num_heads=H, mask=Causal(), rotary=RoPE())
    attention.double()
    x, more = randn64(2, 5, D), randn64(2, 1, D)
    at = torch.tensor([[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4]])
    outs: list[Tensor] = []
    for positions in (5, torch.full((2, 1), 5)):
        cache = GrowingCache()
        attention(x, positions=at, cache=cache)
        outs.append(attention(more, positions=positions, cache=cache))
    equal(outs[0], outs[1])
