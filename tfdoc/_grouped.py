"""One product with many matrices: rows sorted by expert, each expert its own weight."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def per_expert(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Multiply the rows of `x` up to each of the `ends` by one matrix after another.

    `x` has shape (N, D), `weight` (E, M, D) and `ends` (E,), int32; the result (N, M).
    """
    if x.is_meta:  # shapes without numbers: one expert stands for all
        return F.linear(x, weight[0])
    if _fits_grouped_mm(x, weight):
        return F.grouped_mm(x, weight.mT, offs=ends)
    if torch.compiler.is_compiling():
        out: Tensor = _opaque(x, weight, ends)
        return out
    return _loop(x, weight, ends)


def _fits_grouped_mm(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's own grouped product takes these: dtype, alignment, no autocast."""
    compiled = torch.compiler.is_compiling() and x.dtype is not torch.bfloat16
    return (
        x.dtype is weight.dtype is not torch.float64
        and all(n * x.element_size() % 16 == 0 for n in weight.shape[1:])
        and not torch.is_autocast_enabled(x.device.type)
        and not compiled
    )


def _split(ends: Tensor) -> list[int]:
    counts: list[int] = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return counts


def _loop(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    # unbind, not weight[e]: the gradient of an index is as large as all experts.
    pairs = zip(x.split(_split(ends)), weight.unbind(), strict=True)
    return torch.cat([F.linear(rows, matrix) for rows, matrix in pairs])


# How many rows an expert has only the numbers know. A compiler gets the loop as one
# operator that it does not look into, and the gradient as another.
_opaque = torch.library.custom_op("tfdoc::per_expert", _loop, mutates_args=())


@torch.library.custom_op("tfdoc::per_expert_gradient", mutates_args=())
def _gradient(
    grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor]:
    rows = list(zip(grad.split(_split(ends)), x.split(_split(ends)), strict=True))
    back = zip(rows, weight.unbind(), strict=True)
    at_x = torch.cat([g @ matrix for (g, _), matrix in back])
    return at_x, torch.stack([g.T @ r for g, r in rows])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    at_x, at_weight = _gradient(grad, *ctx.saved_tensors)
    return at_x, at_weight, None


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


_opaque.register_fake(lambda x, weight, _ends: x.new_empty(len(x), weight.shape[1]))
_gradient.register_fake(
    lambda _grad, x, weight, _ends: (torch.empty_like(x), torch.empty_like(weight))
)
_opaque.register_autograd(_backward, setup_context=_keep)
