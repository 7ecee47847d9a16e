"""Multi-head attention: several small attentions side by side."""

from __future__ import annotations

import inspect
from functools import reduce

import torch
from torch import Tensor, nn

from tfdoc._checks import divides, positive_int
from tfdoc._tensor_checks import (
    Positions,
    additive_bias,
    batch_of_vectors,
    boolean_mask,
    describe,
    resolve_positions,
)
from tfdoc.biases import Bias
from tfdoc.cores import BiasLike, DotProductCore, MaskLike
from tfdoc.masks import Mask
from tfdoc.parts import Part
from tfdoc.positions import RoPE

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(nn.Module):
    r"""Multi-head attention, to itself or to another sequence.

    .. math::
        \operatorname{MultiHead}(x) &= [h_1; \ldots; h_H]\, W_O \\
        h_i &= \operatorname{attention}(x W_Q^i,\; c\, W_K^i,\; c\, W_V^i)

    with :math:`c = x` for self-attention (Vaswani et al. 2017, section 3.2.2). With fewer
    key/value heads than query heads it is grouped-query attention (Ainslie et al. 2023,
    arXiv:2305.13245); with one, multi-query attention.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_heads : int
        H query heads.
    num_kv_heads : int, optional
        G heads of keys and values, a divisor of `num_heads`; H by default.
    head_dim : int, optional
        Width d of a head; D / H by default, where H must divide D.
    bias : bool
        Whether the four projections have a bias.
    dropout : float
        Share of the attention weights dropped in training.
    mask : Mask, optional
        Who may attend to whom in every call, as in ``Causal()``.
    rotary : RoPE, optional
        Turns queries and keys by their positions.
    qk_norm : Part, optional
        Normalises queries and keys before they are turned: built twice for width d, as
        ``q_norm`` and ``k_norm``, and applied to each head. A part that takes
        ``num_heads``, such as ``part(AcrossHeads)``, is told how many there are.
    position_bias : Bias, optional
        Added to the scores in every call, as in ``ALiBi(num_heads)``. One
        :class:`~tfdoc.RelativeBias` given to several layers is shared by them.

    Raises
    ------
    TypeError, ValueError
        If a width is no positive integer, heads do not divide (the nearest that do are
        named), `dropout` is not in [0, 1), `mask`, `rotary`, `qk_norm` or
        `position_bias` is of another type, or `rotary` does not fit the head width.

    Notes
    -----
    Weights are named ``q_proj, k_proj, v_proj, o_proj``. The probes ``core.scores`` and
    ``core.weights`` hold shape (B, H, queries, keys).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, MultiHeadAttention, RoPE
    >>> attention = MultiHeadAttention(
    ...     64, num_heads=8, num_kv_heads=2, mask=Causal(), rotary=RoPE()
    ... )
    >>> attention(torch.randn(2, 5, 64)).shape
    torch.Size([2, 5, 64])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        mask: Mask | None = None,
        rotary: RoPE | None = None,
        qk_norm: Part[nn.Module] | None = None,
        position_bias: Bias | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.num_heads = positive_int("num_heads", num_heads)
        if num_kv_heads is None:
            num_kv_heads = num_heads
        self.num_kv_heads = positive_int("num_kv_heads", num_kv_heads)
        divides("num_kv_heads", num_kv_heads, "num_heads", num_heads)
        if head_dim is None:
            divides("num_heads", num_heads, "embed_dim", embed_dim)
            head_dim = embed_dim // num_heads
        self.head_dim = positive_int("head_dim", head_dim)
        self.mask, self.rotary = _mask(mask), _rotary(rotary, head_dim)
        self.position_bias = _bias(position_bias, num_heads)

        self.q_proj = nn.Linear(embed_dim, num_heads * head_dim, bias)
        self.k_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, bias)
        self.v_proj = nn.Linear(embed_dim, num_kv_heads * head_dim, bias)
        self.q_norm = _qk_norm(qk_norm, head_dim, num_heads)
        self.k_norm = _qk_norm(qk_norm, head_dim, num_kv_heads)
        self.core = DotProductCore(dropout=dropout)
        self.o_proj = nn.Linear(num_heads * head_dim, embed_dim, bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: MaskLike = None,
        positions: Positions = None,
        position_bias: BiasLike = None,
    ) -> Tensor:
        """Let every token of `x` look at `x`, or at `context`.

        Parameters
        ----------
        x : Tensor
            Who asks, shape (B, T, D).
        context : Tensor, optional
            Who is asked, shape (B, S, D), at positions 0 ... S-1; `x` by default.
        mask : Tensor of bool or Mask, optional
            True = may attend; broadcasts to (B, H, T, S). Both this mask and the
            constructor's must allow a pair.
        positions : int or Tensor of int, optional
            Where the tokens of `x` stand: 0 ... T-1 by default, an offset, or positions
            of shape (T,) or (B, T).
        position_bias : Tensor or Bias, optional
            Added to the scores, besides the constructor's; broadcasts to (B, H, T, S).

        Returns
        -------
        Tensor
            Shape (B, T, D).

        Raises
        ------
        TypeError
            If `x` is not floating-point, the mask not bool or the positions not whole.
        ValueError
            If shapes do not fit; the message has both.
        """
        batch_of_vectors("x", x, self.embed_dim)
        if context is not None:
            batch_of_vectors("context", context, self.embed_dim)
            if context.shape[0] != x.shape[0]:
                raise ValueError(
                    f"x and context must have the same batch size, got {x.shape[0]} "
                    f"and {context.shape[0]}"
                )
        source = x if context is None else context
        query = self._heads(self.q_proj(x), self.q_norm)  # (B, H, T, d)
        key = self._heads(self.k_proj(source), self.k_norm)  # (B, G, S, d)
        value = self._heads(self.v_proj(source))  # (B, G, S, d)

        at = resolve_positions(positions, x)
        key_at = at if context is None else resolve_positions(None, context)
        if self.rotary is not None:
            query = self.rotary(query, positions)
            key = self.rotary(key, positions if context is None else None)
        allowed: MaskLike = self.mask  # the core may know it without a matrix
        shape = (*query.shape[:-1], key.shape[-2])
        if positions is not None or context is not None or mask is not None:
            allowed = self._allowed(mask, at, key_at, shape)
        bias = self._added(position_bias, at, key_at, shape)

        heads = self.core(query, key, value, allowed, bias=bias)  # (B, H, T, d)
        out: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Split (B, T, heads * d) into (B, heads, T, d), normalised if there is a norm."""
        heads = x.shape[-1] // self.head_dim
        split = x.reshape(*x.shape[:-1], heads, self.head_dim)
        return (split if norm is None else norm(split)).transpose(1, 2)

    def _allowed(
        self, mask: MaskLike, at: Tensor, key_at: Tensor, shape: tuple[int, ...]
    ) -> Tensor | None:
        """Evaluate the call's and the constructor's mask at these positions."""
        tables = [
            m(at, key_at) if isinstance(m, Mask) else m for m in (self.mask, mask)
        ]
        checked = [boolean_mask(table, shape) for table in tables if table is not None]
        return reduce(torch.logical_and, checked) if checked else None

    def _added(
        self, bias: BiasLike, at: Tensor, key_at: Tensor, shape: tuple[int, ...]
    ) -> Tensor | None:
        """Evaluate the call's and the constructor's bias at these positions."""
        tables = [
            b(at, key_at) if isinstance(b, Bias) else b
            for b in (self.position_bias, bias)
        ]
        checked = [additive_bias(table, shape) for table in tables if table is not None]
        return reduce(torch.add, checked) if checked else None

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        shown = f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"
        extras: list[tuple[str, object]] = [
            ("mask", self.mask),
            ("rotary", self.rotary),
        ]
        if not isinstance(self.position_bias, nn.Module):  # which prints itself
            extras.append(("position_bias", self.position_bias))
        return shown + "".join(f", {k}={v}" for k, v in extras if v is not None)


