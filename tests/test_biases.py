"""Biases added to the scores: ALiBi, T5's buckets, and attention that takes them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import T5Config
from transformers.models.bloom import modeling_bloom as bloom
from transformers.models.mpt import modeling_mpt as mpt
from transformers.models.t5 import modeling_t5 as t5

from tests import loops
from tests.helpers import drawn, equal, randn64
from tfdoc import (
    ALiBi,
    Bias,
    Causal,
    DotProductCore,
    Encoder,
    FeedForward,
    MultiHeadAttention,
    PreNormBlock,
    RelativeBias,
    attention,
    fused_attention,
    part,
    record,
)


def bucket_loop(offset: int, buckets: int, furthest: int, both: bool) -> int:
    """T5's bucket, one distance at a time."""
    start, distance = 0, max(-offset, 0)
    if both:
        buckets //= 2
        start, distance = (buckets if offset > 0 else 0), abs(offset)
    exact = buckets // 2
    if distance < exact:
        return start + distance
    share = math.log(distance / exact) / math.log(furthest / exact)
    # A hair more: logarithms of float64 fall just short of whole numbers.
    far = exact + int(share * (buckets - exact) + 1e-6)
    return start + min(far, buckets - 1)


@pytest.mark.parametrize("heads", range(1, 41))
def test_slopes_are_those_of_bloom_and_mpt(heads: int) -> None:
    ours = torch.tensor(ALiBi(heads).slopes())
    theirs = bloom._get_alibi_slopes(heads, torch.device("cpu"))
    torch.testing.assert_close(ours, theirs.to(ours.device), rtol=1e-6, atol=0)
    table = mpt.build_mpt_alibi_tensor(heads, 5)  # (H, 1, keys), for the last query
    at = torch.arange(5)
    torch.testing.assert_close(ALiBi(heads)(at[-1:], at), table.to(ours.device))


def test_attention_with_alibi_is_blooms() -> None:
    """Theirs adds slope times the key's place: the same after the softmax."""
    q, k, v = randn64(3, 2, 6, 7, 8)
    added = bloom.build_alibi_tensor(torch.ones(2, 7), 6, torch.float64)
    theirs = attention(q, k, v, Causal(), bias=added.view(2, 6, 1, 7))
    equal(attention(q, k, v, Causal(), bias=ALiBi(6)), theirs, 1e-6)


@given(heads=st.integers(1, 40), query=st.integers(-5, 10_000))
def test_alibi_falls_with_distance_on_both_sides(heads: int, query: int) -> None:
    away = torch.arange(1, 30)
    for keys in (query - away, query + away):
        bias = ALiBi(heads)(torch.tensor([query]), keys)[:, 0]
        assert (bias < 0).all()
        assert (bias.diff(dim=-1) < 0).all()
    assert (ALiBi(heads)(torch.tensor([query]), torch.tensor([query])) == 0).all()


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (16, 1000)])
def test_buckets_are_the_loop_and_those_of_t5(
    buckets: int, furthest: int, both: bool
) -> None:
    offsets = torch.arange(-1200, 1201)
    bias = RelativeBias(
        2, num_buckets=buckets, max_distance=furthest, bidirectional=both
    )
    rows = bias.bucket(offsets)
    theirs = t5.T5Attention._relative_position_bucket(offsets, both, buckets, furthest)
    assert torch.equal(rows, theirs)
    loop = [bucket_loop(o, buckets, furthest, both) for o in offsets.tolist()]
    # float32 puts at most a boundary or two one bucket lower than exact numbers do.
    apart = (rows - torch.tensor(loop)).abs()
    assert apart.max() <= 1
    assert (apart > 0).sum() <= 2
    assert rows.min() >= 0
    assert rows.max() == buckets - 1


