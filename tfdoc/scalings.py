r"""How rotary positions reach beyond the length that a model was trained on.

A scaling maps the speeds :math:`\theta_i` of RoPE's pairs, fastest first, to slower ones.
Every pair then turns less between two tokens, so that distances never seen in training
give angles that were. The scalings differ in which pairs pay for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfdoc._checks import number, positive_int

__all__ = ["DynamicNTKScaling", "LinearScaling", "NTKScaling", "Scaling"]


class Scaling(ABC):
    """A change of RoPE's speeds; subclass it and write :meth:`scale` to make your own.

    Examples
    --------
    >>> from tfdoc import LinearScaling, RoPE, Scaling
    >>> isinstance(LinearScaling(4.0), Scaling)
    True
    >>> RoPE(scaling=LinearScaling(4.0)).frequencies(4)
    tensor([0.2500, 0.0025], dtype=torch.float64)
    """

    @abstractmethod
    def scale(self, frequencies: Tensor, *, base: float, length: Tensor) -> Tensor:
        """Return the speeds to use.

        Parameters
        ----------
        frequencies : Tensor of float64
            Radians a token of each pair without scaling, fastest first, shape (pairs,).
        base : float
            The base that they come from.
        length : Tensor of int
            One more than the largest position of this call, shape ().

        Returns
        -------
        Tensor of float64
            Shape (pairs,).
        """

    @property
    def amplitude(self) -> float:
        """Factor of queries and keys, so that scores have its square; 1 for most."""
        return 1.0


@dataclass(frozen=True)
class LinearScaling(Scaling):
    r"""Position interpolation: every pair turns `factor` times more slowly.

    .. math:: \theta_i' = \theta_i / \text{factor}

    The same as dividing positions by the factor (Chen et al. 2023, arXiv:2306.15595).

    Parameters
    ----------
    factor : float
        New length over old.

    Raises
    ------
    TypeError, ValueError
        If `factor` is not a finite number from 1 on.

    Examples
    --------
    >>> from tfdoc import LinearScaling, RoPE
    >>> RoPE(scaling=LinearScaling(2.0)).frequencies(4)
    tensor([0.5000, 0.0050], dtype=torch.float64)
    """

    factor: float

    def __post_init__(self) -> None:
        check_factor(self.factor)

    def scale(self, frequencies: Tensor, *, base: float, length: Tensor) -> Tensor:
        """Divide all by the factor."""
        del base, length
        return frequencies / self.factor


@dataclass(frozen=True)
class NTKScaling(Scaling):
    r"""A larger base: the slowest pair slows down by `factor`, the fastest not at all.

    .. math:: \theta_i' = \theta_i \cdot \text{factor}^{-2i/(d-2)}

    as if the base were :math:`\text{base} \cdot \text{factor}^{d/(d-2)}`. Neighbours stay
    as distinct as they were ("NTK-aware" scaling, described in Peng et al. 2023, *YaRN*,
    arXiv:2309.00071, section 3.1).

    Parameters
    ----------
    factor : float
        New length over old; some of it is lost to pairs in between.

    Raises
    ------
    TypeError, ValueError
        If `factor` is not a finite number from 1 on.

    Examples
    --------
    >>> from tfdoc import NTKScaling, RoPE
    >>> RoPE(scaling=NTKScaling(4.0)).frequencies(4)
    tensor([1.0000, 0.0025], dtype=torch.float64)
    """

    factor: float

    def __post_init__(self) -> None:
        check_factor(self.factor)

    def scale(self, frequencies: Tensor, *, base: float, length: Tensor) -> Tensor:
        """Divide by powers of the factor, from 0 to 1."""
        del base, length
        return frequencies * self.factor ** -ranks(frequencies)


@dataclass(frozen=True)
class DynamicNTKScaling(Scaling):
    r"""NTK scaling that grows with the sequence, and is none up to the trained length.

    .. math::
        \theta_i' = \theta_i \cdot s^{-2i/(d-2)}, \qquad
        s = \text{factor} \cdot \frac{\max(T, T_0)}{T_0} - (\text{factor} - 1)

    with T the length of the call, one more than its largest position, and :math:`T_0` the
    trained length (Peng et al. 2023, arXiv:2309.00071, section 3.3). Keys in a cache keep
    the speeds of the call that made them.

    Parameters
    ----------
    factor : float
        How fast it grows; 1 stretches exactly to T.
    original_length : int
        Length :math:`T_0` of training.

    Raises
    ------
    TypeError, ValueError
        If `factor` is below 1 or `original_length` no positive integer.

    Examples
    --------
    >>> from tfdoc import DynamicNTKScaling, RoPE
    >>> rope = RoPE(scaling=DynamicNTKScaling(1.0, original_length=100))
    >>> rope.frequencies(4, length=100)
    tensor([1.0000, 0.0100], dtype=torch.float64)
    >>> rope.frequencies(4, length=400)
    tensor([1.0000, 0.0025], dtype=torch.float64)
    """

    factor: float
    original_length: int

    def __post_init__(self) -> None:
        check_factor(self.factor)
        positive_int("original_length", self.original_length)

    def scale(self, frequencies: Tensor, *, base: float, length: Tensor) -> Tensor:
        """Divide by powers of a factor that depends on the length."""
        del base
        stretch = length.to(frequencies.dtype) / self.original_length
        grown = self.factor * stretch.clamp(min=1) - (self.factor - 1)
        return frequencies * grown ** -ranks(frequencies)


def places(frequencies: Tensor) -> Tensor:
    """Return 0, 1, 2, ... for the pairs."""
    return torch.arange(len(frequencies), device=frequencies.device).to(frequencies)


def ranks(frequencies: Tensor) -> Tensor:
    """Return where the pairs stand between the fastest, 0, and the slowest, 1."""
    return places(frequencies) / max(len(frequencies) - 1, 1)


def check_factor(value: Any) -> None:
    """Refuse what would shorten: a factor is new length over old."""
    if number("factor", value) < 1:
        raise ValueError(
            f"factor must be at least 1, got {value!r}; it is new length over old"
        )
