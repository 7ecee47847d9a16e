"""Cores that change scores: capped ones, and a sink that takes what nobody wants."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._banded import in_band, kernel, one_query
from tfdoc._checks import positive, positive_int
from tfdoc._scores import (
    BiasLike,
    MaskLike,
    check_heads,
    mask_and_bias,
    masked_softmax,
    scaled_scores,
)
from tfdoc.cores import DotProductCore
from tfdoc.masks import Mask

__all__ = ["SinkCore", "SoftcapCore"]


class SoftcapCore(DotProductCore):
    r"""A core whose scores stay within a bound: Gemma 2's soft-capping.

    .. math:: s' = c \tanh(s / c)

    Small scores pass nearly unchanged, large ones come near c and stop (Gemma Team 2024,
    arXiv:2408.00118, section 2, with c = 50). No fused kernel does it: all steps are
    taken, and memory grows with the square of the length.

    Parameters
    ----------
    cap : float
        c, what no score reaches.
    scale : float, optional
        Factor of the scores before the cap, :math:`1/\sqrt{d}` by default.
    dropout : float
        Share of the weights dropped in training, never in evaluation.

    Raises
    ------
    TypeError, ValueError
        If `cap` or `scale` is not above 0, `dropout` not in [0, 1), or a call does not
        fit :func:`tfdoc.attention`.

    Notes
    -----
    The probe ``scores`` holds the capped scores.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import SoftcapCore, record
    >>> core = SoftcapCore(cap=5.0)
    >>> with record(core, "scores") as seen:
    ...     _ = core(*100 * torch.randn(3, 1, 2, 5, 8))
    >>> bool(seen["scores"].abs().max() <= 5)
    True
    """

    def __init__(
        self, *, cap: float, scale: float | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__(scale=scale, dropout=dropout)
        self.cap = positive("cap", cap)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: MaskLike,
        bias: BiasLike,
        dropout: float,
    ) -> Tensor:
        return self._exact(query, key, value, mask, bias, dropout)

    def _score(
        self, query: Tensor, key: Tensor, scale: float, bias: Tensor | None
    ) -> Tensor:
        scores = scaled_scores(query, key, scale, bias)
        return self.cap * torch.tanh(scores / self.cap)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"cap={self.cap:g}, {super().extra_repr()}"


class SinkCore(DotProductCore):
    r"""A core with one learned score for each head that competes and carries nothing.

    .. math:: w_{ij} = \frac{e^{s_{ij}}}{e^{b_h} + \sum_k e^{s_{ik}}}

    The weights of a query sum to less than 1: a head that finds nothing can say so,
    instead of putting its weight on the first token (OpenAI 2025, *gpt-oss*,
    arXiv:2508.10925; the idea of an extra 1 below: Miller 2023). Where no key is allowed,
    the sink takes all and the result is 0.

    Parameters
    ----------
    num_heads : int
        H; attention sets it.
    scale : float, optional
        Factor of the scores, :math:`1/\sqrt{d}` by default.
    dropout : float
        Share of the weights dropped in training, never in evaluation.

    Raises
    ------
    TypeError, ValueError
        If `num_heads` is no positive integer or not that of the queries, `scale` not
        above 0, `dropout` not in [0, 1), or a call does not fit :func:`tfdoc.attention`.

    Notes
    -----
    The parameter ``sinks`` has shape (H,) and starts at 0. The fused form adds a key that
    scores the sink and has a value of zeros; under ``Causal()`` and windows no matrix of
    queries and keys is held.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import MultiHeadAttention, SinkCore, part, record
    >>> attention = MultiHeadAttention(8, num_heads=2, core=part(SinkCore))
    >>> with record(attention, "*weights") as seen:
    ...     _ = attention(torch.randn(1, 3, 8))
    >>> bool((seen["core.weights"].sum(-1) < 1).all())
    True
    """

    def __init__(
        self, *, num_heads: int = 1, scale: float | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__(scale=scale, dropout=dropout)
        self.sinks = nn.Parameter(torch.zeros(positive_int("num_heads", num_heads)))

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: MaskLike,
        bias: BiasLike,
        dropout: float,
    ) -> Tensor:
        scale = check_heads(query, key, value, self.scale)
        tokens, keys, width = query.shape[-2], key.shape[-2], value.shape[-1]
        band = mask.band() if isinstance(mask, Mask) and bias is None else None
        rule: Tensor | None = None
        if band is not None and tokens <= keys:
            back, ahead = band
            if tokens == 1 and back < keys - 1:  # all that the last position may see
                first = keys - 1 - int(back)
                key, value = key[..., first:, :], value[..., first:, :]
        else:
            rule, band = mask_and_bias(mask, bias, query, key), None
        query, key, value = self._with_sink(query, key, value, scale)
        settings: dict[str, Any] = {"scale": scale, "dropout_p": dropout}
        if tokens == 1 or band is None:
            if rule is not None:  # the sink is seen from everywhere
                rule = rule.expand(*rule.shape[:-1], keys)
                rule = F.pad(rule, (1, 0), value=rule.dtype is torch.bool)
            attend = one_query if tokens == 1 else kernel
            out = attend(query, key, value, rule, **settings)
        elif (back, ahead) == (math.inf, 0) and tokens == keys:
            # A query in front, which sees the sink only, makes the triangle square.
            query = F.pad(query, (0, 0, 1, 0))
            out = kernel(query, key, value, is_causal=True, **settings)[..., 1:, :]
        else:
            out = in_band(query, key, value, back, ahead, always=1, **settings)
        return out[..., :width]

    def _with_sink(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put a key before the others whose score is the sink and whose value is 0.

        One more channel, of which only this key has something, carries the sinks: heads
        that share keys have sinks of their own, and no matrix holds them. It comes with
        seven empty ones, since kernels want widths in eights.
        """
        # Finite, even for a sink of -inf, which is none: it meets zeros of other keys.
        most = torch.finfo(query.dtype).max / max(1.0, scale)
        sinks = (self._sinks(query) / scale).clamp(-most, most)
        sinks = sinks.expand(*query.shape[:-1], 1)
        query = F.pad(torch.cat([query, sinks], -1), (0, 7))
        key = F.pad(key, (0, 8, 1, 0))
        key[..., 0, -8] = 1
        wider = max(0, key.shape[-1] - value.shape[-1])  # as wide as keys, for kernels
        return query, key, F.pad(value, (0, wider, 1, 0))

    def _weigh(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        sinks = self._sinks(scores).expand(*scores.shape[:-1], 1)
        if allowed is not None:
            allowed = allowed.expand(scores.shape)
            allowed = torch.cat([allowed, allowed.new_ones(*sinks.shape)], -1)
        return masked_softmax(torch.cat([scores, sinks], -1), allowed)[..., :-1]

    def _sinks(self, like: Tensor) -> Tensor:
        """Return the sinks as (H, 1, 1), in the precision of the scores."""
        if like.ndim < 3 or like.shape[-3] != len(self.sinks):
            raise ValueError(
                f"this core has num_heads={len(self.sinks)} sinks, got queries of shape "
                f"(..., heads, tokens, width) with {tuple(like.shape)}"
            )
        return self.sinks.to(like.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"num_heads={len(self.sinks)}, {super().extra_repr()}"
