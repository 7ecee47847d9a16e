"""Normalisation: layer normalisation, RMSNorm, and RMSNorm with an offset."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import flag, positive, positive_int
from tfdoc._rms import rms_norm
from tfdoc._tensor_checks import vectors

__all__ = ["LayerNorm", "RMSNorm", "UnitOffsetRMSNorm"]


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
    weight : bool
        Whether :math:`w` is learned; without it there is none, as in OLMo 1, which has
        no bias either.
    bias : bool
        Whether :math:`b` is learned; without it there is none, as in Cohere's models.

    Raises
    ------
    TypeError, ValueError
        If `embed_dim` or `eps` is no positive number, `weight` or `bias` no bool, or `x`
        no floating-point tensor of width D.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import LayerNorm
    >>> LayerNorm(4)(torch.tensor([1.0, 2.0, 3.0, 4.0])).detach()
    tensor([-1.3416, -0.4472,  0.4472,  1.3416])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        eps: float = 1e-5,
        weight: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.eps = positive("eps", eps)
        scale = torch.ones(embed_dim) if flag("weight", weight) else None
        shift = torch.zeros(embed_dim) if flag("bias", bias) else None
        self.weight = None if scale is None else nn.Parameter(scale)
        self.bias = None if shift is None else nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (..., D); the shape stays."""
        vectors("x", x, self.embed_dim)
        return F.layer_norm(x, (self.embed_dim,), self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        shown = f"{self.embed_dim}, eps={self.eps}, bias={self.bias is not None}"
        return shown if self.weight is not None else f"{shown}, weight=False"


class RMSNorm(nn.Module):
    r"""Root mean square normalisation: a vector's size goes, its mean stays.

    .. math:: y = \frac{x}{\sqrt{\operatorname{mean}(x^2) + \epsilon}} \odot w

    No mean is subtracted and nothing is added (Zhang and Sennrich 2019,
    arXiv:1910.07467). The sum of squares and the product with the weight are taken in
    float32 or better and rounded once, like :class:`torch.nn.RMSNorm` and OLMo 2;
    Hugging Face's Llama rounds before the weight as well, which differs in half
    precision.

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
        self.weight = nn.Parameter(self._fresh_weight())

    def _fresh_weight(self) -> Tensor:
        return torch.ones(self.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (..., D); the shape stays."""
        vectors("x", x, self.embed_dim)
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, eps={self.eps}"


class UnitOffsetRMSNorm(RMSNorm):
    r"""The RMSNorm of Gemma: its weight is what the scale differs from 1 by.

    .. math:: y = \frac{x}{\sqrt{\operatorname{mean}(x^2) + \epsilon}} \odot (1 + w)

    The weight starts at 0, so weight decay pulls the scale to 1 instead of 0. The sum
    and the product are taken in float32 or better and rounded once, as in Gemma's code
    (Gemma Team 2024, arXiv:2403.08295).

    Parameters
    ----------
    embed_dim : int
        Width D of a vector.
    eps : float
        Added to the mean square.

    Raises
    ------
    TypeError, ValueError
        If a setting is no positive number, or `x` no floating-point tensor of width D.

    Notes
    -----
    A checkpoint of Gemma loaded into :class:`RMSNorm` runs without an error, with
    scales that are all 1 too small.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import UnitOffsetRMSNorm
    >>> norm = UnitOffsetRMSNorm(2)
    >>> norm.weight.tolist(), norm(torch.tensor([3.0, 4.0])).detach()
    ([0.0, 0.0], tensor([0.8485, 1.1314]))
    """

    def _fresh_weight(self) -> Tensor:
        return torch.zeros(self.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (..., D); the shape stays."""
        vectors("x", x, self.embed_dim)
        # In bfloat16 there is no number between 1 and 1.0078: add in float32.
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        return rms_norm(x, 1 + self.weight.to(exact), self.eps)
