"""The linear layer that takes one token in parts: torch's numbers on every way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, export
from torch.utils._python_dispatch import TorchDispatchMode

from tfdoc import GatedFeedForward, MultiHeadAttention, RoPE
from tfdoc._linear import Linear, linear


class Operations(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("out", [1, 8, 24, 50])
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 1), (3, 1), (64, 1), (65, 1), (0, 1), (1, 2), (1,), (2, 1, 1)]
)
def test_it_is_the_linear_layer_of_torch(
    shape: tuple[int, ...], out: int, bias: bool
) -> None:
    layer = Linear(48, out, bias)
    x = torch.randn(*shape, 48, requires_grad=True)
    exact = F.linear(*(p.double() for p in (x, *layer.parameters())))
    assert layer(x).is_contiguous()
    torch.testing.assert_close(layer(x), exact.float(), atol=1e-6, rtol=1e-5)
    wanted = torch.autograd.grad(exact.sum(), (x, layer.weight))
    got = torch.autograd.grad(layer(x).sum(), (x, layer.weight))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(48, 16).T,
        lambda: torch.randn(16, 48).double(),
        lambda: torch.randn(16, 48).bfloat16(),
        lambda: torch.randn(16, 4096),
    ],
    ids=["transposed", "float64", "bfloat16", "wide"],
)
def test_other_weights_take_the_one_product(make: Callable[[], Tensor]) -> None:
    """In parts a transposed matrix is ten times slower, a wide one slower."""
    weight = make()
    x = torch.randn(1, 1, weight.shape[1]).to(weight.dtype)
    with Operations() as seen:
        out = linear(x, weight)
    assert torch.equal(out, F.linear(x, weight))
    assert "bmm" not in seen.names
    with Operations() as seen:
        linear(x[..., :16].float(), weight[:, :16].float().contiguous())
    assert ("bmm" in seen.names) == (x.device.type == "cpu")


def test_a_wrong_width_is_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Linear(16, 8)(torch.randn(1, 1, 8))


@pytest.mark.compiles
def test_a_compiler_sees_one_product_and_any_batch() -> None:
    layer, x = Linear(16, 8), torch.randn(3, 1, 16)
    program = export(layer, (x,), dynamic_shapes=({0: Dim("batch")},))
    names = {str(node.target) for node in program.graph.nodes}
    assert "aten.linear.default" in names
    assert not any("bmm" in name for name in names)
    for batch in (2, 7):
        x = torch.randn(batch, 1, 16)
        torch.testing.assert_close(program.module()(x), layer(x))


def test_adapters_find_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ffn = GatedFeedForward(16, hidden_dim=32)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.ffn(x)
            return out

    model, x = Model(), torch.randn(1, 1, 16)
    before = model(x)
    config = peft.LoraConfig(target_modules=["up_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(model), config)
    assert not adapted(x).allclose(before)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(x), adapted(x))


def test_projections_may_leave_any_strides() -> None:
    """What stands in a projection's place may hand on a transposed tensor."""

    class Transposed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mT.contiguous().mT

    attention = MultiHeadAttention(16, num_heads=2, rotary=RoPE())
    x = torch.randn(2, 5, 16)
    expected = attention(x)
    transposed = Transposed(16, 16)
    transposed.load_state_dict(attention.q_proj.state_dict())
    attention.add_module("q_proj", transposed)
    torch.testing.assert_close(attention(x), expected)
