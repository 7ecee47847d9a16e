"""Whole models: stacks of blocks over vectors, and over tokens."""

from __future__ import annotations

import copy
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from tfdoc._call import PairCall, stand
from tfdoc._checks import flag, positive_int
from tfdoc._tensor_checks import batch_of_vectors
from tfdoc.biases import RelativeBias
from tfdoc.cache_stacks import ModelCache, fitting_cache
from tfdoc.caches import Places
from tfdoc.embedding import Head, TokenEmbedding
from tfdoc.parts import Part, part

__all__ = ["Decoder", "Encoder"]

# What only blocks with cross-attention are told.
_CONTEXT = "context", "context_positions"
_WITHOUT = "blocks with cross-attention look at a context; give context="
_TOO_MUCH = (
    "no block of this model has cross-attention; leave context= out, or build it of "
    "PreNormCrossBlock"
)


class _Stack(nn.Module):
    """Blocks, one behind the other, and a norm at the end."""

    def __init__(
        self,
        embed_dim: int,
        blocks: tuple[Part[nn.Module], ...],
        norm: Part[nn.Module] | None,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        given: tuple[object, ...] = (*_tuple(blocks), *([] if norm is None else [norm]))
        for recipe in given:
            if not isinstance(recipe, Part):
                raise TypeError(
                    f"blocks and norm must be parts, got {type(recipe).__name__}; "
                    "write part(Component, ...) instead of Component(...)"
                )
        # Layers may share a bias, which is a module: each model has one of its own.
        own = copy.deepcopy(blocks)
        self.blocks = nn.ModuleList(block.build(embed_dim) for block in own)
        for module in self.blocks.modules():
            if isinstance(module, RelativeBias):
                module.to(torch.get_default_device())
        self.norm = nn.Identity() if norm is None else norm.build(embed_dim)

    def new_cache(self, max_length: int | None = None) -> ModelCache:
        """Make an empty cache for each block.

        A block whose attention sees a sliding window gets a
        :class:`~tfdoc.SlidingCache`; the others one with room for `max_length` tokens,
        or one that grows.

        Parameters
        ----------
        max_length : int, optional
            Tokens of prompt and continuation together.
        """
        return ModelCache(fitting_cache(block, max_length) for block in self.blocks)

    def _through(
        self, x: Tensor, at: Places, cache: ModelCache | None, call: dict[str, Any]
    ) -> Tensor:
        """Run the blocks on vectors; what stands at negative positions is nothing."""
        if isinstance(at, Tensor):
            x = x.masked_fill((at < 0).unsqueeze(-1), 0)
        if not (cache is None or isinstance(cache, ModelCache)):
            raise TypeError(
                f"cache must be a ModelCache, got {type(cache).__name__}; "
                "model.new_cache() makes one"
            )
        if cache is not None and len(cache) != len(self.blocks):
            raise ValueError(
                f"the cache has {len(cache)} layers and the model {len(self.blocks)} "
                "blocks; model.new_cache() makes one that fits"
            )
        asked = {name: call.pop(name) for name in _CONTEXT if name in call}
        crosses = [hasattr(block, "cross_attention") for block in self.blocks]
        if any(crosses) != ("context" in asked):
            raise ValueError(_WITHOUT if any(crosses) else _TOO_MUCH)
        for layer, block in enumerate(self.blocks):
            held = {} if cache is None else {"cache": cache[layer]}
            more = asked if crosses[layer] else {}
            x = block(x, positions=at, **held, **more, **call)
        return x


class Encoder(_Stack):
    """A stack of blocks over vectors, with an optional norm at its end.

    With post-norm blocks it equals :class:`torch.nn.TransformerEncoder`. A causal mask in
    the blocks' attention turns it into the trunk of a decoder.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    blocks : tuple of Part
        One part a layer; ``(block,) * 6`` repeats, and layers may differ.
    norm : Part, optional
        After the last block; pre-norm stacks need it.

    Raises
    ------
    TypeError, ValueError
        If `blocks` is not a tuple of parts, or a part refuses its settings or inputs.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Encoder, LayerNorm, TransformerBlock, part
    >>> block = part(TransformerBlock, num_heads=4)
    >>> encoder = Encoder(16, blocks=(block,) * 3, norm=part(LayerNorm))
    >>> encoder(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        blocks: tuple[Part[nn.Module], ...],
        norm: Part[nn.Module] | None = None,
    ) -> None:
        super().__init__(embed_dim, blocks, norm)

    def forward(
        self,
        x: Tensor,
        *,
        real: Tensor | None = None,
        cache: ModelCache | None = None,
        **call: Unpack[PairCall],
    ) -> Tensor:
        """Transform `x`.

        Parameters
        ----------
        x : Tensor
            Shape (B, T, D).
        real : Tensor of bool, optional
            True at tokens, False at padding, shape (B, T). Padding may stand on either
            side and hold anything, even NaN; it counts no position.
        cache : ModelCache, optional
            Of the tokens before `x`, from :meth:`~tfdoc.Encoder.new_cache`.
        mask, positions, position_bias : optional
            Every block's attention gets them; see :class:`~tfdoc.MultiHeadAttention`.

        Returns
        -------
        Tensor
            Shape (B, T, D).
        """
        batch_of_vectors("x", x, self.embed_dim)
        at = stand(x, real, call.pop("positions", None), cache)
        out: Tensor = self.norm(self._through(x, at, cache, dict(call)))
        return out


class Decoder(_Stack):
    r"""A language model: from tokens to the scores of the token that comes next.

    .. math:: z = \operatorname{head}(\operatorname{norm}(\operatorname{blocks}(
              \operatorname{embed}(\text{tokens}))))

    The future must be hidden by the blocks: ``MultiHeadAttention`` with
    ``mask=Causal()``. GPT, Llama, Mixtral and their kind are this class with other parts.

    Parameters
    ----------
    embed_dim : int
        Width D of the residual stream.
    vocab_size : int
        V, the number of tokens there are.
    blocks : tuple of Part
        One part a layer; ``(block,) * 6`` repeats, and layers may differ.
    norm : Part, optional
        After the last block; pre-norm stacks need it.
    positions, embed_norm, embed_scale, dropout : optional
        Of the :class:`~tfdoc.TokenEmbedding`: ``positions=part(LearnedPositions, ...)``.
    tied : bool
        Whether the head's weight is that of the embedding.
    head : Part
        Built for the widths D and V: ``part(Head, softcap=30.0)``.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, or a part is none or refuses its settings.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, Decoder, LayerNorm, TransformerBlock, part
    >>> block = part(TransformerBlock, num_heads=4, mask=Causal())
    >>> model = Decoder(16, vocab_size=97, blocks=(block,) * 2, norm=part(LayerNorm))
    >>> model(torch.tensor([[5, 3, 96]])).shape
    torch.Size([1, 3, 97])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        vocab_size: int,
        blocks: tuple[Part[nn.Module], ...],
        norm: Part[nn.Module] | None = None,
        positions: Part[nn.Module] | None = None,
        embed_norm: Part[nn.Module] | None = None,
        embed_scale: float = 1.0,
        dropout: float = 0.0,
        tied: bool = False,
        head: Part[nn.Module] = part(Head),
    ) -> None:
        super().__init__(embed_dim, blocks, norm)
        self.embed = TokenEmbedding(
            embed_dim,
            vocab_size=vocab_size,
            positions=positions,
            norm=embed_norm,
            scale=embed_scale,
            dropout=dropout,
        )
        given: object = head
        if not isinstance(given, Part):
            raise TypeError(
                f"head must be a part, got {type(given).__name__}; part(Head) makes one"
            )
        self.tied = flag("tied", tied)
        self.head = head.build(
            embed_dim, vocab_size, **({"tied": True} if tied else {})
        )

    @property
    def vocab_size(self) -> int:
        """V, the number of tokens there are."""
        return self.embed.vocab_size

    def forward(
        self,
        tokens: Tensor,
        *,
        real: Tensor | None = None,
        cache: ModelCache | None = None,
        last: bool = False,
        **call: Any,
    ) -> Tensor:
        """Score what comes after each token.

        Parameters
        ----------
        tokens : Tensor of int
            Shape (B, T).
        real : Tensor of bool, optional
            True at tokens, False at padding, shape (B, T). Padding may stand on either
            side; it counts no position.
        cache : ModelCache, optional
            Of the tokens before these, from :meth:`~tfdoc.Decoder.new_cache`; these are
            added to it.
        last : bool
            Score the last position only: all that a continuation needs.
        mask, positions, position_bias : optional
            Every block's attention gets them; see :class:`~tfdoc.MultiHeadAttention`.
        context, context_positions : optional
            What blocks with cross-attention look at.

        Returns
        -------
        Tensor
            Shape (B, T, V), or (B, 1, V) for the last position.
        """
        at = stand(tokens, real, call.pop("positions", None), cache)
        x = self._through(self.embed(tokens, at), at, cache, call)
        x = self.norm(x[:, -1:] if last else x)
        logits: Tensor = self.head(x, self.embed.weight) if self.tied else self.head(x)
        return logits


def _tuple(blocks: object) -> tuple[object, ...]:
    if isinstance(blocks, tuple) and blocks:
        return blocks
    raise TypeError(
        f"blocks must be a tuple with a part for each layer, got {blocks!r}; "
        "(block,) * 6 repeats one"
    )
