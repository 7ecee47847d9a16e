"""Norms of queries and keys that know how many heads there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tfdoc._checks import positive_int
from tfdoc._tensor_checks import vectors
from tfdoc.norms import RMSNorm
from tfdoc.parts import Part, part

__all__ = ["AcrossHeads", "EachHead"]


class AcrossHeads(nn.Module):
    r"""One norm over the numbers of all heads together: the QK-norm of OLMo 2.

    .. math:: [y_1; \ldots; y_H] = \operatorname{norm}([x_1; \ldots; x_H])

    Heads share one size, so a head may still be louder than the others (OLMo team 2024,
    arXiv:2501.00656). For ``MultiHeadAttention(qk_norm=...)``, which tells it how many
    heads there are; a plain norm there works on each head alone, with one weight for all
    heads (Qwen3, Gemma 3).

    Parameters
    ----------
    head_dim : int
        Width d of a head.
    num_heads : int
        H; attention sets it, for queries and for keys.
    norm : Part
        Built for width H d.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, `norm` is not a part, or `x` has another shape.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import AcrossHeads, MultiHeadAttention, part
    >>> attention = MultiHeadAttention(
    ...     64, num_heads=8, num_kv_heads=2, qk_norm=part(AcrossHeads)
    ... )
    >>> attention.q_norm.norm.weight.shape, attention.k_norm.norm.weight.shape
    (torch.Size([64]), torch.Size([16]))
    """

    def __init__(
        self,
        head_dim: int,
        *,
        num_heads: int = 1,
        norm: Part[nn.Module] = part(RMSNorm),
    ) -> None:
        super().__init__()
        self.head_dim = positive_int("head_dim", head_dim)
        self.num_heads = positive_int("num_heads", num_heads)
        self.norm = _part(norm).build(num_heads * head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (..., H, d); the shape stays."""
        _heads(x, self.num_heads, self.head_dim)
        out: Tensor = self.norm(x.flatten(-2))
        return out.reshape(x.shape)


class EachHead(nn.Module):
    r"""A norm of its own for each head: the QK-norm of StableLM 2 and of Cohere.

    .. math:: y_h = \operatorname{norm}_h(x_h)

    For ``MultiHeadAttention(qk_norm=...)``, which tells it how many heads there are; a
    plain norm there shares one weight between the heads. (Head-wise norms: Dehghani et
    al. 2023, arXiv:2302.05442.)

    Parameters
    ----------
    head_dim : int
        Width d of a head.
    num_heads : int
        H; attention sets it, for queries and for keys.
    norm : Part
        Built H times, for width d.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, `norm` is not a part, or `x` has another shape.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import EachHead, LayerNorm, MultiHeadAttention, part
    >>> qk_norm = part(EachHead, norm=part(LayerNorm, bias=False))
    >>> attention = MultiHeadAttention(64, num_heads=8, num_kv_heads=2, qk_norm=qk_norm)
    >>> len(attention.q_norm.norms), len(attention.k_norm.norms)
    (8, 2)
    """

    def __init__(
        self,
        head_dim: int,
        *,
        num_heads: int = 1,
        norm: Part[nn.Module] = part(RMSNorm),
    ) -> None:
        super().__init__()
        self.head_dim = positive_int("head_dim", head_dim)
        self.num_heads = positive_int("num_heads", num_heads)
        recipe = _part(norm)
        self.norms = nn.ModuleList(recipe.build(head_dim) for _ in range(num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, shape (..., H, d); the shape stays."""
        _heads(x, self.num_heads, self.head_dim)
        pairs = zip(self.norms, x.unbind(-2), strict=True)
        return torch.stack([norm(head) for norm, head in pairs], dim=-2)


def _part(norm: object) -> Part[nn.Module]:
    if isinstance(norm, Part):
        return norm
    raise TypeError(
        f"norm must be a part, got {type(norm).__name__}; write part(Component, ...) "
        "instead of Component(...)"
    )


def _heads(x: Tensor, num_heads: int, head_dim: int) -> None:
    vectors("x", x, head_dim, ndim=2)
    if x.shape[-2] != num_heads:
        raise ValueError(
            f"x must have shape (..., {num_heads}, {head_dim}), heads before channels, "
            f"got {tuple(x.shape)}"
        )
