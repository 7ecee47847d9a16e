"""Blocks: how attention, feed-forward, norms and the residual stream are wired."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from tfdoc._call import AttentionCall, PairCall
from tfdoc._checks import positive_int, probability
from tfdoc.moe import MixtureOfExperts
from tfdoc.norms import LayerNorm
from tfdoc.parts import Part, part

__all__ = ["PostNormBlock", "PreNormBlock"]


class _Block(nn.Module):
    """What the wirings share: their parts. A wiring is a forward of its own."""

    attention: nn.Module
    feedforward: nn.Module
    attn_norm: nn.Module
    ffn_norm: nn.Module
    # What the norms of the two branches are called; None: the branch has none.
    _norms: tuple[str | None, str | None] = ("attn_norm", "ffn_norm")

    def __init__(
        self,
        embed_dim: int,
        *,
        attention: Part[nn.Module],
        feedforward: Part[nn.Module],
        norm: Part[nn.Module] = part(LayerNorm),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        given: dict[str, object] = {
            "attention": attention,
            "feedforward": feedforward,
            "norm": norm,
        }
        for name, recipe in given.items():
            if not isinstance(recipe, Part):
                raise TypeError(
                    f"{name} must be a part, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        branches = {"attention": attention, "feedforward": feedforward}
        for own_norm, (name, branch) in zip(self._norms, branches.items(), strict=True):
            if own_norm is not None:
                self.add_module(own_norm, norm.build(embed_dim))
            self.add_module(name, branch.build(embed_dim))
        self.dropout = nn.Dropout(probability("dropout", dropout))

    def _drop(self, x: Tensor) -> Tensor:
        """Drop in training; in evaluation not even the call is made."""
        out: Tensor = self.dropout(x) if self.training else x
        return out

    def _feed(self, x: Tensor, call: PairCall) -> Tensor:
        """Run the feed-forward network; a mixture is told which tokens are real."""
        at, told = call.get("positions"), {}
        if isinstance(at, Tensor) and any(
            isinstance(m, MixtureOfExperts) for m in self.feedforward.modules()
        ):
            told = {"mask": (at >= 0).expand(x.shape[:-1])}
        out: Tensor = self.feedforward(x, **told)
        return out


class PreNormBlock(_Block):
    r"""A block that normalises what each branch reads; the stream itself stays as it is.

    .. math::
        h &= x + \operatorname{attention}(\operatorname{norm}(x)) \\
        y &= h + \operatorname{FFN}(\operatorname{norm}(h))

    Nothing stands between input and output on the residual stream, so gradients pass
    unchanged (Xiong et al. 2020, arXiv:2002.04745). A stack of these needs one more norm
    at its end, which :class:`tfdoc.Encoder` takes as ``norm``.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    attention, feedforward : Part
        The two branches.
    norm : Part
        Built twice, as ``attn_norm`` and ``ffn_norm``.
    dropout : float
        Share of each branch's result dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a branch or norm is not a part, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, MultiHeadAttention, PreNormBlock, RMSNorm, part
    >>> block = PreNormBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ...     norm=part(RMSNorm),
    ... )
    >>> block(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def forward(self, x: Tensor, **call: Unpack[AttentionCall]) -> Tensor:
        """Transform `x`, shape (B, T, D); the keywords are those of the attention."""
        read = self.attention(self.attn_norm(x), **call)
        x = x + self._drop(read)
        branch: Tensor = self._drop(self._feed(self.ffn_norm(x), call))
        return x + branch


class PostNormBlock(_Block):
    r"""The block of the original transformer: add first, then normalise the sum.

    .. math::
        h &= \operatorname{norm}(x + \operatorname{attention}(x)) \\
        y &= \operatorname{norm}(h + \operatorname{FFN}(h))

    (Vaswani et al. 2017, section 3.1.) The norms stand on the residual stream itself:
    deep stacks need a warm-up of the learning rate.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    attention, feedforward : Part
        The two branches.
    norm : Part
        Built twice, as ``attn_norm`` and ``ffn_norm``.
    dropout : float
        Share of each branch's result dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a branch or norm is not a part, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, MultiHeadAttention, PostNormBlock, part
    >>> block = PostNormBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ... )
    >>> block(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def forward(self, x: Tensor, **call: Unpack[AttentionCall]) -> Tensor:
        """Transform `x`, shape (B, T, D); the keywords are those of the attention."""
        read = self.attention(x, **call)
        x = self.attn_norm(x + self._drop(read))
        out: Tensor = self.ffn_norm(x + self._drop(self._feed(x, call)))
        return out
