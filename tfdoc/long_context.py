"""Scalings of RoPE made for long contexts: YaRN, Llama 3's, LongRoPE.

They treat fast and slow pairs differently. A fast pair has made many turns within the
trained length, so every angle is known and its distances must not blur; a slow one has
not finished its first, so larger angles are news.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfdoc._checks import flag, number, positive, positive_int
from tfdoc.scalings import Scaling, check_factor, places

__all__ = ["Llama3Scaling", "LongRoPE", "YaRN"]


@dataclass(frozen=True)
class YaRN(Scaling):
    r"""Slow down the pairs that never completed a turn in training, keep the fast ones.

    .. math:: \theta_i' = (1 - r_i)\,\theta_i + r_i\,\theta_i / \text{factor}

    The ramp :math:`r_i` rises from 0, at the pair that makes `beta_fast` turns within the
    trained length, to 1, at the one that makes `beta_slow`. Queries and keys grow by
    :math:`0.1 \ln(\text{factor}) + 1`, which sharpens the attention that more keys
    would blur (Peng et al. 2023, arXiv:2309.00071).

    Parameters
    ----------
    factor : float
        New length over old.
    original_length : int
        Length of training.
    beta_fast, beta_slow : float
        Turns within the trained length where the ramp starts and ends.
    attention_factor : float, optional
        Growth of queries and keys, instead of the one above.
    mscale, mscale_all_dim : float, optional
        DeepSeek's form of the growth, if both are given and not 0: one such expression
        over the other, each with its factor in place of 1.
    truncate : bool
        Whether the ramp starts and ends at whole pairs; gpt-oss says no.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or `beta_fast` is not above `beta_slow`.

    Examples
    --------
    >>> from tfdoc import RoPE, YaRN
    >>> scaling = YaRN(4.0, original_length=2048)
    >>> ratio = RoPE().frequencies(64) / RoPE(scaling=scaling).frequencies(64)
    >>> ratio[0].item(), ratio[-1].item(), round(scaling.amplitude, 4)
    (1.0, 4.0, 1.1386)
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        check_factor(self.factor)
        positive_int("original_length", self.original_length)
        positive("beta_fast", self.beta_fast)
        _above("beta_fast", self.beta_fast, "beta_slow", self.beta_slow)
        if self.attention_factor is not None:
            positive("attention_factor", self.attention_factor)
        for name in ("mscale", "mscale_all_dim"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name))
        flag("truncate", self.truncate)

    def scale(self, frequencies: Tensor, *, base: float, length: Tensor) -> Tensor:
        """Mix each speed with its interpolated one."""
        del length
        pairs = len(frequencies)

        def pair_of(turns: float) -> float:
            """Find the pair, rarely a whole number, that makes so many turns."""
            radians = turns * 2 * math.pi
            return pairs * math.log(self.original_length / radians) / math.log(base)

        start, end = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            start, end = math.floor(start), math.ceil(end)
        # The last pair is pairs - 1; the published code bounds by channels instead.
        start, end = max(start, 0), min(end, 2 * pairs - 1)
        if start == end:
            end += 0.001
        ramp = ((places(frequencies) - start) / (end - start)).clamp(0, 1)
        return frequencies * (1 - ramp) + frequencies / self.factor * ramp

    @property
    def amplitude(self) -> float:
        """Growth of queries and keys."""
        if self.attention_factor is not None:
            return self.attention_factor

        def growth(weight: float) -> float:
            return 0.1 * weight * math.log(self.factor) + 1

        if self.mscale and self.mscale_all_dim:
            return growth(self.mscale) / growth(self.mscale_all_dim)
        return growth(1.0)


