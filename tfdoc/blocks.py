"""Blocks: how attention, feed-forward, norms and the residual stream are wired."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import positive_int, probability
from tfdoc._tensor_checks import Positions, batch_of_vectors
from tfdoc.cores import MaskLike
from tfdoc.feedforward import Activation, FeedForward
from tfdoc.masks import Mask
from tfdoc.multihead import MultiHeadAttention
from tfdoc.norms import LayerNorm
from tfdoc.parts import Part, part
from tfdoc.positions import RoPE

__all__ = ["PostNormBlock", "PreNormBlock", "TransformerBlock", "TransformerLayer"]


class _Block(nn.Module):
    """What the wirings share: their parts. A wiring is a forward of its own."""

    attention: nn.Module
    feedforward: nn.Module
    attn_norm: nn.Module
    ffn_norm: nn.Module
    # What the norms of the two branches are called; None: the branch has none.
    _norms: tuple[str, str | None] = ("attn_norm", "ffn_norm")

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

    def forward(
        self, x: Tensor, *, mask: MaskLike = None, positions: Positions = None
    ) -> Tensor:
        """Transform `x`, shape (B, T, D); mask and positions go to the attention."""
        batch_of_vectors("x", x, self.embed_dim)
        read = self.attention(self.attn_norm(x), mask=mask, positions=positions)
        x = x + self.dropout(read)
        branch: Tensor = self.dropout(self.feedforward(self.ffn_norm(x)))
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

    def forward(
        self, x: Tensor, *, mask: MaskLike = None, positions: Positions = None
    ) -> Tensor:
        """Transform `x`, shape (B, T, D); mask and positions go to the attention."""
        batch_of_vectors("x", x, self.embed_dim)
        read = self.attention(x, mask=mask, positions=positions)
        x = self.attn_norm(x + self.dropout(read))
        out: Tensor = self.ffn_norm(x + self.dropout(self.feedforward(x)))
        return out


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
                dropout=dropout,
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
            MultiHeadAttention, num_heads=num_heads, dropout=dropout, mask=mask
        ),
        feedforward=part(
            FeedForward, hidden_dim=hidden_dim, activation=activation, dropout=dropout
        ),
        norm=norm,
        dropout=dropout,
    )


def _is_block(wiring: object) -> bool:
    return isinstance(wiring, type) and issubclass(wiring, _Block)
