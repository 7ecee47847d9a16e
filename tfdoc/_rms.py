"""RMS normalisation as a function: the plain form, and one with its backward written out.

Autograd's own backward keeps and makes several tensors of the size of `x`. By hand, with r
for one over the size of a vector and g for the gradient of y = x r w, the gradients are

    of w:  the sum over all vectors of  g r x
    of x:  g r w - x r^2 mean(g r x w)

so that one number a vector, r, is all that the forward pass has to keep besides its
inputs. Under `torch.compile` and `torch.export` the plain form serves, which compilers
fuse by themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each vector of `x`, shape (..., D), by its size; multiply by `weight`."""
    # A token a row, as in decoding: the fewest calls are fastest, not the fewest numbers.
    if x.ndim > 2 and x.shape[1] == 1 and x.dtype is weight.dtype:
        return torch.rms_norm(x, weight.shape, weight, eps)
    if torch.compiler.is_compiling():
        return plain_rms_norm(x, weight, eps)
    if not torch.is_grad_enabled():  # a call of a Function costs more than a short norm
        return _in_place(x, weight, eps)[0]
    out: Tensor = _WrittenOut.apply(x, weight, eps)[0]  # type: ignore[no-untyped-call]
    return out


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute the same, step by step."""
    exact = _exact(x)
    return (exact * _over_size(exact, eps) * weight).type_as(x)


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _over_size(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _in_place(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return y and r, with one new tensor of the size of `x`."""
    exact = _exact(x)
    # A norm instead of x.square(), which would be a second one.
    length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    r = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (exact * r).mul_(weight).type_as(x), r


class _WrittenOut(torch.autograd.Function):
    """Return y and r; the second is there to be kept, and has no gradient."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return _in_place(x, weight, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, ctx.eps = inputs
        ctx.save_for_backward(x, weight, output[1])
        ctx.save_for_forward(x, weight)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        exact, g = _exact(x), _exact(g)
        if torch.is_grad_enabled():  # for second derivatives: nothing in place
            r = _over_size(exact, ctx.eps)
            gr = g * r
            grx = gr * exact
            of_weight = grx.reshape(-1, x.shape[-1]).sum(0)
            mean = (grx * weight).mean(-1, keepdim=True)
            of_x = gr * weight - exact * mean * r.square()
        else:
            gr = g * r
            of_x = gr * weight
            grx = gr.mul_(exact)
            of_weight = grx.reshape(-1, x.shape[-1]).sum(0)
            mean = grx.mul_(weight).mean(-1, keepdim=True)
            of_x.addcmul_(exact, mean.mul_(r.square()), value=-1)
        return of_x.type_as(x), of_weight.type_as(weight), None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, weight_t: Tensor, _: None) -> tuple[Tensor, None]:
        x, weight = ctx.saved_tensors
        exact, x_t = _exact(x), _exact(x_t)
        r = _over_size(exact, ctx.eps)
        n = exact * r
        n_t = r * (x_t - n * (x_t * n).mean(-1, keepdim=True))
        return (n_t * weight + n * weight_t).type_as(x), None

    @staticmethod
    def vmap(_: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
        def both(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
            r = _over_size(_exact(x), eps)
            return (_exact(x) * r * weight).type_as(x), r

        return torch.vmap(both, in_dims)(*inputs), (0, 0)