@dataclass(frozen=True)
class Llama3Scaling(Scaling):
    r"""Llama 3.1's choice: long waves stretched, short ones kept, a ramp between.

    .. math::
        \theta_i' = (1 - r_i)\,\theta_i / \text{factor} + r_i\,\theta_i, \qquad
        r_i = \frac{T_0 \theta_i / 2\pi - l}{h - l} \text{ within } [0, 1]

    where :math:`T_0 \theta_i / 2\pi` is the number of turns within the trained length
    :math:`T_0`, l the `low_freq_factor` and h the `high_freq_factor` (Grattafiori et al.
    2024, *The Llama 3 herd of models*, arXiv:2407.21783, and its published code).

    Parameters
    ----------
    factor : float
        How much long waves are stretched.
    original_length : int
        Length of training.
    low_freq_factor, high_freq_factor : float
        Turns within the trained length up to which waves count as long, and from which
        on they count as short.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or `high_freq_factor` is not above
        `low_freq_factor`.

    Examples
    --------
    >>> from tfdoc import Llama3Scaling, RoPE
    >>> rope = RoPE(base=500_000, scaling=Llama3Scaling())
    >>> ratio = RoPE(base=500_000).frequencies(128) / rope.frequencies(128)
    >>> ratio[0].item(), ratio[-1].item()
    (1.0, 8.0)
    """

    factor: float = 8.0
    original_length: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self) -> None:
        check_factor(self.factor)
        positive_int("original_length", self.original_length)
        positive("high_freq_factor", self.high_freq_factor)
        low, high = self.low_freq_factor, self.high_freq_factor
        _above("high_freq_factor", high, "low_freq_factor", low)

    def scale(self, frequencies: Tensor, *, base: float, length: Tensor) -> Tensor:
        """Divide the slow ones by the factor."""
        del base, length
        turns = self.original_length * frequencies / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        ramp = ((turns - low) / (high - low)).clamp(0, 1)
        return frequencies / self.factor * (1 - ramp) + frequencies * ramp


@dataclass(frozen=True)
class LongRoPE(Scaling):
    r"""A divisor for each pair, found by search; one set for short calls, one for long.

    .. math:: \theta_i' = \theta_i / \lambda_i

    with the long set of :math:`\lambda_i` where the call reaches beyond the trained length
    :math:`T_0`. Queries and keys grow by :math:`\sqrt{1 + \ln(\text{factor}) / \ln T_0}`,
    always (Ding et al. 2024, arXiv:2402.13753; Phi-3 uses it).

    Parameters
    ----------
    short_factor, long_factor : sequence of float
        One divisor a pair.
    original_length : int
        Length of training.
    factor : float
        New length over old; for the growth of queries and keys only.
    attention_factor : float, optional
        Growth of queries and keys, instead of the one above.

    Raises
    ------
    TypeError, ValueError
        If a divisor is not above 0, the two sets differ in length, or, when it meets a
        head, they are not one a pair.

    Examples
    --------
    >>> from tfdoc import LongRoPE, RoPE
    >>> scaling = LongRoPE([1, 1], [1, 8], original_length=100, factor=8.0)
    >>> rope = RoPE(scaling=scaling)
    >>> [round(rope.frequencies(4, length=n)[1].item(), 5) for n in (100, 101)]
    [0.01, 0.00125]
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_length: int
    factor: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        for name in ("short_factor", "long_factor"):
            object.__setattr__(self, name, _divisors(name, getattr(self, name)))
        if len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                "short_factor and long_factor must have one divisor a pair, both, got "
                f"{len(self.short_factor)} and {len(self.long_factor)}"
            )
        positive_int("original_length", self.original_length)
        check_factor(self.factor)
        if self.attention_factor is not None:
            positive("attention_factor", self.attention_factor)

    def scale(self, frequencies: Tensor, *, base: float, length: Tensor) -> Tensor:
        """Divide by one of the two sets."""
        del base
        if len(self.short_factor) != len(frequencies):
            raise ValueError(
                f"LongRoPE has {len(self.short_factor)} divisors for "
                f"{len(frequencies)} pairs of channels; give one a pair"
            )
        short, long = map(frequencies.new_tensor, (self.short_factor, self.long_factor))
        return frequencies / torch.where(length > self.original_length, long, short)

    @property
    def amplitude(self) -> float:
        """Growth of queries and keys."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor == 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_length))


def _above(name: str, value: float, lower_name: str, lower: float) -> None:
    if value <= positive(lower_name, lower):
        raise ValueError(
            f"{name} must be above {lower_name}, got {value} and {lower}; "
            "were they swapped?"
        )


def _divisors(name: str, values: Any) -> tuple[float, ...]:
    if isinstance(values, (str, float, int)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must hold one divisor a pair, got {values!r}")
    return tuple(positive(name, value) for value in values)
