r"""Scaled dot-product attention, :math:`\operatorname{softmax}(QK^T/\sqrt{d_k})\,V`.

Twice: exact, where every step can be read and watched, and fused, where one call of
:func:`torch.nn.functional.scaled_dot_product_attention` does it all. Same numbers.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import divides, positive, probability
from tfdoc._tensor_checks import additive_bias, boolean_mask, vectors
from tfdoc.biases import Bias
from tfdoc.masks import Causal, Mask
from tfdoc.probe import Probe

__all__ = ["DotProductCore", "attention", "fused_attention"]

# What may stand for a mask in a call: True = may attend.
MaskLike: TypeAlias = Tensor | Mask | None
# What may stand for a bias: numbers added to the scores.
BiasLike: TypeAlias = Tensor | Bias | None


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: MaskLike = None,
    *,
    bias: BiasLike = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    r"""Scaled dot-product attention, step by step.

    .. math:: \operatorname{softmax}\!\left(\frac{Q K^T}{\sqrt{d_k}}\right) V

    (Vaswani et al. 2017, *Attention is all you need*, equation 1.) Rows of queries that
    may attend to nothing come out as 0, with finite gradients.

    Parameters
    ----------
    query : Tensor
        Shape (..., queries, d), or (B, H, queries, d) with heads.
    key : Tensor
        Shape (..., keys, d). It may have fewer heads than the queries, a number that
        divides theirs: each then serves a group of neighbouring query heads.
    value : Tensor
        Shape (..., keys, d_v).
    mask : Tensor of bool or Mask, optional
        True = may attend; broadcasts to (..., queries, keys). A :class:`~tfdoc.Mask` is
        evaluated with the queries as the last of the keys' positions.
    bias : Tensor or Bias, optional
        Added to the scaled scores, before the mask; broadcasts to (..., queries, keys).
    scale : float, optional
        Factor of the scores, :math:`1/\sqrt{d}` by default.
    dropout : float
        Share of the weights dropped. A pure function knows no evaluation mode: pass 0
        there.

    Returns
    -------
    Tensor
        Shape (..., queries, d_v).

    Raises
    ------
    TypeError
        If the mask is no bool tensor or Mask, or the bias no floating-point tensor or
        Bias.
    ValueError
        If shapes do not fit; the message has both.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, attention
    >>> x = torch.eye(3)
    >>> attention(x, x, x, Causal(), scale=10.0).round(decimals=1)
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    scale = _check(query, key, value, scale)
    table = _table(mask, query, key)
    scores = _scores(query, key, scale, _added(bias, query, key))
    weights = _weights(scores, table)
    return F.dropout(weights, probability("dropout", dropout)) @ _per_head(value, query)


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: MaskLike = None,
    *,
    bias: BiasLike = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Compute what :func:`attention` computes, without the matrix of weights.

    One call of :func:`torch.nn.functional.scaled_dot_product_attention`, whose kernels
    go through the keys block by block (Dao et al. 2022, *FlashAttention*,
    arXiv:2205.14135). Memory grows with the length, not with its square, as long as
    the mask is None or ``Causal()`` and there is no bias.

    Parameters, result and errors are those of :func:`attention`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, attention, fused_attention
    >>> q, k, v = torch.randn(3, 1, 4, 6, 8)
    >>> exact, fused = (f(q, k, v, Causal()) for f in (attention, fused_attention))
    >>> torch.testing.assert_close(fused, exact)
    """
    scale = _check(query, key, value, scale)
    # The kernel aligns its causal mask with the first key, so it serves only when
    # there are as many queries as keys.
    square = query.shape[-2] == key.shape[-2]
    causal = type(mask) is Causal and square and bias is None
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        None if causal else _both(mask, bias, query, key),
        probability("dropout", dropout),
        is_causal=causal,
        scale=scale,
        enable_gqa=query.ndim == 4 and query.shape[1] != key.shape[1],
    )


class DotProductCore(nn.Module):
    """The heart of an attention module: exact while it is watched, fused otherwise.

    Parameters
    ----------
    dropout : float
        Share of the weights dropped in training, never in evaluation.

    Raises
    ------
    TypeError, ValueError
        If `dropout` is not in [0, 1), or a call does not fit :func:`tfdoc.attention`.

    Notes
    -----
    The probe ``scores`` holds the scaled scores with their bias before the mask, ``weights`` the softmax
    before dropout, both (B, H, queries, keys). While one of them has a forward hook
    (see :func:`tfdoc.record`), the core takes the steps of :func:`tfdoc.attention`; else
    :func:`tfdoc.fused_attention`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import DotProductCore, record
    >>> core = DotProductCore()
    >>> with record(core, "weights") as seen:
    ...     _ = core(*torch.randn(3, 1, 2, 5, 8))
    >>> seen["weights"].sum(-1).allclose(torch.ones(1, 2, 5))
    True
    """

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = probability("dropout", dropout)
        self.scores, self.weights = Probe(), Probe()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: MaskLike = None,
        *,
        bias: BiasLike = None,
    ) -> Tensor:
        """Attend; shapes, mask and bias as in :func:`tfdoc.attention`."""
        dropout = self.dropout if self.training else 0.0
        if not (self.scores.watched or self.weights.watched):
            return fused_attention(query, key, value, mask, bias=bias, dropout=dropout)
        scale = _check(query, key, value, None)
        table = _table(mask, query, key)
        scores = self.scores(_scores(query, key, scale, _added(bias, query, key)))
        weights = self.weights(_weights(scores, table))
        return F.dropout(weights, dropout) @ _per_head(value, query)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"dropout={self.dropout}"


def _scores(query: Tensor, key: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    # Scaling the queries costs d numbers a token, scaling the scores one a pair.
    scores = (query * scale) @ _per_head(key, query).mT
    return scores if bias is None else scores + bias


def _weights(scores: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is None:
        return scores.softmax(-1)
    # The lowest finite number instead of -inf: a row with nothing to attend to then
    # passes through softmax without NaN, and the second fill makes it 0.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~allowed, lowest).softmax(-1).masked_fill(~allowed, 0.0)


def _per_head(shared: Tensor, query: Tensor) -> Tensor:
    """Repeat key or value heads until each query head has its own: 0, 0, 1, 1, ..."""
    if query.ndim != 4 or shared.shape[1] == query.shape[1]:
        return shared
    return shared.repeat_interleave(query.shape[1] // shared.shape[1], dim=1)


def _table(mask: MaskLike, query: Tensor, key: Tensor) -> Tensor | None:
    """Turn any mask into a bool tensor that fits the scores."""
    if mask is None:
        return None
    if isinstance(mask, Mask):
        mask = mask(*_ends(query, key))
    return boolean_mask(mask, (*query.shape[:-1], key.shape[-2]))


def _added(bias: BiasLike, query: Tensor, key: Tensor) -> Tensor | None:
    """Turn any bias into a tensor that fits the scores, in their dtype."""
    if bias is None:
        return None
    if isinstance(bias, Bias):
        bias = bias(*_ends(query, key))
    return additive_bias(bias, (*query.shape[:-1], key.shape[-2])).to(query.dtype)


def _both(mask: MaskLike, bias: BiasLike, query: Tensor, key: Tensor) -> Tensor | None:
    """Write mask and bias as the one tensor that the kernel takes."""
    table, added = _table(mask, query, key), _added(bias, query, key)
    if added is None:
        return table
    if table is not None:
        added = added.masked_fill(~table, float("-inf"))
    return added.expand(*query.shape[:-1], key.shape[-2])


def _ends(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions, with the queries as the last of the keys."""
    at = torch.arange(key.shape[-2], device=key.device)
    return at[key.shape[-2] - query.shape[-2] :], at


def _check(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> float:
    """Refuse what does not fit together; return the scale in use."""
    vectors("query", query, ndim=2)
    vectors("key", key, query.shape[-1], ndim=2)
    vectors("value", value, ndim=2)
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"key and value must agree in all but the last dimension, got "
            f"{tuple(key.shape)} and {tuple(value.shape)}"
        )
    grouped = query.ndim == 4 and key.ndim == 4
    outer = (
        (query.shape[:1], key.shape[:1])
        if grouped
        else (
            query.shape[:-2],
            key.shape[:-2],
        )
    )
    if outer[0] != outer[1]:
        raise ValueError(
            f"query of shape {tuple(query.shape)} and key of shape {tuple(key.shape)} "
            "must agree in all dimensions before tokens (heads may differ with four)"
        )
    if grouped:
        divides("key heads", key.shape[1], "query heads", query.shape[1])
    return query.shape[-1] ** -0.5 if scale is None else positive("scale", scale)
