"""Where a token stands: rotary position embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tfdoc._checks import positive, positive_int
from tfdoc._tensor_checks import vectors

__all__ = ["RoPE"]


@dataclass(frozen=True)
class RoPE:
    r"""Rotary position embedding: turn each pair of channels by its position.

    Channels :math:`2i` and :math:`2i+1` are the two coordinates of a point that turns
    by the angle :math:`p \cdot \text{base}^{-2i/d}` at position :math:`p`. Turning
    queries and keys makes their dot product depend on the distance of the two tokens
    only (Su et al. 2021, *RoFormer*, arXiv:2104.09864).

    Pairs are neighbours (0, 1), (2, 3), ... as in the paper and in Meta's Llama;
    Hugging Face pairs channel i with i + d/2 instead. Scores agree once the rows of the
    query and key projections are permuted accordingly, and only then.

    Parameters
    ----------
    base : float
        The slowest pair turns about ``base`` times slower than the first.

    Raises
    ------
    ValueError
        If `base` is not a finite number above 0.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import RoPE
    >>> east = torch.tensor([[[[1.0, 0.0]]]])  # (batch, heads, tokens, head_dim)
    >>> RoPE()(east, torch.tensor([1]))  # one token, turned by 1 radian
    tensor([[[[0.5403, 0.8415]]]])
    """

    base: float = 10_000.0

    def __post_init__(self) -> None:
        positive("base", self.base)

    def table(self, positions: Tensor, head_dim: int) -> Tensor:
        """Return the turns as complex numbers of length 1.

        Angles are computed in float64, whatever the model's precision: in bfloat16
        positions above 256 would collide.

        Parameters
        ----------
        positions : Tensor of int
            Shape (...).
        head_dim : int
            Channels of a head; even.

        Returns
        -------
        Tensor of complex128
            Shape (..., head_dim / 2).
        """
        if positive_int("head_dim", head_dim) % 2:
            raise ValueError(f"RoPE turns pairs: head_dim must be even, got {head_dim}")
        channels = torch.arange(
            0, head_dim, 2, device=positions.device, dtype=torch.float64
        )
        angles = positions[..., None] * self.base ** (-channels / head_dim)
        return torch.polar(torch.ones_like(angles), angles)

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn queries or keys.

        Parameters
        ----------
        x : Tensor
            Shape (B, H, T, head_dim).
        positions : Tensor of int
            Shape (T,), or (B, T) where rows of the batch differ.

        Returns
        -------
        Tensor
            Shape, dtype and lengths of the vectors as in `x`.
        """
        vectors("x", x, ndim=4)
        if positions.is_floating_point():
            raise TypeError(
                "positions must be a tensor of integers, got dtype "
                f"{positions.dtype}; torch.arange makes them"
            )
        if positions.shape[-1] != x.shape[-2]:
            raise ValueError(
                f"positions of shape {tuple(positions.shape)} do not fit the "
                f"{x.shape[-2]} tokens of x, shape {tuple(x.shape)}"
            )
        turns = self.table(positions, x.shape[-1])
        if positions.ndim == 2:
            turns = turns[:, None]  # the same for every head
        exact = x if x.dtype is torch.float64 else x.float()
        pairs = torch.view_as_complex(exact.reshape(*x.shape[:-1], x.shape[-1] // 2, 2))
        turned = pairs * turns.to(pairs.dtype)
        return torch.view_as_real(turned).flatten(-2).type_as(x)
