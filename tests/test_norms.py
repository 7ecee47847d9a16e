"""Norms: the written-out backward, every transform of it, precision, and peers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, vmap
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from tests import loops
from tests.helpers import drawn, equal, gradients, randn64
from tfdoc import (
    Encoder,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
    PreNormBlock,
    RMSNorm,
    UnitOffsetRMSNorm,
    part,
    rehearse,
)
from tfdoc._rms import plain_rms_norm, rms_norm

# Forward-mode derivatives of torch itself import torch.jit.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
SHAPES = pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)], ids=str)


@FORWARD_MODE
@SHAPES
def test_the_backward_is_the_derivative_of_the_forward(shape: tuple[int, ...]) -> None:
    x, weight = randn64(*shape, requires_grad=True), randn64(5, requires_grad=True)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, 1e-3)

    assert gradcheck(
        norm,
        (x, weight),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    for inputs in ((x, weight), (x.detach(), weight), (x, weight.detach())):
        assert gradgradcheck(norm, inputs)


@SHAPES
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_written_out_equals_plain_and_torch(
    shape: tuple[int, ...], scale: float
) -> None:
    x, weight = randn64(*shape) * scale, randn64(5, requires_grad=True)
    x.requires_grad_()
    readout = randn64(*shape)
    plain = plain_rms_norm(x, weight, 1e-5)
    theirs = F.rms_norm(x, (5,), weight, 1e-5)
    equal(plain, theirs)
    expected = torch.autograd.grad((theirs * readout).sum(), (x, weight))
    for again in (False, True):  # the form in place, and the one that differentiates
        ours = rms_norm(x, weight, 1e-5)
        equal(ours, theirs)
        mine = torch.autograd.grad(
            (ours * readout).sum(), (x, weight), create_graph=again
        )
        equal(mine, expected)
    with torch.no_grad():
        equal(rms_norm(x, weight, 1e-5), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("Norm", [RMSNorm, UnitOffsetRMSNorm])
def test_half_precision_keeps_its_dtypes(
    Norm: type[RMSNorm], dtype: torch.dtype
) -> None:
    half, precise = drawn(Norm(64)).to(dtype), Norm(64).double()
    precise.load_state_dict(half.state_dict())
    x, readout = torch.randn(2, 8, 64).to(dtype)
    mine = torch.autograd.grad(
        (half(x.requires_grad_()) * readout).sum(), (x, half.weight)
    )
    y = x.detach().double().requires_grad_()
    expected = torch.autograd.grad((precise(y) * readout).sum(), (y, precise.weight))
    for a, b in zip(mine, expected, strict=True):
        assert a.dtype is dtype
        assert (a.double() - b).norm() / b.norm() < torch.finfo(dtype).eps


def test_three_hundreds_in_half_precision_are_ones() -> None:
    for Norm in (RMSNorm, UnitOffsetRMSNorm):
        for enabled in (False, True):
            with torch.set_grad_enabled(enabled):
                y = Norm(8).half()(torch.full((1, 8), 300.0).half())
            assert (y == 1).all()


def test_zeros_have_finite_derivatives() -> None:
    norm, x = RMSNorm(4), torch.zeros(2, 4, requires_grad=True)
    (first,) = torch.autograd.grad(norm(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    torch.testing.assert_close(first, torch.full((2, 4), 1e3))
    assert second.isfinite().all()


@pytest.mark.compiles
def test_compiled_and_exported_it_is_the_same() -> None:
    norm, x = drawn(RMSNorm(8)), torch.randn(2, 3, 8, requires_grad=True)
    compiled: Any = torch.compile(norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), norm(x))
    torch.testing.assert_close(
        gradients(norm, compiled(x), x), gradients(norm, norm(x), x)
    )
    exported = torch.export.export(norm, (x.detach(),)).module()
    torch.testing.assert_close(exported(x), norm(x))


@FORWARD_MODE
def test_transforms_of_functions_go_through_it() -> None:
    norm, x = drawn(RMSNorm(8).double()), randn64(4, 3, 8)
    equal(vmap(norm)(x), norm(x))
    weights = {"weight": norm.weight.detach()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(norm, weights, (x,))
        return y.square().sum()

    per_sample = vmap(grad(loss), (None, 0))(weights, x)["weight"]
    equal(per_sample.sum(0), grad(loss)(weights, x)["weight"])
    stacked = {"weight": randn64(6, 8)}
    losses = vmap(loss, (0, None))(stacked, x)
    equal(losses[2], loss({"weight": stacked["weight"][2]}, x))
    curvature = hessian(lambda x: norm(x).square().sum())(x[0, 0])
    equal(curvature, curvature.T)


def test_the_counters_see_no_products_and_one_number_a_token() -> None:
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    watch = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
    with torch.device("meta"), watch, FlopCounterMode(display=False) as counter:
        norm, x = RMSNorm(8), torch.empty(5, 8, requires_grad=True)
        norm(x).sum().backward()
    assert counter.get_total_flops() == 0
    own = {norm.weight.numel(), x.numel()}
    assert [t.numel() for t in kept if t.numel() not in own] == [5]


def test_a_rehearsal_of_a_stack_with_it() -> None:
    block = part(
        PreNormBlock,
        attention=part(MultiHeadAttention, num_heads=2, qk_norm=part(RMSNorm)),
        feedforward=part(FeedForward, hidden_dim=32),
        norm=part(RMSNorm),
    )
    encoder = Encoder(16, blocks=(block,) * 2, norm=part(RMSNorm))
    step = rehearse(encoder, torch.empty(2, 8, 16), loss=torch.Tensor.sum)
    matrices = sum(p.numel() for p in encoder.parameters() if p.ndim == 2)
    scores = 2 * 2 * 2 * 2 * 8 * 8 * 16  # two layers, two products
    assert step.flops[0] == 2 * 16 * matrices + scores


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_an_offset_norm_is_the_loop(eps: float) -> None:
    x, norm = randn64(5, 7), drawn(UnitOffsetRMSNorm(7, eps=eps).double())
    equal(norm(x), loops.rms_norm(x, eps).to(x) * (1 + norm.weight))


def test_a_bare_layer_norm_is_the_loop() -> None:
    norm, x = LayerNorm(7, weight=False, bias=False), randn64(5, 7)
    assert list(norm.parameters()) == []
    equal(norm(x), loops.layer_norm(x, 1e-5).to(x))
    assert repr(norm) == "LayerNorm(7, eps=1e-05, bias=False, weight=False)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (UnitOffsetRMSNorm(64, eps=1e-3), Gemma2RMSNorm(64, eps=1e-3)),
        (RMSNorm(64, eps=1e-3), Olmo2RMSNorm(64, eps=1e-3)),
        (LayerNorm(64, bias=False), CohereLayerNorm(64)),
        (LayerNorm(64, weight=False, bias=False), OlmoLayerNorm(64)),
    ],
    ids=["Gemma", "OLMo 2", "Cohere", "OLMo"],
)
def test_norms_equal_those_of_hugging_face(
    ours: nn.Module, theirs: nn.Module, dtype: torch.dtype
) -> None:
    device = torch.get_default_device()
    theirs, ours = drawn(theirs.to(device, dtype)), ours.to(device, dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 64).to(dtype)
    # Both round once; the order of a sum may move one of the last bits.
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(ours(x), theirs(x), rtol=2 * rounding, atol=rounding)


@pytest.mark.parametrize("shape", [(3, 1, 8), (3, 1, 2, 8), (3, 2, 8)])
@pytest.mark.parametrize("kind", [RMSNorm, UnitOffsetRMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_token_is_normalised_like_many(
    shape: tuple[int, ...], kind: type[RMSNorm], dtype: torch.dtype
) -> None:
    """Decoding calls torch's own norm, which warns where the weight is float32."""
    norm, x = kind(8, eps=0.1), torch.randn(shape).to(dtype)
    norm.weight.data.normal_()
    weight = norm.weight if kind is RMSNorm else 1 + norm.weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = norm(x)
    assert out.dtype is dtype
    torch.testing.assert_close(out, plain_rms_norm(x, weight, 0.1))
