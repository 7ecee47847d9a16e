"""Scaled dot-product attention: loops, parity, masks, empty rows, properties."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import loops
from tests.helpers import equal
from tfdoc import (
    Causal,
    DotProductCore,
    Mask,
    Window,
    attention,
    fused_attention,
    record,
)

Form = Callable[..., Tensor]
FORMS = pytest.mark.parametrize("form", [attention, fused_attention])
# A row that sees nothing, one that sees everything, and some in between.
HOLES = [[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@FORMS
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_loop(form: Form, masked: bool) -> None:
    query, key, value = draw(3, 5), draw(4, 5), draw(4, 2)
    allowed = torch.tensor(HOLES).bool() if masked else None
    expected = loops.attention(query, key, value, allowed).to(query.device)
    equal(form(query, key, value, allowed).detach(), expected)


MASKS = [
    None,
    Causal(),
    Causal() & Window(2),
    ~Window(1),
]


@FORMS
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_it_equals_torch_with_gradients(form: Form, mask: Mask | None) -> None:
    query, key, value = draw(2, 3, 6, 4), draw(2, 3, 6, 4), draw(2, 3, 6, 4)
    table = None if mask is None else mask.table(6)
    out = form(query, key, value, mask)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=table)
    equal(out, expected)
    readout = torch.randn_like(out)
    inputs = (query, key, value)
    ours = torch.autograd.grad(out, inputs, readout)
    theirs = torch.autograd.grad(expected, inputs, readout)
    for mine, other in zip(ours, theirs, strict=True):
        equal(mine, other)


@FORMS
def test_scale_is_the_factor_of_the_scores(form: Form) -> None:
    q, k, v = draw(1, 2, 3, 4), draw(1, 2, 3, 4), draw(1, 2, 3, 4)
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    equal(form(q, k, v, scale=0.3), expected)


@FORMS
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_groups_share_neighbouring_heads(form: Form, heads: int) -> None:
    query, key, value = draw(2, 4, 5, 4), draw(2, heads, 5, 4), draw(2, heads, 5, 4)
    out = form(query, key, value, Causal())
    for h in range(4):
        shared = h * heads // 4
        one = form(query[:, h], key[:, shared], value[:, shared], Causal())
        equal(out[:, h], one)


@FORMS
def test_queries_are_the_last_of_the_keys(form: Form) -> None:
    query, key, value = draw(1, 1, 6, 4), draw(1, 1, 6, 4), draw(1, 1, 6, 4)
    full = form(query, key, value, Causal())
    for kept in (1, 3):
        equal(form(query[:, :, -kept:], key, value, Causal()), full[:, :, -kept:])


@FORMS
@pytest.mark.parametrize("training", [False, True])
def test_a_row_that_sees_nothing_is_zero(form: Form, training: bool) -> None:
    query, key, value = draw(2, 2, 3, 4), draw(2, 2, 4, 4), draw(2, 2, 4, 4)
    allowed = torch.tensor(HOLES).bool()
    out = form(query, key, value, allowed, dropout=0.5 if training else 0.0)
    assert (out[:, :, 1] == 0).all()
    gradients = torch.autograd.grad(out.square().sum(), (query, key, value))
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][:, :, 1] == 0).all()


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_core_is_silent_about_empty_rows_too(watched: bool, training: bool) -> None:
    core = DotProductCore(dropout=0.5).train(training)
    query, key, value = draw(1, 2, 3, 4), draw(1, 2, 4, 4), draw(1, 2, 4, 4)
    allowed = torch.tensor(HOLES).bool()
    if watched:
        with record(core, "weights") as seen:
            out = core(query, key, value, allowed)
        assert (seen["weights"][:, :, 1] == 0).all()
    else:
        out = core(query, key, value, allowed)
    assert (out[:, :, 1] == 0).all()
    (gradient,) = torch.autograd.grad(out.sum(), query)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_watching_changes_nothing(mask: Mask | None) -> None:
    core = DotProductCore()
    query, key, value = draw(2, 4, 6, 4), draw(2, 2, 6, 4), draw(2, 2, 6, 4)
    with record(core, "*") as seen:
        out = core(query, key, value, mask)
    equal(out, core(query, key, value, mask))
    weights, scores = seen["weights"], seen["scores"]
    equal(weights.sum(-1), torch.ones_like(weights[..., 0]))
    key = key.repeat_interleave(2, dim=1)
    equal(scores, query @ key.mT / 2)
    if mask is not None:
        assert (weights[..., ~mask.table(6)] == 0).all()


@FORMS
def test_no_dropout_unless_asked(form: Form) -> None:
    q, k, v = draw(1, 2, 6, 4), draw(1, 2, 6, 4), draw(1, 2, 6, 4)
    assert torch.equal(form(q, k, v), form(q, k, v))
    assert not torch.equal(form(q, k, v, dropout=0.5), form(q, k, v, dropout=0.5))


@pytest.mark.parametrize("watched", [False, True])
def test_the_core_drops_in_training_only(watched: bool) -> None:
    core, x = DotProductCore(dropout=0.5), torch.randn(1, 2, 16, 4)

    def run() -> Tensor:
        out: Tensor
        if not watched:
            out = core(x, x, x)
            return out
        with record(core, "weights"):
            out = core(x, x, x)
        return out

    assert not torch.equal(run(), run())
    core.eval()
    assert torch.equal(run(), run())


def test_dropout_keeps_the_mean() -> None:
    x = torch.randn(1, 1, 4, 4)
    v = torch.ones(1, 1, 4, 4)
    many = torch.stack([attention(x, x, v, dropout=0.5) for _ in range(500)])
    torch.testing.assert_close(many.mean(0), v, rtol=0, atol=0.2)
    assert many.std() > 0.1


@FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_scores_in_half_precision_stay_finite(
    form: Form, dtype: torch.dtype
) -> None:
    x = (torch.randn(1, 1, 8, 64) * 30).to(dtype)
    out = form(x, x, x, Causal())
    assert out.dtype is dtype
    assert out.isfinite().all()


@FORMS
@pytest.mark.parametrize("batch", [0, 1])
def test_empty_batches_and_single_tokens(form: Form, batch: int) -> None:
    x = torch.randn(batch, 2, 1, 4)
    equal(form(x, x, x, Causal()), x, 1e-6)


SIZES = st.integers(1, 7)


@given(queries=SIZES, more=st.integers(0, 5), seed=st.integers(0, 1000))
def test_the_future_changes_nothing(queries: int, more: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 2, queries + more, 4, generator=generator, device="cpu")
    for form in (attention, fused_attention):
        long = form(x, x, x, Causal())[:, :, :queries]
        x_short = x[:, :, :queries]
        equal(long, form(x_short, x_short, x_short, Causal()), 1e-5)


@given(size=SIZES, seed=st.integers(0, 1000))
def test_order_means_nothing_without_positions(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 1, 1, size, 4, generator=generator, device="cpu")
    order = torch.randperm(size, generator=generator, device="cpu")
    for form in (attention, fused_attention):
        out = form(q, k, v)
        equal(form(q[:, :, order], k, v), out[:, :, order], 1e-5)
        equal(form(q, k[:, :, order], v[:, :, order]), out, 1e-5)


@given(size=st.integers(1, 12), window=st.integers(1, 12))
def test_exact_and_fused_agree_on_any_window(size: int, window: int) -> None:
    q, k, v = torch.randn(3, 1, 2, size, 4, device="cpu")
    mask = Causal() & Window(window)
    equal(attention(q, k, v, mask), fused_attention(q, k, v, mask), 1e-5)


def test_gradcheck() -> None:
    inputs = (draw(1, 2, 3, 2), draw(1, 1, 3, 2), draw(1, 1, 3, 2))
    assert torch.autograd.gradcheck(
        lambda q, k, v: attention(q, k, v, Causal()), inputs
    )


def test_inputs_stay_as_they_were() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    before = torch.stack([q, k, v])
    for form in (attention, fused_attention):
        form(q, k, v, Causal())
    assert torch.equal(before, torch.stack([q, k, v]))
