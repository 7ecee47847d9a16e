"""Multi-head latent attention: keys and values of all heads from one small vector."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from tfdoc._call import added_scores, allowed_pairs, lined_up, places
from tfdoc._checks import positive_int
from tfdoc._given import build_core, given_mask, given_rotary
from tfdoc._linear import Linear
from tfdoc._scores import BiasLike, MaskLike
from tfdoc._tensor_checks import Positions, batch_of_vectors
from tfdoc.caches import Cache
from tfdoc.cores import DotProductCore
from tfdoc.masks import Mask
from tfdoc.norms import RMSNorm
from tfdoc.parts import Part, part
from tfdoc.positions import RoPE

__all__ = ["LatentAttention"]

_ROPE = RoPE()


class LatentAttention(nn.Module):
    r"""Multi-head latent attention (MLA) of DeepSeek-V2 and V3.

    .. math::
        c_t &= \operatorname{norm}(W_{DKV}\, x_t), \qquad
        k^R_t = \operatorname{RoPE}(W_{KR}\, x_t) \\
        k_{t,h} &= [W_{UK}^h\, c_t;\; k^R_t], \qquad v_{t,h} = W_{UV}^h\, c_t \\
        q_{t,h} &= [q^C_{t,h};\; \operatorname{RoPE}(q^R_{t,h})]

    Keys and values of all heads come from one latent :math:`c_t` of `kv_rank` numbers; a
    cache holds that and the one turned key :math:`k^R_t`, which all heads share. Turning
    has a key of its own since a turned :math:`W_{UK}^h c_t` could not be undone below
    (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1).

    Two forms give the same numbers. Expanded, keys and values are computed for each head:
    right for training and long prompts. Absorbed, :math:`(q^C)^T W_{UK} c` is read as
    :math:`(W_{UK}^T q^C)^T c`: the latents themselves are keys and values, one for all
    heads; right for decoding, where few queries meet many keys. The form that needs
    fewer multiplications is taken.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_heads : int
        H heads.
    head_dim : tuple of three int
        Widths of a head: of the part of queries and keys that is not turned, of the part
        that is, and of values; (128, 64, 128) in DeepSeek-V3.
    kv_rank : int
        Width R of the latent, 512 there.
    query_rank : int, optional
        Width of a latent of queries, 1536 there; they come from the token directly
        without. It spares weights, not cache.
    mask : Mask, optional
        Who may attend to whom in every call, as in ``Causal()``.
    rotary : RoPE, optional
        Turns the second part of queries and keys.
    core : Part
        Makes weights of scores; its scale is one over the root of the width of a whole
        key unless it says otherwise.
    norm : Part
        Of the latents, ``kv_a_norm`` and ``q_a_norm``.

    Raises
    ------
    TypeError, ValueError
        If a width is no positive integer, `mask`, `rotary` or `core` is of another type,
        or `rotary` does not fit its width.

    Notes
    -----
    Weights are named ``q_proj`` or ``q_a_proj, q_b_proj``; ``kv_a_proj`` makes latent
    and turned key, ``kv_b_proj`` keys and values of the latent, ``o_proj`` the result.
    The probes ``core.scores`` and ``core.weights`` hold shape (B, H, queries, keys).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, GrowingCache, LatentAttention
    >>> attention = LatentAttention(
    ...     64, num_heads=4, head_dim=(16, 8, 16), kv_rank=24, mask=Causal()
    ... )
    >>> cache = GrowingCache()
    >>> attention(torch.randn(1, 5, 64), cache=cache).shape
    torch.Size([1, 5, 64])
    >>> cache.nbytes == 5 * (24 + 8) * 4  # whatever the number of heads
    True
    """

    # One of the two ways to the queries is there.
    q_proj: nn.Module
    q_a_proj: nn.Module
    q_a_norm: nn.Module
    q_b_proj: nn.Module

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        head_dim: tuple[int, int, int],
        kv_rank: int,
        query_rank: int | None = None,
        mask: Mask | None = None,
        rotary: RoPE | None = _ROPE,
        core: Part[nn.Module] = part(DotProductCore),
        norm: Part[nn.Module] = part(RMSNorm),
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.num_heads = positive_int("num_heads", num_heads)
        self.kv_rank = positive_int("kv_rank", kv_rank)
        self.plain_dim, self.turned_dim, self.value_dim = _widths(head_dim)
        self.mask, self.rotary = given_mask(mask), given_rotary(rotary, self.turned_dim)

        width = self.plain_dim + self.turned_dim
        inner = (
            embed_dim if query_rank is None else positive_int("query_rank", query_rank)
        )
        if query_rank is not None:
            self.q_a_proj = Linear(embed_dim, query_rank, bias=False)
            self.q_a_norm = norm.build(query_rank)
        queries = Linear(inner, num_heads * width, bias=False)
        self.add_module("q_proj" if query_rank is None else "q_b_proj", queries)
        self.kv_a_proj = Linear(embed_dim, kv_rank + self.turned_dim, bias=False)
        self.kv_a_norm = norm.build(kv_rank)
        both = num_heads * (self.plain_dim + self.value_dim)
        self.kv_b_proj = Linear(kv_rank, both, bias=False)
        self.core = build_core(_scaled(core, width**-0.5), num_heads)
        self.o_proj = Linear(num_heads * self.value_dim, embed_dim, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        mask: MaskLike = None,
        positions: Positions = None,
        position_bias: BiasLike = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Let every token of `x`, shape (B, T, D), look at `x`; the shape stays.

        The keywords are those of :class:`~tfdoc.MultiHeadAttention`; the cache holds
        latents, shape (B, 1, S, R), and turned keys.
        """
        batch_of_vectors("x", x, self.embed_dim)
        at = places(positions, x, cache)
        plain, turned = self._queries(x).split([self.plain_dim, self.turned_dim], -1)
        latent, key = (
            self.kv_a_proj(x).unsqueeze(1).split([self.kv_rank, self.turned_dim], -1)
        )  # (B, 1, T, R), (B, 1, T, d)
        latent, key_at = self.kv_a_norm(latent), at
        if self.rotary is not None:
            turns = self.rotary.turns(turned, at)
            turned, key = self.rotary.turn(turned, turns), self.rotary.turn(key, turns)
        if cache is not None:
            latent, key, key_at = cache.update(latent, key, at)
        shape = (*plain.shape[:-1], key.shape[-2])
        allowed: MaskLike = self.mask
        if mask is not None or not lined_up(self.mask, at, key_at):
            allowed = allowed_pairs((self.mask, mask), shape, at, key_at, x.device)
        bias = added_scores((position_bias,), shape, at, key_at, x.device)
        attend = self._absorbed if self._absorbs(*shape[-2:]) else self._expanded
        heads = attend(plain, turned, latent, key, allowed, bias)  # (B, H, T, d_v)
        out: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return out

    def _queries(self, x: Tensor) -> Tensor:
        """Return queries, (B, H, T, d)."""
        if hasattr(self, "q_proj"):
            flat: Tensor = self.q_proj(x)
        else:
            flat = self.q_b_proj(self.q_a_norm(self.q_a_proj(x)))
        width = self.plain_dim + self.turned_dim
        return flat.reshape(*x.shape[:-1], self.num_heads, width).transpose(1, 2)

    def _absorbs(self, queries: int, keys: int) -> bool:
        """Compare the multiplications of both forms, for one head."""
        both = self.kv_rank * (self.plain_dim + self.value_dim)
        pair = self.plain_dim + self.turned_dim + self.value_dim
        absorbed = queries * both + queries * keys * (
            2 * self.kv_rank + self.turned_dim
        )
        return absorbed < keys * both + queries * keys * pair

    def _expanded(
        self,
        plain: Tensor,
        turned: Tensor,
        latent: Tensor,
        key: Tensor,
        mask: MaskLike,
        bias: BiasLike,
    ) -> Tensor:
        width = self.plain_dim + self.value_dim
        both = self.kv_b_proj(latent[:, 0])  # (B, S, H (d + d_v))
        both = both.reshape(*both.shape[:-1], self.num_heads, width).transpose(1, 2)
        own, value = both.split([self.plain_dim, self.value_dim], -1)
        shared = key.expand(-1, self.num_heads, -1, -1)
        query, keys = torch.cat([plain, turned], -1), torch.cat([own, shared], -1)
        heads: Tensor = self.core(query, keys, value, mask, bias=bias)
        return heads

    def _absorbed(
        self,
        plain: Tensor,
        turned: Tensor,
        latent: Tensor,
        key: Tensor,
        mask: MaskLike,
        bias: BiasLike,
    ) -> Tensor:
        weight = self.kv_b_proj.weight.view(self.num_heads, -1, self.kv_rank)
        to_key, to_value = weight.split([self.plain_dim, self.value_dim], 1)
        query = torch.cat([plain @ to_key, turned], -1)  # (B, H, T, R + d)
        keys = torch.cat([latent, key], -1)  # (B, 1, S, R + d)
        heads: Tensor = self.core(query, keys, latent, mask, bias=bias)
        out: Tensor = heads @ to_value.mT
        return out

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        widths = (self.plain_dim, self.turned_dim, self.value_dim)
        extras = {"mask": self.mask, "rotary": self.rotary}
        shown = "".join(f", {k}={v}" for k, v in extras.items() if v is not None)
        return f"num_heads={self.num_heads}, head_dim={widths}{shown}"


def _widths(head_dim: object) -> tuple[int, int, int]:
    if not isinstance(head_dim, tuple) or len(head_dim) != 3:
        raise ValueError(
            "head_dim must hold three widths (not turned, turned, values), such as "
            f"(128, 64, 128), got {head_dim!r}"
        )
    plain, turned, value = (positive_int("head_dim", width) for width in head_dim)
    return plain, turned, value


def _scaled(core: object, scale: float) -> object:
    """Give a core the scale of a whole key: in the absorbed form keys are wider."""
    if not isinstance(core, Part) or core.settings.get("scale") is not None:
        return core
    if "scale" not in inspect.signature(core.component).parameters:
        raise TypeError(
            f"core must take a scale, which {core!r} does not: a latent attention "
            "scales by the width of a whole key, not by that of its latents"
        )
    return core.but(scale=scale)
