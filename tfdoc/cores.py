r"""Scaled dot-product attention, :math:`\operatorname{softmax}(QK^T/\sqrt{d_k})\,V`.

Twice: exact, where every step can be read and watched, and fused, where one call of
:func:`torch.nn.functional.scaled_dot_product_attention` does it all. Same numbers.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._banded import in_band, kernel, one_query
from tfdoc._checks import positive, probability
from tfdoc._scores import (
    BiasLike,
    MaskLike,
    added_table,
    allowed_table,
    check_heads,
    mask_and_bias,
    masked_softmax,
    per_head,
    scaled_scores,
    seen_pairs,
)
from tfdoc.masks import Mask
from tfdoc.probe import Probe

__all__ = ["DotProductCore", "attention", "fused_attention"]


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
    scale = check_heads(query, key, value, scale)
    added = added_table(bias, query, key)
    table = seen_pairs(allowed_table(mask, query, key), added)
    weights = masked_softmax(scaled_scores(query, key, scale, added), table)
    return F.dropout(weights, probability("dropout", dropout)) @ per_head(value, query)


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
    scale = check_heads(query, key, value, scale)
    settings: dict[str, Any] = {
        "scale": scale,
        "dropout_p": dropout and probability("dropout", dropout),
    }
    tokens, keys = query.shape[-2], key.shape[-2]
    band = mask.band() if isinstance(mask, Mask) else None
    if band is not None and bias is None and tokens <= keys:
        back, ahead = band
        if tokens == 1:  # all that the last position may see, and nothing to hide
            if back < keys - 1:
                first = keys - 1 - int(back)
                key, value = key[..., first:, :], value[..., first:, :]
            return one_query(query, key, value, **settings)
        # The kernel aligns its causal mask with the first key, so it serves only when
        # there are as many queries as keys.
        if back >= keys - 1 and ahead == 0 and tokens == keys:
            return kernel(query, key, value, is_causal=True, **settings)
        if back < keys - 1:
            return in_band(query, key, value, back, ahead, **settings)
    both = mask_and_bias(mask, bias, query, key)
    if tokens == 1:
        return one_query(query, key, value, both, **settings)
    return kernel(query, key, value, both, **settings)


class DotProductCore(nn.Module):
    r"""The heart of an attention module: exact while it is watched, fused otherwise.

    Parameters
    ----------
    scale : float, optional
        Factor of the scores, :math:`1/\sqrt{d}` by default; T5 has 1.
    dropout : float
        Share of the weights dropped in training, never in evaluation.

    Raises
    ------
    TypeError, ValueError
        If `scale` is not above 0, `dropout` not in [0, 1), or a call does not fit
        :func:`tfdoc.attention`.

    Notes
    -----
    The probe ``scores`` holds the scaled scores with their bias before the mask,
    ``weights`` the softmax before dropout, both (B, H, queries, keys). While one of them
    has a forward hook (see :func:`tfdoc.record`), the core takes the steps of
    :func:`tfdoc.attention`; else :func:`tfdoc.fused_attention`.

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

    def __init__(self, *, scale: float | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = None if scale is None else positive("scale", scale)
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
            return self._fused(query, key, value, mask, bias, dropout)
        return self._exact(query, key, value, mask, bias, dropout)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: MaskLike,
        bias: BiasLike,
        dropout: float,
    ) -> Tensor:
        return fused_attention(
            query, key, value, mask, bias=bias, scale=self.scale, dropout=dropout
        )

    def _exact(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: MaskLike,
        bias: BiasLike,
        dropout: float,
    ) -> Tensor:
        scale = check_heads(query, key, value, self.scale)
        added = added_table(bias, query, key)
        table = seen_pairs(allowed_table(mask, query, key), added)
        scores = self.scores(self._score(query, key, scale, added))
        weights = self.weights(self._weigh(scores, table))
        return F.dropout(weights, dropout) @ per_head(value, query)

    def _score(
        self, query: Tensor, key: Tensor, scale: float, bias: Tensor | None
    ) -> Tensor:
        return scaled_scores(query, key, scale, bias)

    def _weigh(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        return masked_softmax(scores, allowed)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        scale = "" if self.scale is None else f"scale={self.scale:.4g}, "
        return f"{scale}dropout={self.dropout}"
