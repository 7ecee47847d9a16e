"""Ready-made blocks, thin constructors over the parts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tfdoc._checks import positive_int
from tfdoc.blocks import PostNormBlock, PreNormBlock, _Block
from tfdoc.cores import DotProductCore
from tfdoc.feedforward import Activation, FeedForward
from tfdoc.masks import Mask
from tfdoc.multihead import MultiHeadAttention
from tfdoc.norms import LayerNorm
from tfdoc.parts import Part, part
from tfdoc.positions import RoPE

__all__ = ["TransformerBlock", "TransformerLayer"]


class TransformerBlock(PreNormBlock):
    """A ready-made block in today's order: norm first, GELU, hidden width 4 D.

    It is a :class:`PreNormBlock` of :class:`~tfdoc.MultiHeadAttention`,
    :class:`~tfdoc.FeedForward` and :class:`~tfdoc.LayerNorm`; write the parts yourself to
    change more than the arguments below.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    num_heads : int
        H, a divisor of `embed_dim`.
    hidden_dim : int, optional
        Width F of the feed-forward network, 4 D by default.
    dropout : float
        Used on attention weights, hidden numbers and both branches.
    mask : Mask, optional
        Who may attend to whom in every call.
    rotary : RoPE, optional
        Turns queries and keys by their positions.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or `num_heads` does not divide `embed_dim`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, TransformerBlock
    >>> TransformerBlock(16, num_heads=4, mask=Causal())(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        hidden_dim: int | None = None,
        dropout: float = 0.0,
        mask: Mask | None = None,
        rotary: RoPE | None = None,
    ) -> None:
        if hidden_dim is None:
            hidden_dim = 4 * positive_int("embed_dim", embed_dim)
        super().__init__(
            embed_dim,
            attention=part(
                MultiHeadAttention,
                num_heads=num_heads,
                core=part(DotProductCore, dropout=dropout),
                mask=mask,
                rotary=rotary,
            ),
            feedforward=part(FeedForward, hidden_dim=hidden_dim, dropout=dropout),
            dropout=dropout,
        )


def TransformerLayer(  # noqa: N802  # it builds a block, under the name people look for
    embed_dim: int = 512,
    num_heads: int = 8,
    hidden_dim: int = 2048,
    dropout: float = 0.1,
    *,
    wiring: type[_Block] = PostNormBlock,
    activation: Activation = F.gelu,
    norm: Part[nn.Module] = part(LayerNorm),
    mask: Mask | None = None,
) -> _Block:
    """Build the complete layer of the original paper's size.

    The same numbers as :class:`torch.nn.TransformerEncoderLayer` with the same weights;
    two defaults differ from it: batch comes first and the activation is GELU.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    num_heads : int
        H, a divisor of `embed_dim`.
    hidden_dim : int
        Width F of the feed-forward network.
    dropout : float
        Used on attention weights, hidden numbers and both branches, in training.
    wiring : block class
        ``PostNormBlock`` (the paper) or ``PreNormBlock`` (``norm_first=True``).
    activation : callable
        Of the feed-forward network.
    norm : Part
        Built twice; its ``eps`` is the ``layer_norm_eps`` of torch.
    mask : Mask, optional
        Who may attend to whom in every call.

    Returns
    -------
    PostNormBlock or PreNormBlock
        Its attention weights are watched by ``record(layer, "*weights")``.

    Raises
    ------
    TypeError, ValueError
        If `wiring` is not a block class, a number is out of range, or `num_heads` does
        not divide `embed_dim`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import TransformerLayer
    >>> layer = TransformerLayer().eval()
    >>> layer(torch.randn(1, 10, 512)).shape
    torch.Size([1, 10, 512])
    """
    if not _is_block(wiring):
        raise TypeError(
            f"wiring must be a block class, PostNormBlock or PreNormBlock, got {wiring!r}"
        )
    return wiring(
        embed_dim,
        attention=part(
            MultiHeadAttention,
            num_heads=num_heads,
            core=part(DotProductCore, dropout=dropout),
            mask=mask,
        ),
        feedforward=part(
            FeedForward, hidden_dim=hidden_dim, activation=activation, dropout=dropout
        ),
        norm=norm,
        dropout=dropout,
    )


def _is_block(wiring: object) -> bool:
    return isinstance(wiring, type) and issubclass(wiring, _Block)
