"""Scaled residuals: a branch times a learned or a fixed scale, and a scaled stream."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from tfdoc._call import AttentionCall
from tfdoc._checks import positive, positive_int
from tfdoc.blocks import _Block
from tfdoc.norms import LayerNorm
from tfdoc.parts import Part, part

__all__ = ["DeepNormBlock", "LayerScale", "ReZero", "ResidualScale"]


class _Scaled(nn.Module):
    """A branch and a scale of what it returns."""

    scale: Tensor | float

    def __init__(self, embed_dim: int, branch: Part[nn.Module]) -> None:
        super().__init__()
        if not isinstance(branch, Part):
            raise TypeError(
                f"branch must be a part, got {type(branch).__name__}; "
                "write part(Component, ...) instead of Component(...)"
            )
        self.branch = branch.build(positive_int("embed_dim", embed_dim))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Transform `x` by the branch, with all other arguments; scale the result."""
        out: Tensor = self.branch(x, *args, **kwargs) * self.scale
        return out


class LayerScale(_Scaled):
    r"""A branch whose result is scaled channel by channel, small at first.

    .. math:: y = \gamma \odot \operatorname{branch}(x)

    Takes the place of a branch in any block, which adds y to the stream (Touvron et al.
    2021, *CaiT*, arXiv:2103.17239: 0.1 up to 18 layers, 1e-5 up to 24, 1e-6 beyond).

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    branch : Part
        Attention, or a feed-forward network.
    init : float
        First value of every :math:`\gamma`.

    Raises
    ------
    TypeError, ValueError
        If `branch` is not a part or `init` no positive number.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, LayerScale, MultiHeadAttention, PreNormBlock, part
    >>> heads, ffn = part(MultiHeadAttention, num_heads=4), part(FeedForward, hidden_dim=64)
    >>> block = PreNormBlock(
    ...     16,
    ...     attention=part(LayerScale, branch=heads, init=1e-6),
    ...     feedforward=part(LayerScale, branch=ffn, init=1e-6),
    ... )
    >>> x = torch.randn(2, 5, 16)
    >>> torch.testing.assert_close(block(x), x, rtol=0, atol=1e-4)
    """

    scale: nn.Parameter

    def __init__(
        self, embed_dim: int, *, branch: Part[nn.Module], init: float = 0.1
    ) -> None:
        super().__init__(embed_dim, branch)
        self.scale = nn.Parameter(torch.full((embed_dim,), positive("init", init)))


class ReZero(_Scaled):
    r"""A branch times one learned number that starts at 0: a fresh block does nothing.

    .. math:: y = \alpha \cdot \operatorname{branch}(x)

    Takes the place of a branch in any block, which adds y to the stream. The paper
    leaves the norms out: ``norm=part(nn.Identity)`` (Bachlechner et al. 2020,
    arXiv:2003.04887). In the first step only :math:`\alpha` gets a gradient.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    branch : Part
        Attention, or a feed-forward network.

    Raises
    ------
    TypeError, ValueError
        If `branch` is not a part.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, ReZero, part
    >>> branch = ReZero(16, branch=part(FeedForward, hidden_dim=64))
    >>> branch(torch.randn(2, 5, 16)).count_nonzero().item()
    0
    """

    scale: nn.Parameter

    def __init__(self, embed_dim: int, *, branch: Part[nn.Module]) -> None:
        super().__init__(embed_dim, branch)
        self.scale = nn.Parameter(torch.zeros(()))


class ResidualScale(_Scaled):
    r"""A branch times one fixed number: Granite's residual multiplier.

    .. math:: y = s \cdot \operatorname{branch}(x)

    Takes the place of a branch in any block, which adds y to the stream. With
    :math:`s = 1/\sqrt{2L}` the 2L branches of L blocks, if they are independent, add as
    much as one (Yang et al. 2023, arXiv:2310.02244, on depth).

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    branch : Part
        Attention, or a feed-forward network.
    scale : float
        s, 0.22 in Granite 3.

    Raises
    ------
    TypeError, ValueError
        If `branch` is not a part or `scale` no positive number.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, ResidualScale, part
    >>> ffn, x = part(FeedForward, hidden_dim=64), torch.randn(2, 5, 16)
    >>> half = ResidualScale(16, branch=ffn, scale=0.5)
    >>> torch.testing.assert_close(half(x), half.branch(x) / 2)
    """

    def __init__(
        self, embed_dim: int, *, branch: Part[nn.Module], scale: float
    ) -> None:
        super().__init__(embed_dim, branch)
        self.scale = positive("scale", scale)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"scale={self.scale:g}"


class DeepNormBlock(_Block):
    r"""Post-norm for deep stacks: the stream counts :math:`\alpha` times in each sum.

    .. math::
        h &= \operatorname{norm}(\alpha x + \operatorname{attention}(x)) \\
        y &= \operatorname{norm}(\alpha h + \operatorname{FFN}(h))

    For L blocks :math:`\alpha = (2L)^{1/4}`, with weights drawn by
    :func:`~tfdoc.init_deepnorm_` (Wang et al. 2022, *DeepNet*, arXiv:2203.00555, table
    of section 4.3, which has other powers where an encoder feeds a decoder). With
    :math:`\alpha = 1` it is :class:`~tfdoc.PostNormBlock`.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    attention, feedforward : Part
        The two branches.
    alpha : float
        Factor of the stream, such as ``(2 * num_layers) ** 0.25``.
    norm : Part
        Built twice, as ``attn_norm`` and ``ffn_norm``.
    dropout : float
        Share of each branch's result dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a branch or norm is not a part, a part refuses its settings or inputs, or
        `alpha` is no positive number.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import DeepNormBlock, FeedForward, MultiHeadAttention, part
    >>> block = DeepNormBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ...     alpha=(2 * 24) ** 0.25,
    ... )
    >>> block(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        attention: Part[nn.Module],
        feedforward: Part[nn.Module],
        alpha: float,
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
        self.alpha = positive("alpha", alpha)

    def forward(self, x: Tensor, **call: Unpack[AttentionCall]) -> Tensor:
        """Transform `x`, shape (B, T, D); the keywords are those of the attention."""
        read = self.attention(x, **call)
        x = self.attn_norm(self.alpha * x + self._drop(read))
        branch = self._drop(self._feed(x, call))
        out: Tensor = self.ffn_norm(self.alpha * x + branch)
        return out

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"alpha={self.alpha:.4g}"
