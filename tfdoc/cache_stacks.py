"""The caches of several attentions together: of a block, of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

from torch import Tensor, nn

from tfdoc.bounded_caches import PreallocatedCache, SlidingCache
from tfdoc.caches import Cache, GrowingCache, Places
from tfdoc.masks import Mask

__all__ = ["ModelCache", "PairedCache"]


class PairedCache:
    """Of a decoder's block with cross-attention: its own tokens, and the context's.

    Keys and values of the context are computed at the first call and stay.

    Parameters
    ----------
    own : Cache
        Of the self-attention.

    Attributes
    ----------
    context : GrowingCache
        Of the cross-attention.

    Examples
    --------
    >>> from tfdoc import GrowingCache, PairedCache
    >>> PairedCache(GrowingCache()).nbytes
    0
    """

    def __init__(self, own: Cache) -> None:
        self.own, self.context = own, GrowingCache()

    @property
    def length(self) -> int:
        """Tokens of the decoder seen so far."""
        return self.own.length

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.own.nbytes + self.context.nbytes

    def ahead(self, tokens: int = 1) -> Places:
        """Return the positions of the decoder's next tokens."""
        return self.own.ahead(tokens)

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the batch in both."""
        self.own.reorder(rows)
        self.context.reorder(rows)

    def crop(self, length: int) -> None:
        """Forget all but the decoder's first `length` tokens; the context stays."""
        self.own.crop(length)


class ModelCache(tuple[Cache | PairedCache, ...]):
    """The caches of a model, one for each block.

    Made by ``model.new_cache()``; made by hand where layers shall differ.

    Parameters
    ----------
    layers : iterable of Cache
        One for each block.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> from tfdoc import GrowingCache, ModelCache
    >>> cache = ModelCache(GrowingCache() for _ in range(12))
    >>> len(cache), cache.length, cache.nbytes
    (12, 0, 0)
    """

    __slots__ = ()

    def __new__(cls, layers: Iterable[Cache | PairedCache]) -> Self:
        """Make it of `layers`."""
        made = super().__new__(cls, layers)
        if not made:
            raise ValueError("layers must hold a cache for each block, got none")
        return made

    @property
    def length(self) -> int:
        """Tokens seen so far."""
        return self[0].length

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""
        return sum(layer.nbytes for layer in self)

    def ahead(self, tokens: int = 1) -> Places:
        """Return the positions of the next tokens, as :meth:`Cache.ahead` does."""
        return self[0].ahead(tokens)

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, in every layer."""
        for layer in self:
            layer.reorder(rows)

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens in every layer."""
        for layer in self:
            layer.crop(length)


def fitting_cache(block: nn.Module, max_length: int | None) -> Cache | PairedCache:
    """Choose a cache for a block: one that slides where its attention sees a window."""
    own: Cache = GrowingCache() if max_length is None else PreallocatedCache(max_length)
    for part_ in getattr(block, "attention", block).modules():
        mask = getattr(part_, "mask", None)
        band = mask.band() if isinstance(mask, Mask) else None
        if band is not None and math.isfinite(band[0]):
            own = SlidingCache(int(band[0]) + 1)
    return PairedCache(own) if hasattr(block, "cross_attention") else own
