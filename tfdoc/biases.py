"""What distance adds to a score: position biases, added before the softmax.

A bias is not a mask: a mask says *whether* a query may attend to a key, with True or
False; a bias says how much more or less it does, with a number.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import flag, positive_int
from tfdoc._tensor_checks import whole_positions

__all__ = ["ALiBi", "Bias", "RelativeBias"]


class Bias(ABC):
    """A number for each head, query and key, from their positions alone.

    Subclass it and write :meth:`between` to make your own.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import ALiBi, Bias
    >>> at = torch.arange(3)
    >>> isinstance(ALiBi(8), Bias), ALiBi(8)(at, at).shape  # (heads, queries, keys)
    (True, torch.Size([8, 3, 3]))
    """

    num_heads: int

    @abstractmethod
    def between(self, query: Tensor, key: Tensor) -> Tensor:
        """Return what is added to the scaled scores.

        Parameters
        ----------
        query, key : Tensor of int
            Positions that broadcast against each other, with room for the heads:
            (..., 1, queries, 1) and (..., 1, 1, keys).

        Returns
        -------
        Tensor
            Shape (..., H, queries, keys).
        """

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Evaluate on positions (queries,) or (B, queries) and the same for keys.

        Returns
        -------
        Tensor
            Shape (H, queries, keys), or (B, H, queries, keys) where positions differ
            from row to row of a batch.
        """
        return _evaluate(self, query, key)


def _evaluate(bias: Bias, query: Tensor, key: Tensor) -> Tensor:
    whole_positions("query", query)
    whole_positions("key", key)
    return bias.between(query[..., None, :, None], key[..., None, None, :])


@dataclass(frozen=True)
class ALiBi(Bias):
    r"""Attention with linear biases: the further a key, the less it counts.

    .. math:: b_{hij} = -m_h\,|i - j|, \qquad m_h = 2^{-8h/H} \text{ for } h = 1 \ldots H

    for H a power of two. For other H, the slopes of the next smaller power come first,
    then every second one of the next larger (Press et al. 2021, arXiv:2108.12409; BLOOM
    and MPT use it). The sign matters: with a plus, the far keys win.

    Parameters
    ----------
    num_heads : int
        H query heads.

    Raises
    ------
    TypeError, ValueError
        If `num_heads` is no positive integer, or positions are not whole.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import ALiBi
    >>> ALiBi(2).slopes()
    (0.0625, 0.00390625)
    >>> ALiBi(2)(torch.tensor([2]), torch.arange(3))[0]
    tensor([[-0.1250, -0.0625, -0.0000]])
    """

    num_heads: int

    def __post_init__(self) -> None:
        positive_int("num_heads", self.num_heads)

    def slopes(self) -> tuple[float, ...]:
        """Return the slope of each head, steepest first for powers of two."""
        below = 2 ** int(math.log2(self.num_heads))
        powers = [8 * (h + 1) / below for h in range(below)]
        between = [4 * (2 * h + 1) / below for h in range(self.num_heads - below)]
        return tuple(2.0**-power for power in powers + between)

    def between(self, query: Tensor, key: Tensor) -> Tensor:
        """Return minus the slope times the distance, in float32."""
        slopes = torch.tensor(self.slopes(), device=key.device, dtype=torch.float32)
        return -slopes[:, None, None] * (query - key).abs()


class RelativeBias(nn.Module, Bias):
    r"""T5's learned bias: one number for each head and each bucket of distances.

    .. math:: b_{hij} = W_{\text{bucket}(j - i),\,h}

    Near distances have a bucket each; beyond half of them buckets grow with the logarithm
    of the distance, so that the last one holds `max_distance` and all beyond
    (Raffel et al. 2020, arXiv:1910.10683, section 2.1). T5 shares one such table between
    all layers of a stack: give the same module to each of them. The stack copies it, so
    that models built from one recipe have a table each.

    Parameters
    ----------
    num_heads : int
        H query heads: the width of this table.
    num_buckets : int
        Rows of the table.
    max_distance : int
        In the last bucket, with what is further and a little of what is nearer.
    bidirectional : bool
        Whether keys after the query have half of the buckets for themselves. Without,
        as in a decoder, they all count as distance 0.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, the buckets are too few, or `max_distance`
        lies within the buckets of single distances.

    Notes
    -----
    The parameter ``weight`` has shape (num_buckets, H), like Hugging Face's
    ``relative_attention_bias.weight``. T5 also leaves out the division of scores by
    :math:`\sqrt{d}`.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import RelativeBias
    >>> bias = RelativeBias(8)
    >>> bias(torch.arange(5), torch.arange(5)).shape
    torch.Size([8, 5, 5])
    >>> bias.bucket(torch.tensor([-1000, -2, 0, 2, 1000]))
    tensor([15,  2,  0, 18, 31])
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = positive_int("num_heads", num_heads)
        self.num_buckets = positive_int("num_buckets", num_buckets)
        self.max_distance = positive_int("max_distance", max_distance)
        self.bidirectional = flag("bidirectional", bidirectional)
        sides = 2 if bidirectional else 1
        exact = num_buckets // sides // 2
        if exact < 1 or num_buckets % sides:
            raise ValueError(
                f"num_buckets={num_buckets} is too few or odd; {2 * sides} and larger "
                "even numbers can be halved for near and far"
            )
        if max_distance <= exact:
            raise ValueError(
                f"max_distance must be above {exact}, the distances with a bucket of "
                f"their own, got {max_distance}"
            )
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))
        nn.init.normal_(self.weight, std=0.02)

    def bucket(self, offset: Tensor) -> Tensor:
        """Return the row for each offset, the key's position minus the query's.

        Parameters
        ----------
        offset : Tensor of int
            Any shape.

        Returns
        -------
        Tensor of int
            Between 0 and ``num_buckets - 1``.
        """
        buckets = self.num_buckets // 2 if self.bidirectional else self.num_buckets
        distance = offset.abs() if self.bidirectional else (-offset).clamp(min=0)
        exact = buckets // 2
        # float32, as in the published models: another precision would round some
        # distances into the neighbouring bucket.
        far = (distance.clamp(min=1).float() / exact).log()
        far = far / math.log(self.max_distance / exact) * (buckets - exact)
        far = (exact + far.long()).clamp(max=buckets - 1)
        row = torch.where(distance < exact, distance, far)
        return row + (offset > 0) * buckets if self.bidirectional else row

    def between(self, query: Tensor, key: Tensor) -> Tensor:
        """Look the bias of each pair up."""
        rows = self.bucket(key - query).squeeze(-3)
        return F.embedding(rows, self.weight).movedim(-1, -3)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Evaluate on positions (queries,) or (B, queries) and the same for keys.

        Returns
        -------
        Tensor
            Shape (H, queries, keys), or (B, H, queries, keys).
        """
        return _evaluate(self, query, key)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return (
            f"{self.num_heads}, num_buckets={self.num_buckets}, max_distance="
            f"{self.max_distance}, bidirectional={self.bidirectional}"
        )
