"""Norms, feed-forward networks and rotary positions: loops, parity, precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import loops
from tests.helpers import drawn, equal, gradients
from tfdoc import (
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    RMSNorm,
    RoPE,
    from_torch,
)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm_is_the_loop(eps: float) -> None:
    x = torch.randn(5, 7, dtype=torch.float64)
    norm = drawn(LayerNorm(7, eps=eps).double())
    assert norm.weight is not None
    assert norm.bias is not None
    expected = loops.layer_norm(x, eps).to(x) * norm.weight + norm.bias
    equal(norm(x), expected)


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_rms_norm_is_the_loop(eps: float) -> None:
    x = torch.randn(5, 7, dtype=torch.float64)
    norm = drawn(RMSNorm(7, eps=eps).double())
    expected = loops.rms_norm(x, eps).to(x) * norm.weight
    equal(norm(x), expected)


@pytest.mark.parametrize(
    "theirs",
    [
        nn.LayerNorm(16),
        nn.LayerNorm(16, eps=1e-2, bias=False),
        nn.RMSNorm(16),
        nn.RMSNorm(16, eps=1e-3),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_norms_equal_torch(theirs: nn.Module, scale: float) -> None:
    theirs = drawn(theirs.to(torch.get_default_device()).double())
    ours = from_torch(theirs)
    x = torch.randn(3, 5, 16, dtype=torch.float64).mul(scale).requires_grad_()
    out, expected = ours(x), theirs(x)
    equal(out, expected)
    pairs = zip(gradients(ours, out, x), gradients(theirs, expected, x), strict=True)
    for mine, other in pairs:
        equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rms_norm_without_eps_equals_torch_in_half_precision(
    dtype: torch.dtype,
) -> None:
    theirs = nn.RMSNorm(64).to(torch.get_default_device(), dtype)
    x = torch.randn(3, 64).mul(1e-4).to(dtype)  # small enough to feel the eps
    torch.testing.assert_close(from_torch(theirs)(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("Norm", [LayerNorm, RMSNorm])
def test_norms_survive_half_precision(
    Norm: Callable[[int], nn.Module], dtype: torch.dtype
) -> None:
    # 300 squared is more than float16 can hold.
    x = torch.full((1, 8), 300.0, dtype=dtype)
    x[0, ::2] *= -1
    out = Norm(8).to(dtype)(x)
    assert out.dtype is dtype
    torch.testing.assert_close(out.abs(), torch.ones_like(x), rtol=0, atol=1e-2)


def test_rms_norm_rounds_once_like_torch() -> None:
    x = torch.randn(64, 256).bfloat16()
    ours = drawn(RMSNorm(256, eps=1e-6)).bfloat16()
    theirs = F.rms_norm(x, (256,), ours.weight, 1e-6)
    assert torch.equal(ours(x), theirs)


def test_norms_in_a_stack_keep_float64() -> None:
    assert (
        RMSNorm(4).double()(torch.ones(4, dtype=torch.float64)).dtype is torch.float64
    )


def test_feed_forward_is_the_loop() -> None:
    ffn = FeedForward(3, hidden_dim=5).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    hidden = x @ ffn.up_proj.weight.T + ffn.up_proj.bias
    table = [[loops.gelu(v) for v in row] for row in hidden.tolist()]
    expected = torch.tensor(table, dtype=x.dtype) @ ffn.down_proj.weight.T
    equal(ffn(x), expected + ffn.down_proj.bias)


def test_gated_feed_forward_is_the_loop() -> None:
    ffn = GatedFeedForward(3, hidden_dim=5).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    gate = [
        [loops.silu(v) for v in row] for row in (x @ ffn.gate_proj.weight.T).tolist()
    ]
    hidden = torch.tensor(gate, dtype=x.dtype) * (x @ ffn.up_proj.weight.T)
    equal(ffn(x), hidden @ ffn.down_proj.weight.T)


@pytest.mark.parametrize("activation", [F.gelu, F.relu, F.silu, torch.tanh])
def test_the_activation_is_the_one_given(
    activation: Callable[[Tensor], Tensor],
) -> None:
    x = torch.randn(4, 3)
    plain = FeedForward(3, hidden_dim=5, activation=activation)
    torch.testing.assert_close(plain(x), plain.down_proj(activation(plain.up_proj(x))))
    gated = GatedFeedForward(3, hidden_dim=5, activation=activation, bias=True)
    hidden = activation(gated.gate_proj(x)) * gated.up_proj(x)
    torch.testing.assert_close(gated(x), gated.down_proj(hidden))


@pytest.mark.parametrize("Network", [FeedForward, GatedFeedForward])
def test_tokens_do_not_see_each_other(Network: type[FeedForward]) -> None:
    network, x = Network(8, hidden_dim=16), torch.randn(2, 5, 8)
    order = torch.randperm(5)
    torch.testing.assert_close(network(x[:, order]), network(x)[:, order])


@pytest.mark.parametrize("Network", [FeedForward, GatedFeedForward])
def test_dropout_is_off_in_evaluation(Network: type[FeedForward]) -> None:
    network, x = Network(8, hidden_dim=64, dropout=0.5), torch.randn(2, 5, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("base", [10_000.0, 500_000])
def test_rope_is_the_loop(base: float) -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = [0, 1, 2, 1000, 131_072]
    out = RoPE(base=base)(x, torch.tensor(positions))
    for b in range(2):
        for h in range(3):
            expected = loops.rope(x[b, h], positions, base).to(x)
            torch.testing.assert_close(out[b, h], expected, rtol=0, atol=1e-10)


def test_rope_takes_positions_per_row() -> None:
    x = torch.randn(2, 3, 4, 8)
    rows = torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    out = RoPE()(x, rows)
    for b in range(2):
        torch.testing.assert_close(out[b : b + 1], RoPE()(x[b : b + 1], rows[b]))


@pytest.mark.parametrize("shift", [1, 100, 100_000])
def test_rope_sees_distances_only_and_keeps_lengths(shift: int) -> None:
    q, k = torch.randn(2, 1, 1, 6, 16, dtype=torch.float64)
    at = torch.arange(6)
    scores = RoPE()(q, at) @ RoPE()(k, at).mT
    shifted = RoPE()(q, at + shift) @ RoPE()(k, at + shift).mT
    torch.testing.assert_close(scores, shifted, rtol=0, atol=1e-9)
    torch.testing.assert_close(RoPE()(q, at + shift).norm(dim=-1), q.norm(dim=-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rope_angles_are_exact_in_every_precision(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 1, 1, 2, dtype=dtype)
    x[..., 0] = 1
    at = torch.tensor([131_071])
    expected = torch.polar(torch.ones(1).double(), at.double())
    out = RoPE()(x, at)[0, 0]
    assert out.dtype is dtype
    precise = torch.view_as_real(expected).to(dtype)
    torch.testing.assert_close(out, precise, rtol=0, atol=1e-6)
