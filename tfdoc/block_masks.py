"""More masks: chunks, blocks that see themselves whole, and a prefix for all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tfdoc._checks import positive_int
from tfdoc.masks import Mask

__all__ = ["BlockCausal", "Chunked", "Prefix"]


@dataclass(frozen=True)
class Chunked(Mask):
    """A query sees the positions of its own chunk.

    ``Causal() & Chunked(8192)`` is the local attention of Llama 4: unlike a sliding
    window it forgets everything at each border, so that a chunk can be computed alone.

    Parameters
    ----------
    size : int
        Positions in a chunk: 0 ... size-1 are the first.

    Raises
    ------
    TypeError, ValueError
        If `size` is not a positive integer.

    Examples
    --------
    >>> from tfdoc import Causal, Chunked
    >>> (Causal() & Chunked(2)).table(4).int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """

    size: int

    def __post_init__(self) -> None:
        positive_int("size", self.size)

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether both stand in one chunk."""
        return query // self.size == key // self.size


@dataclass(frozen=True)
class BlockCausal(Mask):
    """A query sees its own block whole, and all blocks before it.

    Causal between blocks, open within: frames of a video, scales of an image, or the
    blocks of a diffusion language model (Arriola et al. 2025, arXiv:2503.09573).
    ``BlockCausal(1)`` is ``Causal()``.

    Parameters
    ----------
    size : int
        Positions in a block: 0 ... size-1 are the first.

    Raises
    ------
    TypeError, ValueError
        If `size` is not a positive integer.

    Examples
    --------
    >>> from tfdoc import BlockCausal
    >>> BlockCausal(2).table(4).int()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 1],
            [1, 1, 1, 1]], dtype=torch.int32)
    """

    size: int

    def __post_init__(self) -> None:
        positive_int("size", self.size)

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether the key's block is the query's or one before it."""
        return key // self.size <= query // self.size


@dataclass(frozen=True)
class Prefix(Mask):
    """Everyone sees the first positions.

    ``Causal() | Prefix(n)`` is a prefix language model: the first n tokens, such as a
    question or an image, see each other both ways, and what follows is causal (Raffel et
    al. 2020, arXiv:1910.10683, section 3.2.1; PaliGemma). ``Causal() & (Window(w) |
    Prefix(4))`` is a window that keeps the first tokens, StreamingLLM's sinks (Xiao et
    al. 2023, arXiv:2309.17453).

    Parameters
    ----------
    length : int
        How many positions from 0 on.

    Raises
    ------
    TypeError, ValueError
        If `length` is not a positive integer.

    Examples
    --------
    >>> from tfdoc import Causal, Prefix
    >>> (Causal() | Prefix(2)).table(4).int()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0],
            [1, 1, 1, 0],
            [1, 1, 1, 1]], dtype=torch.int32)
    """

    length: int

    def __post_init__(self) -> None:
        positive_int("length", self.length)

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        """Return ``key < length``."""
        del query  # the first positions are seen by whoever asks
        return key < self.length
