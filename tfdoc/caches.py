"""What decoding keeps: the keys and values of the tokens that went before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from tfdoc._checks import count
from tfdoc._tensor_checks import vectors

__all__ = ["Cache", "GrowingCache"]

# Where keys stand: an int, the position of the first with the others behind it; or the
# position of each, (S,) or (B, S), negative where there is no token.
Places = int | Tensor


class Cache(ABC):
    """The keys and values of one attention, with their positions.

    With it a token costs the work of one token: keys and values of those before it are
    not computed again. A latent attention keeps its latents in the same way.

    Attributes
    ----------
    length : int
        Tokens seen so far, padding included.
    key, value : torch.Tensor or None
        What is held, shape (B, G, S, d) and (B, G, S, d_v); None before the first token.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Cache, GrowingCache
    >>> cache = GrowingCache()
    >>> isinstance(cache, Cache), cache.length
    (True, 0)
    """

    def __init__(self) -> None:
        self.length = 0
        self.key: Tensor | None = None
        self.value: Tensor | None = None
        self._at: Tensor | None = None  # None: the tokens stand one behind the other

    def update(
        self, key: Tensor, value: Tensor, positions: Places | None = None
    ) -> tuple[Tensor, Tensor, Places]:
        """Add tokens behind those held, and return what their queries may see.

        Parameters
        ----------
        key, value : Tensor
            Of the new tokens, shape (B, G, T, d) and (B, G, T, d_v).
        positions : int or Tensor of int, optional
            Where they stand: behind those held by default.

        Returns
        -------
        tuple
            Keys, shape (B, G, S, d), and values, (B, G, S, d_v), the new ones last; and
            where they stand: the position of the first, or of all, (S,) or (B, S).

        Raises
        ------
        ValueError
            If shapes do not fit what is held, or there is no more room.
        """
        self._check(key, value)
        tokens = key.shape[-2]
        if positions is None:
            positions = self.ahead(tokens)
        behind = not isinstance(positions, Tensor) and positions == self.length
        if self._at is not None or not behind:
            self._place(positions, tokens, key.device)
        self.length += tokens
        return self._add(key, value)

    def _check(self, key: Tensor, value: Tensor) -> None:
        """Refuse what does not continue what is held."""
        pairs: Any = ("key", key, self.key), ("value", value, self.value)
        for name, new, old in pairs:
            if old is not None and isinstance(new, Tensor) and new.dtype is old.dtype:
                shape, held = new.shape, old.shape
                if shape[:-2] == held[:-2] and shape[-1] == held[-1]:
                    continue
            vectors(name, new, ndim=4)
            if old is not None:
                raise ValueError(
                    f"{name} of shape {tuple(new.shape)} and {new.dtype} does not "
                    f"continue what the cache holds, shape {tuple(old.shape)} and "
                    f"{old.dtype}: all but the tokens must agree; a new batch needs a "
                    "new cache"
                )

    @abstractmethod
    def _add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Places]:
        """Store the new tokens; `length` counts them already."""

    def _place(self, new: Places, tokens: int, device: torch.device) -> None:
        """Append positions that do not simply go on."""
        old = self._at
        if old is None:
            old = torch.arange(self._first(), self.length, device=device)
        if not isinstance(new, Tensor):
            new = torch.arange(new, new + tokens, device=device)
        if old.ndim < new.ndim:
            old = old.expand(len(new), -1)
        elif new.ndim < old.ndim:
            new = new.expand(len(old), -1)
        self._at = torch.cat([old, new], -1)

    def _first(self) -> int:
        """Position of the first key held, where they stand one behind the other."""
        return 0

    def held(self) -> tuple[Tensor, Tensor, Places]:
        """Return keys, values and positions without adding any.

        Raises
        ------
        ValueError
            If nothing is held yet.
        """
        if self.key is None or self.value is None:
            raise ValueError("the cache is empty; a first call of update fills it")
        return self.key, self.value, self._first() if self._at is None else self._at

    def ahead(self, tokens: int = 1) -> Places:
        """Return the positions of the next `tokens`: behind the last, row by row.

        Returns
        -------
        int or Tensor of int
            The first one's where rows do not differ, else all, shape (B, tokens).
        """
        if self._at is None or not self.length:
            return self.length
        start = self._at.amax(-1, keepdim=True) + 1
        return start + torch.arange(tokens, device=start.device)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held, or of the room made for them."""
        return sum(x.nbytes for x in (self.key, self.value) if x is not None)

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may come several times.

        Parameters
        ----------
        rows : Tensor of int
            Shape (new B,): beam search keeps the best continuations this way.
        """
        if self.key is not None and self.value is not None:
            self.key = self.key.index_select(0, rows)
            self.value = self.value.index_select(0, rows)
        if self._at is not None and self._at.ndim == 2:
            self._at = self._at.index_select(0, rows)

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises
        ------
        ValueError
            If fewer are held.
        """
        if count("length", length) > self.length:
            raise ValueError(
                f"length must be at most {self.length}, the tokens seen, got {length}"
            )
        keep = max(0, length - self._first())
        self._crop(keep)
        self.length = length
        if self._at is not None:
            self._at = self._at[..., :keep]

    def _crop(self, keep: int) -> None:
        if self.key is not None and self.value is not None:
            self.key = self.key[..., :keep, :].clone()
            self.value = self.value[..., :keep, :].clone()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(length={self.length}, nbytes={self.nbytes:,})"


class GrowingCache(Cache):
    r"""A cache that holds all tokens and grows with each call.

    After S tokens of B rows it holds :math:`B\,S\,G\,(d + d_v)` numbers. Each call copies
    what is held into a new tensor; where the final length is known,
    :class:`PreallocatedCache` writes in place. Gradients pass through.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Causal, GrowingCache, MultiHeadAttention
    >>> attention = MultiHeadAttention(8, num_heads=2, mask=Causal()).eval()
    >>> x, cache = torch.randn(1, 5, 8), GrowingCache()
    >>> steps = [attention(token, cache=cache) for token in x.split(1, dim=1)]
    >>> torch.testing.assert_close(torch.cat(steps, 1), attention(x))
    >>> cache
    GrowingCache(length=5, nbytes=320)
    """

    def _add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Places]:
        if self.key is not None and self.value is not None:
            key = torch.cat([self.key, key], -2)
            value = torch.cat([self.value, value], -2)
        self.key, self.value = key, value
        return self.held()
