"""Absolute positions, added to the embeddings before the first block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import count, positive, positive_int
from tfdoc._tensor_checks import Positions, batch_of_vectors, resolve_positions

__all__ = ["LearnedPositions", "Sinusoidal"]


class Sinusoidal(nn.Module):
    r"""Add waves of the position, as the original transformer does.

    .. math::
        y_{p,2i} = x_{p,2i} + \sin(p\,\theta_i), \qquad
        y_{p,2i+1} = x_{p,2i+1} + \cos(p\,\theta_i), \qquad
        \theta_i = \text{base}^{-2i/D}

    (Vaswani et al. 2017, section 3.5.) Sines and cosines alternate; some models keep
    them in two halves instead. The waves are computed in float64 at each call and have no
    end; the module has no weights.

    Parameters
    ----------
    embed_dim : int
        Width D, even.
    base : float
        The slowest wave is about ``base`` times longer than the first.

    Raises
    ------
    TypeError, ValueError
        If `embed_dim` is no even positive integer, `base` not above 0, or a call's
        positions do not fit.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Sinusoidal
    >>> Sinusoidal(4)(torch.zeros(1, 2, 4))
    tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
             [0.8415, 0.5403, 0.0100, 0.9999]]])
    """

    def __init__(self, embed_dim: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        self.embed_dim, self.base = positive_int("embed_dim", embed_dim), base
        positive("base", base)
        if embed_dim % 2:
            raise ValueError(
                f"waves come in pairs: embed_dim must be even, got {embed_dim}"
            )

    def table(self, positions: Tensor) -> Tensor:
        """Return the waves in float64, shape (..., D), for positions of shape (...)."""
        channels = torch.arange(
            0, self.embed_dim, 2, dtype=torch.float64, device=positions.device
        )
        angles = positions[..., None] * self.base ** (-channels / self.embed_dim)
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)

    def forward(self, x: Tensor, positions: Positions = None) -> Tensor:
        """Add to `x`, shape (B, T, D).

        Parameters
        ----------
        x : Tensor
            Embeddings.
        positions : int or Tensor of int, optional
            0 ... T-1 by default, an offset, or positions of shape (T,) or (B, T).

        Returns
        -------
        Tensor
            Shape and dtype of `x`.
        """
        batch_of_vectors("x", x, self.embed_dim)
        return x + self.table(resolve_positions(positions, x)).to(x.dtype)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, base={self.base:g}"


class LearnedPositions(nn.Module):
    r"""Add a learned vector for each position, as GPT-2 and BERT do.

    .. math:: y_p = x_p + E_{p + \text{offset}}

    (Gehring et al. 2017, arXiv:1705.03122.) What was never trained has no row: the model
    ends at `max_positions`.

    Parameters
    ----------
    embed_dim : int
        Width D.
    max_positions : int
        How many positions there are: 0 ... max_positions - 1.
    offset : int
        Rows in front of that of position 0, which no call reads. BART, OPT and RoBERTa
        have 2: RoBERTa's table of 514 rows is ``max_positions=512, offset=2``.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive integer, `offset` below 0, or a call goes beyond the
        table. On a GPU positions given as a tensor are left to its own check of indices,
        which does not wait for the numbers.

    Notes
    -----
    The parameter ``weight`` has shape (max_positions + offset, D).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import LearnedPositions
    >>> positions = LearnedPositions(16, max_positions=1024)
    >>> positions(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, embed_dim: int, *, max_positions: int, offset: int = 0) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.max_positions = positive_int("max_positions", max_positions)
        self.offset = count("offset", offset)
        self.weight = nn.Parameter(torch.empty(max_positions + offset, embed_dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, positions: Positions = None) -> Tensor:
        """Add to `x`, shape (B, T, D).

        Parameters
        ----------
        x : Tensor
            Embeddings.
        positions : int or Tensor of int, optional
            0 ... T-1 by default, an offset, or positions of shape (T,) or (B, T).

        Returns
        -------
        Tensor
            Shape (B, T, D).
        """
        batch_of_vectors("x", x, self.embed_dim)
        at = resolve_positions(positions, x)
        if not isinstance(positions, Tensor):
            first = positions or 0
            self._within(first, first + x.shape[1] - 1)
        else:
            at = at.clamp(min=0)  # a negative position is no token: any row will do
            if at.device.type == "cpu" and not torch.compiler.is_compiling():
                self._within(0, int(at.max()) if at.numel() else 0)
        rows = at + self.offset if self.offset else at
        return x + F.embedding(rows, self.weight)

    def _within(self, first: int, last: int) -> None:
        if first < 0 or last >= self.max_positions:
            raise ValueError(
                f"positions {first} to {last} do not fit max_positions="
                f"{self.max_positions}, which has rows for 0 to {self.max_positions - 1}; "
                "shorten the input, or build with more and train them"
            )

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        offset = f", offset={self.offset}" if self.offset else ""
        return f"{self.embed_dim}, max_positions={self.max_positions}{offset}"
