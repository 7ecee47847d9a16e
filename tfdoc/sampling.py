"""Rules that change the scores of the next token before one is chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tfdoc._checks import number, positive, positive_int

__all__ = ["MinP", "RepetitionPenalty", "Rule", "Temperature", "TopK", "TopP"]


class Rule(ABC):
    """From logits to logits, knowing the tokens so far. Subclass it to make your own.

    Rules are applied in the order given: temperature first, as Hugging Face does, or
    the cuts first; the results differ.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Rule, TopK
    >>> isinstance(TopK(2), Rule)
    True
    >>> TopK(2)(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0]]))
    tensor([[-inf, 3., 2.]])
    """

    @abstractmethod
    def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Change the scores.

        Parameters
        ----------
        logits : Tensor
            Of the next token, shape (B, V).
        tokens : Tensor of int
            All tokens so far, shape (B, T); -1 where there is padding.

        Returns
        -------
        Tensor
            Shape (B, V), with -inf for what may not be chosen.
        """


@dataclass(frozen=True)
class Temperature(Rule):
    r"""Divide the logits: above 1 flatter, below 1 sharper.

    .. math:: p_i \propto e^{z_i / \tau}

    Parameters
    ----------
    value : float
        :math:`\tau`.

    Raises
    ------
    TypeError, ValueError
        If `value` is not above 0; greedy choice is ``seed=None``.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import Temperature
    >>> Temperature(0.5)(torch.tensor([[1.0, 3.0]]), torch.tensor([[0]]))
    tensor([[2., 6.]])
    """

    value: float

    def __post_init__(self) -> None:
        positive("value", self.value)

    def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return ``logits / value``."""
        del tokens
        return logits / self.value


@dataclass(frozen=True)
class TopK(Rule):
    """Keep the `count` most likely tokens, and those tied with the last of them.

    (Fan et al. 2018, arXiv:1805.04833.)

    Parameters
    ----------
    count : int
        How many; 1 is the greedy choice.

    Raises
    ------
    TypeError, ValueError
        If `count` is no positive integer.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import TopK
    >>> TopK(1)(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0]]))
    tensor([[-inf, 3., -inf]])
    """

    count: int

    def __post_init__(self) -> None:
        positive_int("count", self.count)

    def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits with -inf below the last that is kept."""
        del tokens
        kept = min(self.count, logits.shape[-1])
        least = logits.topk(kept, -1).values[:, -1:]
        return logits.masked_fill(logits < least, float("-inf"))


@dataclass(frozen=True)
class TopP(Rule):
    """Keep the fewest likely tokens whose probabilities reach `mass`: the nucleus.

    The one that crosses the mark is kept. (Holtzman et al. 2020, arXiv:1904.09751.)

    Parameters
    ----------
    mass : float
        In (0, 1]; 1 keeps all.

    Raises
    ------
    TypeError, ValueError
        If `mass` is outside.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import TopP
    >>> shares = torch.tensor([[0.5, 0.3, 0.2]])
    >>> TopP(0.7)(shares.log(), torch.tensor([[0]])).exp()
    tensor([[0.5000, 0.3000, 0.0000]])
    """

    mass: float

    def __post_init__(self) -> None:
        _share("mass", self.mass)
        if not self.mass:
            raise ValueError("mass must be above 0, got 0: nothing would be left")

    def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits with -inf outside the nucleus."""
        del tokens
        if self.mass == 1:
            return logits
        ordered, order = logits.sort(descending=True, stable=True)
        shares = ordered.softmax(-1)
        before = shares.cumsum(-1) - shares  # of all that are likelier
        out = torch.empty_like(before, dtype=torch.bool)
        out.scatter_(-1, order, before >= self.mass)
        return logits.masked_fill(out, float("-inf"))


@dataclass(frozen=True)
class MinP(Rule):
    """Keep tokens at least `share` times as likely as the likeliest.

    The cut is deep where the model is sure and shallow where it is not (Nguyen et al.
    2024, arXiv:2407.01082).

    Parameters
    ----------
    share : float
        In [0, 1]; 0 keeps all.

    Raises
    ------
    TypeError, ValueError
        If `share` is outside.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import MinP
    >>> shares = torch.tensor([[0.6, 0.35, 0.05]])
    >>> MinP(0.1)(shares.log(), torch.tensor([[0]])).exp()
    tensor([[0.6000, 0.3500, 0.0000]])
    """

    share: float

    def __post_init__(self) -> None:
        _share("share", self.share)

    def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits with -inf for what is too unlikely."""
        del tokens
        shares = logits.softmax(-1)
        least = self.share * shares.amax(-1, keepdim=True)
        return logits.masked_fill(shares < least, float("-inf"))


@dataclass(frozen=True)
class RepetitionPenalty(Rule):
    """Lower the scores of tokens that came already.

    Positive logits are divided by `value`, negative ones multiplied (Keskar et al. 2019,
    *CTRL*, arXiv:1909.05858). The prompt counts, padding does not.

    Parameters
    ----------
    value : float
        1 changes nothing, 1.2 is usual; below 1 repeats are liked.

    Raises
    ------
    TypeError, ValueError
        If `value` is not above 0.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import RepetitionPenalty
    >>> logits = torch.tensor([[2.0, -2.0, 3.0]])
    >>> RepetitionPenalty(2.0)(logits, torch.tensor([[0, 1, 1]]))
    tensor([[ 1., -4.,  3.]])
    """

    value: float

    def __post_init__(self) -> None:
        positive("value", self.value)

    def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits with those of `tokens` lowered."""
        size = logits.shape[-1]
        # One more column takes the padding.
        seen = logits.new_zeros(len(logits), size + 1, dtype=torch.bool)
        seen.scatter_(-1, tokens.masked_fill(tokens < 0, size), value=True)
        lowered = torch.where(logits > 0, logits / self.value, logits * self.value)
        return torch.where(seen[:, :size], lowered, logits)


def _share(name: str, value: object) -> None:
    if not 0 <= number(name, value) <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
