"""Weights for one layout of RoPE's pairs made into weights for the other."""

from __future__ import annotations

import torch
from torch import Tensor

from tfdoc._checks import divides, positive_int

__all__ = ["half_to_interleaved", "interleaved_to_half"]


def half_to_interleaved(
    weight: Tensor, num_heads: int, *, rotary_dim: int | None = None
) -> Tensor:
    r"""Reorder the rows of a projection from halves to neighbours, head by head.

    Row i of a head and row :math:`i + d/2` become rows :math:`2i` and :math:`2i + 1`.
    With ``q_proj`` and ``k_proj`` both reordered, ``RoPE()`` gives the scores that
    ``RoPE(layout="half")`` gave before. Values and outputs stay as they are.

    Parameters
    ----------
    weight : Tensor
        Weight (heads * head_dim, D) or bias (heads * head_dim,) of the projection.
    num_heads : int
        Heads of this projection: ``num_kv_heads`` for keys.
    rotary_dim : int, optional
        Channels of a head that turn; all by default. The others keep their places.

    Returns
    -------
    Tensor
        The same numbers in another order.

    Raises
    ------
    TypeError, ValueError
        If the rows are not `num_heads` heads of at least `rotary_dim`, an even number.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import half_to_interleaved, interleaved_to_half
    >>> half_to_interleaved(torch.arange(8), 2)
    tensor([0, 2, 1, 3, 4, 6, 5, 7])
    >>> interleaved_to_half(half_to_interleaved(torch.arange(8), 2), 2)
    tensor([0, 1, 2, 3, 4, 5, 6, 7])
    """
    return _reorder(weight, num_heads, rotary_dim, (2, -1))


def interleaved_to_half(
    weight: Tensor, num_heads: int, *, rotary_dim: int | None = None
) -> Tensor:
    """Reorder the rows of a projection from neighbours to halves, head by head.

    The inverse of :func:`tfdoc.half_to_interleaved`, with the same arguments and errors.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import interleaved_to_half
    >>> interleaved_to_half(torch.arange(8), 2)
    tensor([0, 2, 1, 3, 4, 6, 5, 7])
    >>> interleaved_to_half(torch.arange(6), 1)
    tensor([0, 2, 4, 1, 3, 5])
    """
    return _reorder(weight, num_heads, rotary_dim, (-1, 2))


def _reorder(
    weight: Tensor, num_heads: int, rotary_dim: int | None, pairs: tuple[int, int]
) -> Tensor:
    divides("num_heads", positive_int("num_heads", num_heads), "rows", len(weight))
    heads = weight.unflatten(0, (num_heads, -1))
    head_dim = heads.shape[1]
    width = positive_int("rotary_dim", head_dim if rotary_dim is None else rotary_dim)
    if width % 2 or width > head_dim:
        raise ValueError(
            f"RoPE turns pairs within a head of {head_dim} rows, so it cannot turn "
            f"{width}; give num_heads of this projection and an even rotary_dim"
        )
    turned = heads[:, :width].unflatten(1, pairs).transpose(1, 2).flatten(1, 2)
    return torch.cat([turned, heads[:, width:]], 1).flatten(0, 1)
