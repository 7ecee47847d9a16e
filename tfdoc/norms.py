"""Normalisation: layer normalisation and RMSNorm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import positive, positive_int
from tfdoc._tensor_checks import vectors

__all__ = ["LayerNorm", "RMSNorm"]


class LayerNorm(nn.Module):
    r"""Layer normalisation: each token gets mean 0 and variance 1, then its own scale.

    .. math:: y = \frac{x - \operatorname{mean}(x)}{\sqrt{\operatorname{var}(x) + \epsilon}}
              \odot w + b

    Mean and variance are taken over the last dimension; the variance divides by D,
    not by D - 1, and :math:`\epsilon` stands inside the root (Ba et al. 2016,
    arXiv:1607.06450). Equal to :class:`torch.nn.LayerNorm`.

    Parameters
    ----------
    embed_dim : int
        Width D of a vector.
    eps : float
        Added to the variance.
    bias : bool
        Whether :math:`b` is learned; without it there is none.

    Raises
    ------
    TypeError, ValueError
        If a setting is no positive number, or `x` no floating-point tensor of width D.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import LayerNorm
    >>> LayerNorm(4)(torch.tensor([1.0, 2.0, 3.0, 4.0])).detach()
    tensor([-1.3416, -0.4472,  0.4472,  1.3416])
    """

    def __init__(self, embed_dim: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.eps = positive("eps", eps)
        self.weight = nn.Parameter(torch.ones(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (..., D); the shape stays."""
        vectors("x", x, self.embed_dim)
        return F.layer_norm(x, (self.embed_dim,), self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, eps={self.eps}, bias={self.bias is not None}"


class RMSNorm(nn.Module):
    r"""Root mean square normalisation: a vector's size goes, its mean stays.

    .. math:: y = \frac{x}{\sqrt{\operatorname{mean}(x^2) + \epsilon}} \odot w

    No mean is subtracted and nothing is added (Zhang and Sennrich 2019,
    arXiv:1910.07467). The sum of squares and the product with the weight are taken in
    float32 or better and rounded once, like :class:`torch.nn.RMSNorm`; Hugging Face's
    Llama rounds before the weight as well, which differs in half precision.

    Parameters
    ----------
    embed_dim : int
        Width D of a vector.
    eps : float
        Added to the mean square. Llama 1 and T5 use 1e-6, later Llamas 1e-5.

    Raises
    ------
    TypeError, ValueError
        If a setting is no positive number, or `x` no floating-point tensor of width D.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import RMSNorm
    >>> RMSNorm(2)(torch.tensor([3.0, 4.0])).detach()
    tensor([0.8485, 1.1314])
    """

    def __init__(self, embed_dim: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.eps = positive("eps", eps)
        self.weight = nn.Parameter(torch.ones(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (..., D); the shape stays."""
        vectors("x", x, self.embed_dim)
        exact = x if x.dtype is torch.float64 else x.float()
        # A norm instead of x.square(): no second tensor of the size of x.
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scale = torch.rsqrt(length.square() / self.embed_dim + self.eps)
        return (exact * scale * self.weight).type_as(x)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, eps={self.eps}"
