"""Caches whose size is known beforehand: a room to fill, and a window that moves."""

from __future__ import annotations

import torch
from torch import Tensor

from tfdoc._checks import count, positive_int
from tfdoc.caches import Cache, Places

__all__ = ["PreallocatedCache", "SlidingCache"]


class PreallocatedCache(Cache):
    """A cache with room for `max_length` tokens, made once and written in place.

    The first call makes the room, in the shape, precision and place of its keys. Its
    numbers are overwritten in place, so gradients do not pass through several calls.

    Parameters
    ----------
    max_length : int
        Tokens there is room for.

    Raises
    ------
    TypeError, ValueError
        If `max_length` is no positive integer, or a call needs more room.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import PreallocatedCache
    >>> cache = PreallocatedCache(100)
    >>> key, value, first = cache.update(*torch.randn(2, 1, 4, 7, 16))
    >>> key.shape, first, cache.nbytes == 100 * 4 * (16 + 16) * 4
    (torch.Size([1, 4, 7, 16]), 0, True)
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = positive_int("max_length", max_length)

    def _check(self, key: Tensor, value: Tensor) -> None:
        super()._check(key, value)
        tokens = key.shape[-2]
        if self.length + tokens > self.max_length:
            raise ValueError(
                f"the cache has room for max_length={self.max_length} tokens and holds "
                f"{self.length}; {tokens} more do not fit"
            )

    def _add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Places]:
        tokens = key.shape[-2]
        if self.key is None or self.value is None:
            self.key, self.value = self._room(key), self._room(value)
        self.key.narrow(-2, self.length - tokens, tokens).copy_(key)
        self.value.narrow(-2, self.length - tokens, tokens).copy_(value)
        return self._seen(self.key, self.value)

    def _room(self, x: Tensor) -> Tensor:
        return x.new_empty(*x.shape[:-2], self.max_length, x.shape[-1])

    def held(self) -> tuple[Tensor, Tensor, Places]:
        """Return keys, values and positions without adding any."""
        key, value, _ = super().held()
        return self._seen(key, value)

    def _seen(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Places]:
        at = 0 if self._at is None else self._at
        return key.narrow(-2, 0, self.length), value.narrow(-2, 0, self.length), at

    def _crop(self, keep: int) -> None:
        """Leave the room as it is: what lies beyond the length is not read."""


class SlidingCache(Cache):
    """A cache of the last `window` - 1 tokens, all that the next one still sees.

    For attention with ``Causal() & Window(window)``: memory stays the same however long
    the text (Jiang et al. 2023, *Mistral 7B*, arXiv:2310.06825).

    Parameters
    ----------
    window : int
        Tokens that a query sees, itself included.

    Raises
    ------
    TypeError, ValueError
        If `window` is no positive integer, or a crop asks for tokens that were dropped.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import SlidingCache
    >>> cache = SlidingCache(4)
    >>> for token in torch.randn(10, 2, 1, 1, 1, 8):
    ...     key, value, first = cache.update(*token)
    >>> key.shape[-2], first, cache.nbytes == 3 * (8 + 8) * 4
    (4, 6, True)
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = positive_int("window", window)

    def _first(self) -> int:
        return self.length - (0 if self.key is None else self.key.shape[-2])

    def _add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Places]:
        if self.key is not None and self.value is not None:
            key = torch.cat([self.key, key], -2)
            value = torch.cat([self.value, value], -2)
        self.key, self.value = key, value
        seen = self.held()
        if (keep := max(1, self.window - 1)) < key.shape[-2]:
            self._keep(keep)
        return seen

    def _keep(self, tokens: int) -> None:
        """Drop all but the last tokens of each row, where padding counts as none."""
        assert self.key is not None  # noqa: S101
        assert self.value is not None  # noqa: S101
        if self._at is None:  # a copy: a slice would keep the bytes of what is dropped
            self.key = self.key[..., -tokens:, :].clone()
            self.value = self.value[..., -tokens:, :].clone()
            return
        last = self._at.topk(tokens, -1).indices.sort(-1).values
        self._at = self._at.gather(-1, last)
        rows = last.expand(len(self.key), -1)[:, None, :, None]
        self.key, self.value = (
            x.gather(2, rows.expand(-1, x.shape[1], -1, x.shape[-1]))
            for x in (self.key, self.value)
        )

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens, as far as those are held.

        Raises
        ------
        ValueError
            If tokens that the next one would see were dropped, or fewer were seen.
        """
        first = self._first()
        least = max(0, length - self.window + 1) if self._at is None else 0
        if count("length", length) and first > least:
            raise ValueError(
                f"cannot crop to {length} tokens: of the {self.length} seen, those "
                f"before {first} were dropped; crop less, or begin with a new cache"
            )
        super().crop(length)
