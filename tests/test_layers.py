"""Multi-head attention, blocks and stacks: parity with torch, and what must hold."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import M, drawn, equal, gradients, randn64
from tfdoc import (
    Causal,
    DotProductCore,
    Encoder,
    FeedForward,
    LayerNorm,
    Mask,
    MultiHeadAttention,
    Padding,
    PostNormBlock,
    PreNormBlock,
    RMSNorm,
    RoPE,
    TransformerBlock,
    TransformerLayer,
    Window,
    from_torch,
    mask_from_torch,
    part,
    record,
)


def on_device(module: M) -> M:
    """Put a module of torch where the test runs, in float64, with random weights."""
    return drawn(module.to(torch.get_default_device()).double())


def inputs(*shape: int) -> Tensor:
    return randn64(*shape, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["none", "causal", "padding", "both"])
def test_multi_head_equals_torch(bias: bool, kind: str) -> None:
    theirs = on_device(nn.MultiheadAttention(12, 3, bias=bias, batch_first=True))
    ours, x = from_torch(theirs), inputs(2, 5, 12)
    blocked = ~Causal().table(5) if kind in ("causal", "both") else None
    lengths = torch.tensor([3, 5])
    padded = (
        torch.arange(5) >= lengths[:, None] if kind in ("padding", "both") else None
    )
    mask = None if kind == "none" else mask_from_torch(blocked, padded)
    out = ours(x, mask=mask)
    expected = theirs(
        x, x, x, attn_mask=blocked, key_padding_mask=padded, need_weights=False
    )[0]
    equal(out, expected)
    (mine,) = torch.autograd.grad(out.square().sum(), x)
    (other,) = torch.autograd.grad(expected.square().sum(), x)
    equal(mine, other)


def test_cross_attention_equals_torch() -> None:
    theirs = on_device(nn.MultiheadAttention(12, 3, batch_first=True))
    ours, x, context = from_torch(theirs), inputs(2, 5, 12), inputs(2, 7, 12)
    equal(ours(x, context), theirs(x, context, context)[0])
    padding = Padding([4, 7])
    hidden = torch.arange(7) >= padding.lengths[:, None]
    expected = theirs(x, context, context, key_padding_mask=hidden)[0]
    equal(ours(x, context, mask=padding), expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_the_layer_equals_torch(norm_first: bool, bias: bool, masked: bool) -> None:
    theirs = nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, "gelu", 1e-3, batch_first=True, norm_first=norm_first, bias=bias
    )
    ours, x = from_torch(on_device(theirs)), inputs(2, 5, 12)
    assert isinstance(ours, PreNormBlock if norm_first else PostNormBlock)
    mask = Causal().table(5) if masked else None
    out = ours(x, mask=mask)
    expected = theirs(x, src_mask=None if mask is None else ~mask)
    equal(out, expected)
    (mine,) = torch.autograd.grad(out.square().mean(), x, retain_graph=True)
    (other,) = torch.autograd.grad(expected.square().mean(), x, retain_graph=True)
    equal(mine, other)
    total = sum(g.square().sum() for g in gradients(ours, out, x))
    equal(total, sum(g.square().sum() for g in gradients(theirs, expected, x)), 1e-11)


def test_the_stack_equals_torch() -> None:
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, batch_first=True, norm_first=True
    )
    stack = nn.TransformerEncoder(
        layer, 3, norm=nn.LayerNorm(12), enable_nested_tensor=False
    )
    theirs = on_device(stack).eval()
    ours, x = from_torch(theirs), inputs(2, 5, 12)
    assert isinstance(ours, Encoder)
    assert not ours.training
    equal(ours(x), theirs(x))


@pytest.mark.parametrize("wiring", [PostNormBlock, PreNormBlock])
def test_the_named_layer_is_the_one_of_torch(wiring: type[PreNormBlock]) -> None:
    theirs = nn.TransformerEncoderLayer(
        activation="gelu",
        batch_first=True,
        norm_first=wiring is PreNormBlock,
        d_model=512,
        nhead=8,
        layer_norm_eps=1e-3,
    )
    theirs = theirs.to(torch.get_default_device()).double().eval()
    ours = TransformerLayer(wiring=wiring, norm=part(LayerNorm, eps=1e-3)).double()
    ours = ours.eval()
    ours.load_state_dict(from_torch(theirs).state_dict())
    x = randn64(1, 3, 512)
    equal(ours(x), theirs(x))
    settings = {m.p for m in ours.modules() if isinstance(m, nn.Dropout)}
    assert settings == {0.1}
    core = ours.get_submodule("attention.core")
    assert isinstance(core, DotProductCore)
    assert core.dropout == 0.1


def test_the_block_is_pre_norm_with_four_times_the_width() -> None:
    block = TransformerBlock(12, num_heads=3, mask=Causal(), rotary=RoPE()).double()
    assert isinstance(block.attention, MultiHeadAttention)
    assert block.attention.mask == Causal()
    assert block.attention.rotary == RoPE()
    x = randn64(2, 5, 12)
    h = x + block.attention(block.attn_norm(x))
    up, down = (block.get_submodule(f"feedforward.{n}_proj") for n in ("up", "down"))
    hidden = F.gelu(up(block.ffn_norm(h)))
    assert hidden.shape[-1] == 48
    equal(block(x), h + down(hidden))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_repeated_ones(kv_heads: int) -> None:
    grouped = MultiHeadAttention(16, num_heads=4, num_kv_heads=kv_heads).double()
    full = MultiHeadAttention(16, num_heads=4).double()
    weights = dict(grouped.state_dict())
    for name in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"):
        heads = weights[name].unflatten(0, (kv_heads, 4))
        weights[name] = heads.repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    x = randn64(2, 5, 16)
    equal(grouped(x), full(x))


def test_head_dim_is_free() -> None:
    attention = MultiHeadAttention(10, num_heads=3, head_dim=8)
    assert attention.q_proj.weight.shape == (24, 10)
    assert attention(torch.randn(1, 4, 10)).shape == (1, 4, 10)


@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(2), Window(2)], ids=str)
def test_a_mask_is_the_same_given_once_or_at_each_call(mask: Mask) -> None:
    fixed = MultiHeadAttention(8, num_heads=2, mask=mask).double()
    free = MultiHeadAttention(8, num_heads=2).double()
    free.load_state_dict(fixed.state_dict())
    x = randn64(2, 5, 8)
    for given in (mask, mask.table(5), mask.table(5).expand(2, 2, 5, 5)):
        equal(fixed(x), free(x, mask=given))


def test_both_masks_must_allow() -> None:
    attention = MultiHeadAttention(8, num_heads=2, mask=Causal())
    with record(attention, "core.weights") as seen:
        attention(torch.randn(2, 4, 8), mask=Padding([2, 4]))
    at = torch.arange(4)
    allowed = (Causal() & Padding([2, 4]))(at, at).expand(2, 2, 4, 4)
    assert torch.equal(seen["core.weights"] > 0, allowed)


@pytest.mark.parametrize("offset", [0, 3, 1000])
def test_rope_in_attention_knows_distances_only(offset: int) -> None:
    attention = MultiHeadAttention(
        8, num_heads=2, num_kv_heads=1, mask=Causal(), rotary=RoPE()
    ).double()
    x = randn64(2, 5, 8)
    expected = attention(x)
    equal(attention(x, positions=offset), expected, 1e-10)
    equal(attention(x, positions=torch.arange(5) + offset), expected, 1e-10)
    rows = (torch.arange(5) + offset).expand(2, 5)
    equal(attention(x, positions=rows), expected, 1e-10)


@pytest.mark.parametrize("kept", [1, 3])
def test_the_last_tokens_alone_ask_the_same(kept: int) -> None:
    attention = MultiHeadAttention(
        8, num_heads=2, mask=Causal(), rotary=RoPE()
    ).double()
    x = randn64(2, 5, 8)
    newest = attention(x[:, -kept:], x, positions=5 - kept)
    equal(newest, attention(x)[:, -kept:], 1e-10)


def test_left_padding_is_negative_positions() -> None:
    attention = MultiHeadAttention(
        8, num_heads=2, mask=Causal(), rotary=RoPE()
    ).double()
    x = randn64(1, 4, 8)
    padded = torch.cat([torch.full((1, 2, 8), 1e4, dtype=torch.float64), x], dim=1)
    at = torch.arange(6) - 2
    out = attention(padded, positions=at, mask=(at >= 0)[None, None, None])
    equal(out[:, 2:], attention(x), 1e-10)


def test_padding_never_reaches_real_tokens() -> None:
    encoder = Encoder(8, blocks=(part(TransformerBlock, num_heads=2),) * 2).double()
    x = randn64(2, 5, 8)
    noisy = x.clone()
    noisy[0, 3:] = 1e4
    out, disturbed = (encoder(t, mask=Padding([3, 5])) for t in (x, noisy))
    assert torch.equal(out[0, :3], disturbed[0, :3])
    assert torch.equal(out[1], disturbed[1])


def test_rope_makes_order_matter_and_nothing_else_does() -> None:
    order = torch.tensor([2, 0, 1, 3])
    x = randn64(1, 4, 8)
    plain = MultiHeadAttention(8, num_heads=2).double()
    equal(plain(x[:, order]), plain(x)[:, order])
    turned = MultiHeadAttention(8, num_heads=2, rotary=RoPE()).double()
    assert (turned(x[:, order]) - turned(x)[:, order]).abs().max() > 1e-3


@pytest.mark.parametrize("wiring", [PreNormBlock, PostNormBlock])
def test_any_parts_fit(wiring: type[PreNormBlock]) -> None:
    block = wiring(
        8,
        attention=part(MultiHeadAttention, num_heads=2),
        feedforward=part(FeedForward, hidden_dim=16),
        norm=part(RMSNorm),
        dropout=0.5,
    )
    x = torch.randn(1, 4, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_the_layer_gives_its_weights_to_who_watches() -> None:
    layer = TransformerLayer(16, 4, 32).eval()
    with record(layer, "*weights") as seen:
        layer(torch.randn(2, 6, 16), mask=Causal())
    weights = seen["attention.core.weights"]
    assert weights.shape == (2, 4, 6, 6)
    assert (weights.triu(1) == 0).all()


def test_a_norm_at_the_end_of_the_stack() -> None:
    block = part(TransformerBlock, num_heads=2)
    x = torch.randn(1, 4, 8)
    bare = Encoder(8, blocks=(block,))
    normed = Encoder(8, blocks=(block,), norm=part(LayerNorm))
    normed.load_state_dict(bare.state_dict(), strict=False)
    torch.testing.assert_close(normed(x), F.layer_norm(bare(x), (8,)))


def test_layers_may_differ() -> None:
    block = part(TransformerBlock, num_heads=2)
    encoder = Encoder(8, blocks=(block, block.but(hidden_dim=24)))
    widths = [
        p.shape[0] for n, p in encoder.named_parameters() if n.endswith("up_proj.bias")
    ]
    assert widths == [32, 24]


def test_state_survives_pickle_and_meta() -> None:
    recipe = part(Encoder, blocks=(part(TransformerBlock, num_heads=2),) * 2)
    model, x = recipe.build(8), torch.randn(1, 4, 8)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301  # our own bytes
    assert torch.equal(model(x), again(x))
    with torch.device("meta"):
        empty = recipe.build(8)
    empty = empty.to_empty(device=x.device)
    empty.load_state_dict(model.state_dict())
    assert torch.equal(model(x), empty(x))


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiling_whole_changes_nothing() -> None:
    layer = TransformerBlock(16, num_heads=4, mask=Causal())
    x = torch.randn(1, 6, 16)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


def test_the_global_generator_is_left_alone() -> None:
    layer = TransformerBlock(16, num_heads=4)
    x, before = torch.randn(1, 6, 16), torch.get_rng_state()
    layer(x)
    assert torch.equal(before, torch.get_rng_state())