@pytest.mark.parametrize("decoder", [True, False])
def test_the_bias_is_the_one_of_t5(decoder: bool) -> None:
    config = T5Config(d_model=32, d_kv=8, num_heads=4, is_decoder=decoder)
    theirs = t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = RelativeBias(4, bidirectional=not decoder)
    ours.weight.data = theirs.relative_attention_bias.weight.data
    at = torch.arange(200)
    torch.testing.assert_close(ours(at, at)[None], theirs.compute_bias(200, 200))
    # A cached step: one query, at the end.
    step = theirs.compute_bias(1, 200, past_seen_tokens=199)
    torch.testing.assert_close(ours(at[-1:], at)[None], step)


def test_a_layer_with_relative_bias_is_t5s() -> None:
    config = T5Config(d_model=32, d_kv=8, num_heads=4, is_decoder=False)
    theirs = drawn(t5.T5Attention(config, has_relative_attention_bias=True)).eval()
    bias = RelativeBias(4)
    ours = MultiHeadAttention(32, num_heads=4, bias=False, position_bias=bias)
    bias.weight.data = theirs.relative_attention_bias.weight.data
    for name in ("q", "k", "v", "o"):
        weight = getattr(theirs, name).weight.data
        # T5 does not divide by the square root of d.
        getattr(ours, f"{name}_proj").weight.data = (
            weight * 8**0.5 if name == "q" else weight
        )
    x = torch.randn(2, 50, 32) * 0.1
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=1e-4, atol=1e-4)


@given(shift=st.integers(-1000, 100_000), both=st.booleans())
def test_relative_bias_sees_distances_only(shift: int, both: bool) -> None:
    bias, at = RelativeBias(3, bidirectional=both), torch.arange(300)
    assert torch.equal(bias(at, at), bias(at + shift, at + shift))


@pytest.mark.parametrize("kind", [ALiBi, RelativeBias])
def test_positions_may_differ_from_row_to_row(kind: Callable[[int], Bias]) -> None:
    bias, rows = kind(4), torch.tensor([[0, 1, 2], [5, 6, 9]])
    table = bias(rows, rows)
    assert table.shape == (2, 4, 3, 3)
    for row, expected in zip(rows, table, strict=True):
        assert torch.equal(bias(row, row), expected)
    assert bias(torch.arange(3), rows).shape == (2, 4, 3, 3)


def test_attention_with_a_bias_is_the_loop() -> None:
    q, k, v = randn64(3, 5, 4)
    bias, allowed = randn64(5, 5), Causal().table(5)
    # The loop divides by the root of d: a fifth channel adds the bias to the scores.
    rows = []
    for i in range(5):
        query = torch.cat([q[i], q.new_ones(1)])
        keys = torch.cat([k, bias[i, :, None] * 2], 1)
        query = query * math.sqrt(5) / 2
        row = loops.attention(query[None], keys, v, allowed[i : i + 1])
        rows.append(row)
    expected = torch.cat(rows).to(v)
    equal(attention(q, k, v, Causal(), bias=bias), expected)
    equal(fused_attention(q, k, v, Causal(), bias=bias), expected)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("masked", [None, Causal(), "rows"])
def test_exact_and_fused_agree(heads: int, masked: object) -> None:
    q = randn64(2, 4, 6, 8, requires_grad=True)
    k, v = randn64(2, 2, heads, 6, 8)
    mask = masked
    if masked == "rows":
        mask = torch.rand(2, 1, 6, 6) > 0.3
        mask[:, :, 2] = False  # nothing to attend to
    bias = RelativeBias(4).double()
    outs = []
    for f in attention, fused_attention:
        out = f(q, k, v, mask, bias=bias)  # type: ignore[arg-type]
        grads = torch.autograd.grad(out.square().sum(), [q, bias.weight])
        assert all(g.isfinite().all() for g in grads)
        outs.append([out, *grads])
        if masked == "rows":
            assert (out[:, :, 2] == 0).all()
    for exact, fused in zip(*outs, strict=True):
        equal(fused, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_biases_in_half_precision(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 1, 8, 10, 16).to(dtype)
    for f in attention, fused_attention:
        out = f(q, k, v, Causal(), bias=ALiBi(8))
        assert out.dtype is dtype
        exact = attention(q.float(), k.float(), v.float(), Causal(), bias=ALiBi(8))
        torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.03)


