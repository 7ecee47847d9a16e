"""What the tests of several components share."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def equal(actual: object, expected: object, tolerance: float = 1e-12) -> None:
    """Compare two tensors to an absolute and relative tolerance."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def drawn(module: M) -> M:
    """Give every parameter random numbers, so that none is a lucky 0 or 1."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module


def gradients(module: nn.Module, out: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return the gradients of one random readout at inputs and parameters."""
    generator = torch.Generator(out.device).manual_seed(1)
    readout = torch.randn(
        out.shape, dtype=out.dtype, device=out.device, generator=generator
    )
    wanted = [*inputs, *module.parameters()]
    return list(torch.autograd.grad((out * readout).sum(), wanted))


def randn64(*shape: int, requires_grad: bool = False) -> Tensor:
    """Draw from a normal distribution in float64."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=requires_grad)
