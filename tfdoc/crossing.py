"""Blocks of a decoder that also reads another sequence."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor, nn

from tfdoc._call import PairCall, places
from tfdoc._tensor_checks import Positions
from tfdoc.blocks import _Block
from tfdoc.cache_stacks import PairedCache
from tfdoc.caches import Cache
from tfdoc.norms import LayerNorm
from tfdoc.parts import Part, part

__all__ = ["PostNormCrossBlock", "PreNormCrossBlock"]


class _CrossBlock(_Block):
    """What both wirings share: a second attention, with a norm of its own."""

    def __init__(
        self,
        embed_dim: int,
        *,
        attention: Part[nn.Module],
        cross_attention: Part[nn.Module],
        feedforward: Part[nn.Module],
        norm: Part[nn.Module] = part(LayerNorm),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            attention=attention,
            feedforward=feedforward,
            norm=norm,
            dropout=dropout,
        )
        given: object = cross_attention
        if not isinstance(given, Part):
            raise TypeError(
                f"cross_attention must be a part, got {type(given).__name__}; "
                "write part(Component, ...) instead of Component(...)"
            )
        self.cross_norm = norm.build(embed_dim)
        self.cross_attention = cross_attention.build(embed_dim)

    def _ask(self, x: Tensor, cache: Cache | None, asked: dict[str, Any]) -> Tensor:
        """Let `x` look at the context, from where its tokens stand."""
        read: Tensor = self._drop(self.cross_attention(x, cache=cache, **asked))
        return read


class PreNormCrossBlock(_CrossBlock):
    r"""A pre-norm block that looks at itself, then at a context: T5, Whisper.

    .. math::
        g &= x + \operatorname{attention}(\operatorname{norm}(x)) \\
        h &= g + \operatorname{attention}(\operatorname{norm}(g), c) \\
        y &= h + \operatorname{FFN}(\operatorname{norm}(h))

    Only what the queries read is normalised; the context `c` is an encoder's result, with
    its norm at the end (Raffel et al. 2020, arXiv:1910.10683).

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream, and of the context.
    attention, cross_attention, feedforward : Part
        The three branches.
    norm : Part
        Built three times, as ``attn_norm``, ``cross_norm`` and ``ffn_norm``.
    dropout : float
        Share of each branch's result dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a branch or norm is not a part, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, FeedForward, MultiHeadAttention, PreNormCrossBlock, part
    >>> block = PreNormCrossBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4, mask=Causal()),
    ...     cross_attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ... )
    >>> block(torch.randn(2, 5, 16), torch.randn(2, 9, 16)).shape
    torch.Size([2, 5, 16])
    """

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        *,
        context_positions: Positions = None,
        cache: PairedCache | None = None,
        **call: Unpack[PairCall],
    ) -> Tensor:
        """Transform `x`, shape (B, T, D), which looks at `context`, shape (B, S, D).

        Positions of the context are as in :class:`~tfdoc.MultiHeadAttention`; the other
        keywords go to the self-attention.
        """
        own, other = (cache.own, cache.context) if cache else (None, None)
        asked = {"context": context, "context_positions": context_positions}
        asked |= {"positions": places(call.get("positions"), x, own)}
        read = self.attention(self.attn_norm(x), **call, cache=own)
        x = x + self._drop(read)
        x = x + self._ask(self.cross_norm(x), other, asked)
        branch: Tensor = self._drop(self._feed(self.ffn_norm(x), call))
        return x + branch


class PostNormCrossBlock(_CrossBlock):
    r"""The decoder's block of the original transformer, and of BART and Marian.

    .. math::
        g &= \operatorname{norm}(x + \operatorname{attention}(x)) \\
        h &= \operatorname{norm}(g + \operatorname{attention}(g, c)) \\
        y &= \operatorname{norm}(h + \operatorname{FFN}(h))

    (Vaswani et al. 2017, section 3.1.) The same numbers as
    :class:`torch.nn.TransformerDecoderLayer`.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream, and of the context.
    attention, cross_attention, feedforward : Part
        The three branches.
    norm : Part
        Built three times, as ``attn_norm``, ``cross_norm`` and ``ffn_norm``.
    dropout : float
        Share of each branch's result dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a branch or norm is not a part, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, FeedForward, MultiHeadAttention, PostNormCrossBlock
    >>> from tfdoc import part
    >>> block = PostNormCrossBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4, mask=Causal()),
    ...     cross_attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ... )
    >>> block(torch.randn(2, 5, 16), torch.randn(2, 9, 16)).shape
    torch.Size([2, 5, 16])
    """

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        *,
        context_positions: Positions = None,
        cache: PairedCache | None = None,
        **call: Unpack[PairCall],
    ) -> Tensor:
        """Transform `x`, shape (B, T, D), which looks at `context`, shape (B, S, D).

        Positions of the context are as in :class:`~tfdoc.MultiHeadAttention`; the other
        keywords go to the self-attention.
        """
        own, other = (cache.own, cache.context) if cache else (None, None)
        asked = {"context": context, "context_positions": context_positions}
        asked |= {"positions": places(call.get("positions"), x, own)}
        x = self.attn_norm(x + self._drop(self.attention(x, **call, cache=own)))
        x = self.cross_norm(x + self._ask(x, other, asked))
        out: Tensor = self.ffn_norm(x + self._drop(self._feed(x, call)))
        return out