def _mask(mask: object) -> Mask | None:
    if mask is None or isinstance(mask, Mask):
        return mask
    raise TypeError(
        f"mask must be a Mask such as Causal(), got {type(mask).__name__}; a tensor goes "
        "to the call, forward(mask=...)"
    )


def _rotary(rotary: object, head_dim: int) -> RoPE | None:
    if rotary is None:
        return None
    if not isinstance(rotary, RoPE):
        raise TypeError(f"rotary must be a RoPE, got {rotary!r}; RoPE() makes one")
    rotary.frequencies(head_dim)  # refuses what does not fit
    return rotary


def _qk_norm(qk_norm: object, head_dim: int, num_heads: int) -> nn.Module | None:
    if qk_norm is None:
        return None
    if not isinstance(qk_norm, Part):
        raise TypeError(
            f"qk_norm must be a part, got {type(qk_norm).__name__}; "
            "part(RMSNorm) makes one"
        )
    if "num_heads" in inspect.signature(qk_norm.component).parameters:
        qk_norm = qk_norm.but(num_heads=num_heads)
    norm: nn.Module = qk_norm.build(head_dim)
    return norm


def _bias(bias: object, num_heads: int) -> Bias | None:
    if bias is None:
        return None
    if not isinstance(bias, Bias):
        raise TypeError(
            f"position_bias must be a Bias such as ALiBi({num_heads}), got "
            f"{describe(bias)}; a tensor goes to the call, forward(position_bias=...)"
        )
    if bias.num_heads != num_heads:
        raise ValueError(
            f"position_bias is made for num_heads={bias.num_heads}, but the attention "
            f"has num_heads={num_heads}; build both with the same number"
        )
    return bias
