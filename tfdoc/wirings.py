"""More wirings: sandwich, output norms, parallel branches."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from tfdoc._call import AttentionCall
from tfdoc.blocks import _Block
from tfdoc.norms import LayerNorm
from tfdoc.parts import Part, part

__all__ = [
    "OutputNormBlock",
    "ParallelBlock",
    "SandwichBlock",
    "TwoNormParallelBlock",
]


class OutputNormBlock(_Block):
    r"""The block of OLMo 2: normalise what a branch returns, before the addition.

    .. math::
        h &= x + \operatorname{norm}(\operatorname{attention}(x)) \\
        y &= h + \operatorname{norm}(\operatorname{FFN}(h))

    ::

        x -+- attention - norm - + -+- FFN - norm - + - y
           |                     |  |               |
           +---------------------+  +---------------+

    The stream stays as it is, and no branch can add more than a vector of size 1 times
    the norm's weight (OLMo team 2024, arXiv:2501.00656; Liu et al. 2021,
    arXiv:2111.09883, in vision). A stack of these needs one more norm at its end.

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
    >>> from tfdoc import FeedForward, MultiHeadAttention, OutputNormBlock, part
    >>> block = OutputNormBlock(
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
        x = x + self._drop(self.attn_norm(read))
        branch: Tensor = self._drop(self.ffn_norm(self._feed(x, call)))
        return x + branch


class SandwichBlock(_Block):
    r"""The block of Gemma 2 and 3: a norm before each branch and one after it.

    .. math::
        h &= x + \operatorname{norm}(\operatorname{attention}(\operatorname{norm}(x))) \\
        y &= h + \operatorname{norm}(\operatorname{FFN}(\operatorname{norm}(h)))

    ::

        x -+- norm - attention - norm - + -+- norm - FFN - norm - + - y
           |                            |  |                      |
           +----------------------------+  +----------------------+

    Each branch reads vectors of one size and adds vectors of one size (Ding et al.
    2021, *CogView*, arXiv:2105.13290; Gemma Team 2024, arXiv:2408.00118). A stack of
    these needs one more norm at its end.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    attention, feedforward : Part
        The two branches.
    norm : Part
        Built four times: ``attn_norm`` and ``ffn_norm`` before the branches,
        ``attn_out_norm`` and ``ffn_out_norm`` after them.
    dropout : float
        Share of each branch's result dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a branch or norm is not a part, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, MultiHeadAttention, SandwichBlock, part
    >>> from tfdoc import UnitOffsetRMSNorm
    >>> block = SandwichBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ...     norm=part(UnitOffsetRMSNorm),
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
        self.attn_out_norm = norm.build(embed_dim)
        self.ffn_out_norm = norm.build(embed_dim)

    def forward(self, x: Tensor, **call: Unpack[AttentionCall]) -> Tensor:
        """Transform `x`, shape (B, T, D); the keywords are those of the attention."""
        read = self.attention(self.attn_norm(x), **call)
        x = x + self._drop(self.attn_out_norm(read))
        branch = self.ffn_out_norm(self._feed(self.ffn_norm(x), call))
        out: Tensor = x + self._drop(branch)
        return out


class ParallelBlock(_Block):
    r"""One norm, read by both branches at once: GPT-J, PaLM, Falcon 7B, Phi, Cohere.

    .. math:: y = x + \operatorname{attention}(n) + \operatorname{FFN}(n), \quad
              n = \operatorname{norm}(x)

    ::

               +- attention -+
        x -+- norm           + - y
           |   +- FFN -------+
           |                 |
           +-----------------+

    The feed-forward network does not see what the attention of the same block found;
    the first matrices of both can be one product (Wang and Komatsuzaki 2021, *GPT-J*;
    Chowdhery et al. 2022, arXiv:2204.02311). A stack of these needs one more norm at
    its end. With a norm for each branch: :class:`TwoNormParallelBlock`.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    attention, feedforward : Part
        The two branches.
    norm : Part
        Built once, as ``norm``.
    dropout : float
        Share of each branch's result dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a branch or norm is not a part, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward, MultiHeadAttention, ParallelBlock, part
    >>> block = ParallelBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ... )
    >>> block(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    norm: nn.Module
    _norms = ("norm", None)

    def forward(self, x: Tensor, **call: Unpack[AttentionCall]) -> Tensor:
        """Transform `x`, shape (B, T, D); the keywords are those of the attention."""
        normed = self.norm(x)
        read = self.attention(normed, **call)
        branch = self._feed(normed, call)
        out: Tensor = x + self._drop(read) + self._drop(branch)
        return out


class TwoNormParallelBlock(_Block):
    r"""Both branches read the stream at once, each through its norm: GPT-NeoX, Falcon 40B.

    .. math:: y = x + \operatorname{attention}(\operatorname{norm}_1(x))
              + \operatorname{FFN}(\operatorname{norm}_2(x))

    ::

           +- norm - attention -+
        x -+--------------------+ - y
           +- norm - FFN -------+

    (Black et al. 2022, *GPT-NeoX-20B*, arXiv:2204.06745.) A stack of these needs one
    more norm at its end.

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
    >>> from tfdoc import FeedForward, MultiHeadAttention, TwoNormParallelBlock, part
    >>> block = TwoNormParallelBlock(
    ...     16,
    ...     attention=part(MultiHeadAttention, num_heads=4),
    ...     feedforward=part(FeedForward, hidden_dim=64),
    ... )
    >>> block(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def forward(self, x: Tensor, **call: Unpack[AttentionCall]) -> Tensor:
        """Transform `x`, shape (B, T, D); the keywords are those of the attention."""
        read = self.attention(self.attn_norm(x), **call)
        branch = self._feed(self.ffn_norm(x), call)
        out: Tensor = x + self._drop(read) + self._drop(branch)
        return out
