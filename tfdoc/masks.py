"""Who may look at whom: masks as predicates of absolute positions.

``True`` means *may attend*, everywhere. A mask is called with the positions of the
queries and of the keys; so a cache, a chunk or a padded row needs no special case.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfdoc._checks import positive_int
from tfdoc._tensor_checks import describe, whole_positions

__all__ = ["Causal", "Mask", "Padding", "Window"]


class Mask(ABC):
    """A predicate of a query's and a key's position.

    Subclass it and write :meth:`allows` to make your own; combine masks with ``&``
    (both), ``|`` (either) and ``~`` (not).

    Examples
    --------
    >>> from tfdoc import Causal, Window
    >>> (Causal() & Window(2)).table(4).int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """

    @abstractmethod
    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Say for each pair whether the query may attend to the key.

        Parameters
        ----------
        query, key : Tensor of int
            Positions that broadcast against each other: (..., queries, 1) and
            (..., 1, keys).

        Returns
        -------
        Tensor of bool
            Shape (..., queries, keys), or one that broadcasts to it.
        """

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Evaluate on positions (queries,) or (B, queries) and the same for keys.

        Returns
        -------
        Tensor of bool
            Shape (queries, keys), or (B, 1, queries, keys) where the positions or
            the mask differ from row to row of a batch.
        """
        whole_positions("query", query)
        whole_positions("key", key)
        per_row = query.ndim == 2 or key.ndim == 2
        if per_row:  # room for the heads: (B, 1, T)
            query, key = (at[:, None] if at.ndim == 2 else at for at in (query, key))
        shape = torch.broadcast_shapes(query.shape[:-1], key.shape[:-1])
        allowed = self.allows(query[..., :, None], key[..., None, :])
        table = torch.Size([*shape, query.shape[-1], key.shape[-1]])
        return allowed.expand(torch.broadcast_shapes(allowed.shape, table))

    def band(self) -> tuple[float, float] | None:
        """Return how far back and ahead a query sees, if distance is all that counts."""
        return None

    def table(self, length: int) -> Tensor:
        """Return the mask over positions 0 to ``length - 1``, queries in rows.

        Returns
        -------
        Tensor of bool
            Shape (length, length), or (B, 1, length, length) for :class:`Padding`.
        """
        at = torch.arange(positive_int("length", length))
        return self(at, at)

    def __and__(self, other: Mask) -> Mask:
        return _And(self, _mask(other, "&"))

    def __or__(self, other: Mask) -> Mask:
        return _Or(self, _mask(other, "|"))

    def __invert__(self) -> Mask:
        return _Not(self)


@dataclass(frozen=True)
class Causal(Mask):
    """A query sees its own position and those before it.

    Examples
    --------
    >>> from tfdoc import Causal
    >>> Causal().table(3).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Return ``key <= query``."""
        return key <= query

    def band(self) -> tuple[float, float]:
        """Return all before, nothing after."""
        return math.inf, 0


@dataclass(frozen=True)
class Window(Mask):
    """A query sees positions closer than `size`, on both sides.

    ``Causal() & Window(n)`` is the sliding window of Mistral: the last n positions,
    its own included (Beltagy et al. 2020, *Longformer*, and Jiang et al. 2023).

    Parameters
    ----------
    size : int
        1 sees itself only; the length of the sequence or more sees everything.

    Raises
    ------
    TypeError, ValueError
        If `size` is not a positive integer.

    Examples
    --------
    >>> from tfdoc import Window
    >>> Window(2).table(3).int()
    tensor([[1, 1, 0],
            [1, 1, 1],
            [0, 1, 1]], dtype=torch.int32)
    """

    size: int

    def __post_init__(self) -> None:
        positive_int("size", self.size)

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Return ``|query - key| < size``."""
        return (query - key).abs() < self.size

    def band(self) -> tuple[float, float]:
        """Return ``size - 1`` on both sides."""
        return self.size - 1, self.size - 1


class Padding(Mask):
    """Each row of a batch sees its own tokens only, not what fills it up.

    It depends on the batch: give it to a model's call, not to its constructor.

    Parameters
    ----------
    lengths : Tensor of int or sequence of int
        Tokens in each row, shape (B,); the filling stands behind them.

    Raises
    ------
    TypeError
        If `lengths` is not one whole number a row, as with a 0/1 mask of shape (B, T).
    ValueError
        If a length is negative.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Padding
    >>> Padding([1, 3])(torch.arange(3), torch.arange(3))[:, 0, 0].int()
    tensor([[1, 0, 0],
            [1, 1, 1]], dtype=torch.int32)
    """

    def __init__(self, lengths: Tensor | list[int] | tuple[int, ...]) -> None:
        at = torch.as_tensor(lengths)
        if at.ndim != 1 or at.is_floating_point() or at.dtype is torch.bool:
            raise TypeError(
                "lengths must hold one whole number for each row of the batch, "
                f"got {describe(at)}; a 0/1 mask of shape (B, T) has mask.sum(1)"
            )
        if at.device.type != "meta" and bool((at < 0).any()):
            raise ValueError(f"lengths must be at least 0, got {at.tolist()}")
        self.lengths = at

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Return ``key < length`` of the row."""
        del query  # padding hides keys, whoever asks
        return key < self.lengths.to(key.device)[:, None, None, None]

    def __repr__(self) -> str:
        return f"Padding({self.lengths.tolist()})"


@dataclass(frozen=True, repr=False)
class _And(Mask):
    left: Mask
    right: Mask

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.left.allows(query, key) & self.right.allows(query, key)

    def band(self) -> tuple[float, float] | None:
        left, right = self.left.band(), self.right.band()
        if left is None or right is None:
            return None
        return min(left[0], right[0]), min(left[1], right[1])

    def __repr__(self) -> str:
        return f"({self.left} & {self.right})"


@dataclass(frozen=True, repr=False)
class _Or(Mask):
    left: Mask
    right: Mask

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return self.left.allows(query, key) | self.right.allows(query, key)

    def __repr__(self) -> str:
        return f"({self.left} | {self.right})"


@dataclass(frozen=True, repr=False)
class _Not(Mask):
    mask: Mask

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        return ~self.mask.allows(query, key)

    def __repr__(self) -> str:
        return f"~{self.mask}"


def _mask(value: Any, sign: str) -> Mask:
    if isinstance(value, Mask):
        return value
    raise TypeError(
        f"a mask combines with masks by {sign!r}, got {describe(value)}; give a bool "
        "tensor to the call, forward(mask=...)"
    )