def test_the_core_shows_scores_with_their_bias() -> None:
    core, (q, k, v) = DotProductCore(), torch.randn(3, 1, 2, 5, 8)
    plain = core(q, k, v, bias=ALiBi(2))
    with record(core, "*") as seen:
        watched = core(q, k, v, bias=ALiBi(2))
    torch.testing.assert_close(watched, plain)
    at = torch.arange(5)
    expected = q @ k.mT / 8**0.5 + ALiBi(2)(at, at)
    torch.testing.assert_close(seen["scores"], expected)


@pytest.mark.parametrize("kind", [ALiBi, RelativeBias])
def test_a_bias_is_the_same_from_the_constructor_and_the_call(
    kind: Callable[[int], Bias],
) -> None:
    bias = kind(4)
    plain = MultiHeadAttention(32, num_heads=4, mask=Causal())
    with_bias = MultiHeadAttention(32, num_heads=4, mask=Causal(), position_bias=bias)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        getattr(with_bias, name).load_state_dict(getattr(plain, name).state_dict())
    x, at = torch.randn(2, 7, 32), torch.arange(7)
    expected = with_bias(x)
    assert not torch.allclose(plain(x), expected, atol=1e-4)
    for given_bias in (bias, bias(at, at)):
        torch.testing.assert_close(plain(x, position_bias=given_bias), expected)
    torch.testing.assert_close(with_bias(x, positions=1000), expected)
    # Both: they add up.
    twice = plain(x, position_bias=2 * bias(at, at))
    torch.testing.assert_close(with_bias(x, position_bias=bias), twice)


def test_layers_share_one_relative_bias() -> None:
    shared = RelativeBias(4)
    block = part(
        PreNormBlock,
        attention=part(MultiHeadAttention, num_heads=4, position_bias=shared),
        feedforward=part(FeedForward, hidden_dim=16),
    )
    stack = Encoder(16, blocks=(block,) * 3)
    tables = [p for name, p in stack.named_parameters() if "position_bias" in name]
    assert len(tables) == 1  # counted once
    assert tables[0] is not shared.weight  # a model of the same recipe has its own
    assert torch.equal(tables[0], shared.weight)
    twin = copy.deepcopy(stack)
    biases = {
        id(b.attention.position_bias.weight)  # type: ignore[union-attr]
        for b in twin.blocks
    }
    assert len(biases) == 1
    assert tables[0] is not next(iter(twin.blocks)).attention.position_bias.weight  # type: ignore[union-attr]
    stack(torch.randn(1, 5, 16)).sum().backward()
    assert tables[0].grad is not None


@pytest.mark.compiles
@pytest.mark.parametrize("kind", [ALiBi, RelativeBias])
def test_biases_on_meta_exported_and_compiled(kind: Callable[[int], Bias]) -> None:
    model = MultiHeadAttention(32, num_heads=4, mask=Causal(), position_bias=kind(4))
    x = torch.randn(2, 9, 32)
    torch.compiler.reset()  # dynamo counts recompilations over all tests
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    tokens = torch.export.Dim("tokens", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {1: tokens}})
    torch.testing.assert_close(program.module()(x[:, :5]), model(x[:, :5]))
    assert model.to("meta")(x.to("meta")).shape == x.shape


def test_a_bias_depends_on_nothing_but_positions() -> None:
    class Even(Bias):
        """A bias of one's own."""

        num_heads = 2

        def between(self, query: Tensor, key: Tensor) -> Tensor:
            far = (query - key).abs() % 2
            return far * torch.tensor([1.0, -1.0])[:, None, None]

    at = torch.arange(3)
    assert Even()(at, at)[:, 0].tolist() == [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]
    layer = MultiHeadAttention(8, num_heads=2, position_bias=Even())
    assert layer(torch.randn(1, 3, 8)).shape == (1, 3, 8)
