"""Multi-head attention: several small attentions side by side."""

from __future__ import annotations

from torch import Tensor, nn

from tfdoc._call import added_scores, allowed_pairs, lined_up, places
from tfdoc._checks import divides, positive_int
from tfdoc._given import (
    build_core,
    build_norm,
    given_bias,
    given_mask,
    given_rotary,
)
from tfdoc._linear import Linear
from tfdoc._scores import BiasLike, MaskLike
from tfdoc._tensor_checks import Positions, batch_of_vectors
from tfdoc.biases import Bias
from tfdoc.caches import Cache, Places
from tfdoc.cores import DotProductCore
from tfdoc.masks import Mask
from tfdoc.parts import Part, part
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
    head_dim : int or pair of int, optional
        Width d of a head; D / H by default, where H must divide D. A pair gives heads
        of values a width of their own: (d, d_v).
    bias : bool or str
        Which of the four projections have a bias: all, none, ``"qkv"`` (Qwen 2) or
        ``"out"`` (GPT-Neo).
    core : Part
        What makes weights of scores and sums the values:
        ``part(DotProductCore, dropout=0.1)``, or another core. One that takes
        ``num_heads`` is told how many there are.
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
        named), `core`, `mask`, `rotary`, `qk_norm` or `position_bias` is of another
        type, or `rotary` does not fit the head width.

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
        head_dim: int | tuple[int, int] | None = None,
        bias: bool | str = True,
        core: Part[nn.Module] = part(DotProductCore),
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
        self.head_dim, self.value_dim = _widths(head_dim, embed_dim, num_heads)
        self.mask, self.rotary = given_mask(mask), given_rotary(rotary, self.head_dim)
        self.position_bias = given_bias(position_bias, num_heads)

        inner, outer = _biased(bias)
        self.q_proj = Linear(embed_dim, num_heads * self.head_dim, inner)
        self.k_proj = Linear(embed_dim, num_kv_heads * self.head_dim, inner)
        self.v_proj = Linear(embed_dim, num_kv_heads * self.value_dim, inner)
        self.q_norm = build_norm(qk_norm, self.head_dim, num_heads)
        self.k_norm = build_norm(qk_norm, self.head_dim, num_kv_heads)
        self.core = build_core(core, num_heads)
        self.o_proj = Linear(num_heads * self.value_dim, embed_dim, outer)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: MaskLike = None,
        positions: Positions = None,
        context_positions: Positions = None,
        position_bias: BiasLike = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Let every token of `x` look at `x`, or at `context`.

        Parameters
        ----------
        x : Tensor
            Who asks, shape (B, T, D).
        context : Tensor, optional
            Who is asked, shape (B, S, D); `x` by default.
        mask : Tensor of bool or Mask, optional
            True = may attend; broadcasts to (B, H, T, S). Both this mask and the
            constructor's must allow a pair.
        positions : int or Tensor of int, optional
            Where the tokens of `x` stand: 0 ... T-1 by default, or behind those of the
            cache; an offset; or positions of shape (T,) or (B, T). A negative position
            is no token, and nobody attends to it.
        context_positions : int or Tensor of int, optional
            Where the tokens of `context` stand, in the same way.
        position_bias : Tensor or Bias, optional
            Added to the scores, besides the constructor's; broadcasts to (B, H, T, S).
        cache : Cache, optional
            Keys and values of the tokens before `x`; those of `x` are added to it. With
            a `context` it keeps those of the context from the first call on, and later
            calls do not read `context` again.

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
        at = places(positions, x, cache if context is None else None)
        query = _heads(self.q_proj(x), self.head_dim, self.q_norm)  # (B, H, T, d)
        turns = None
        if self.rotary is not None:  # looked up once, for queries and keys
            turns = self.rotary.turns(query, at)
            query = self.rotary.turn(query, turns)
        if context is None:
            key, value, key_at = self._keys(x, at, turns)
            if cache is not None:
                key, value, key_at = cache.update(key, value, key_at)
        else:
            key, value, key_at = self._asked(x, context, context_positions, cache)
        shape = (*query.shape[:-1], key.shape[-2])
        allowed: MaskLike = self.mask  # the core may know it without a matrix
        plain = mask is None and context is None
        if not (plain and lined_up(self.mask, at, key_at)):
            allowed = allowed_pairs((self.mask, mask), shape, at, key_at, x.device)
        bias = None
        if not (position_bias is self.position_bias is None):
            biases = (self.position_bias, position_bias)
            bias = added_scores(biases, shape, at, key_at, x.device)
        heads = self.core(query, key, value, allowed, bias=bias)  # (B, H, T, d_v)
        out: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return out

    def _keys(
        self, x: Tensor, at: Places, turns: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Places]:
        """Return keys (B, G, T, d) and values (B, G, T, d_v) of `x`, and their places."""
        key = _heads(self.k_proj(x), self.head_dim, self.k_norm)
        value = _heads(self.v_proj(x), self.value_dim)
        if self.rotary is not None:
            turns = self.rotary.turns(key, at) if turns is None else turns
            key = self.rotary.turn(key, turns)
        return key, value, at

    def _asked(
        self, x: Tensor, context: Tensor, positions: Positions, cache: Cache | None
    ) -> tuple[Tensor, Tensor, Places]:
        """Return the context's keys and values: the cache's, once it holds them."""
        if cache is not None and cache.length:
            return cache.held()
        batch_of_vectors("context", context, self.embed_dim)
        if context.shape[0] != x.shape[0]:
            raise ValueError(
                f"x and context must have the same batch size, got {x.shape[0]} "
                f"and {context.shape[0]}"
            )
        keys = self._keys(context, places(positions, context))
        return keys if cache is None else cache.update(*keys)

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


def _heads(x: Tensor, width: int, norm: nn.Module | None = None) -> Tensor:
    """Split (B, T, heads * width) into (B, heads, T, width), and normalise each head."""
    heads = x.reshape(*x.shape[:-1], x.shape[-1] // width, width)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def _widths(
    head_dim: int | tuple[int, int] | None, embed_dim: int, num_heads: int
) -> tuple[int, int]:
    if head_dim is None:
        divides("num_heads", num_heads, "embed_dim", embed_dim)
        head_dim = embed_dim // num_heads
    if not isinstance(head_dim, tuple):
        return positive_int("head_dim", head_dim), head_dim
    if len(head_dim) != 2:
        raise ValueError(
            f"head_dim must be one width, or two for queries and values, got {head_dim}"
        )
    query, value = (positive_int("head_dim", width) for width in head_dim)
    return query, value


def _biased(bias: object) -> tuple[bool, bool]:
    """Say whether the projections into the heads have a bias, and the one out."""
    if isinstance(bias, bool):
        return bias, bias
    if bias in ("qkv", "out"):
        return bias == "qkv", bias == "out"
    raise ValueError(f"bias must be True, False, 'qkv' or 'out', got {bias!r}")
