"""The feed-forward network: the same small network at every token, alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import flag, positive_int, probability
from tfdoc._linear import Linear
from tfdoc._tensor_checks import vectors
from tfdoc.parts import Part
from tfdoc.probe import Probe

__all__ = ["FeedForward", "GatedFeedForward", "SigmoidGate", "relu_squared"]

Activation = Callable[[Tensor], Tensor]


class FeedForward(nn.Module):
    r"""The position-wise feed-forward network of the transformer.

    .. math:: \operatorname{FFN}(x) = \operatorname{GELU}(x W_1 + b_1)\, W_2 + b_2

    with :math:`W_1` called ``up_proj`` and :math:`W_2` ``down_proj`` (Vaswani et al.
    2017, section 3.3, there with ReLU; Hendrycks and Gimpel 2016 for GELU). GELU is the
    exact form by erf, the default of :func:`torch.nn.functional.gelu`; GPT-2's tanh form
    differs by up to 5e-4.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    hidden_dim : int
        Width F in between; 4 D is common.
    activation : callable
        Applied to each hidden number, such as ``F.relu`` or :func:`tfdoc.relu_squared`.
    bias : bool
        Whether both projections have a bias.
    dropout : float
        Share of the hidden numbers dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a width is no positive integer, `dropout` not in [0, 1), `activation` not a
        function, or `x` no floating-point tensor of width D.

    Notes
    -----
    The probe ``hidden`` holds the activations, shape (..., F).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import FeedForward
    >>> FeedForward(8, hidden_dim=32)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        hidden_dim: int = 2048,
        activation: Activation = F.gelu,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        flag("bias", bias)
        self.up_proj = Linear(embed_dim, positive_int("hidden_dim", hidden_dim), bias)
        self.activation = _callable(activation)
        self.hidden = Probe()
        self.dropout = nn.Dropout(probability("dropout", dropout))
        self.down_proj = Linear(hidden_dim, embed_dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of `x`, shape (..., D), on its own; the shape stays."""
        vectors("x", x, self.embed_dim)
        hidden = self.hidden(self.activation(self.up_proj(x)))  # (..., F)
        hidden = self.dropout(hidden) if self.training else hidden
        out: Tensor = self.down_proj(hidden)
        return out


class GatedFeedForward(nn.Module):
    r"""A feed-forward network whose hidden numbers are gated: SwiGLU and its kin.

    .. math:: \operatorname{FFN}(x) = \bigl(\operatorname{SiLU}(x W_g) \odot x W_u\bigr) W_d

    with :math:`W_g, W_u, W_d` called ``gate_proj``, ``up_proj``, ``down_proj`` (Shazeer
    2020, arXiv:2002.05202). SiLU makes it SwiGLU, GELU GeGLU, ReLU ReGLU.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    hidden_dim : int
        Width F in between. Three matrices instead of two: with two thirds of the hidden
        width it has as many parameters as :class:`FeedForward`.
    activation : callable
        Applied to the gate.
    bias : bool
        Whether the projections have a bias; published models have none.
    dropout : float
        Share of the hidden numbers dropped in training.

    Raises
    ------
    TypeError, ValueError
        If a width is no positive integer, `dropout` not in [0, 1), `activation` not a
        function, or `x` no floating-point tensor of width D.

    Notes
    -----
    The probes ``gate`` and ``hidden`` hold the activated gate and its product with the
    other branch, shape (..., F).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import GatedFeedForward
    >>> GatedFeedForward(8, hidden_dim=24)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        hidden_dim: int,
        activation: Activation = F.silu,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        positive_int("hidden_dim", hidden_dim)
        self.gate_proj = Linear(embed_dim, hidden_dim, flag("bias", bias))
        self.up_proj = Linear(embed_dim, hidden_dim, bias)
        self.activation = _callable(activation)
        self.gate, self.hidden = Probe(), Probe()
        self.dropout = nn.Dropout(probability("dropout", dropout))
        self.down_proj = Linear(hidden_dim, embed_dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of `x`, shape (..., D), on its own; the shape stays."""
        vectors("x", x, self.embed_dim)
        gate = self.gate(self.activation(self.gate_proj(x)))  # (..., F)
        hidden = self.hidden(gate * self.up_proj(x))
        hidden = self.dropout(hidden) if self.training else hidden
        out: Tensor = self.down_proj(hidden)
        return out


class SigmoidGate(nn.Module):
    r"""A branch that each token opens as far as it likes: one number for all channels.

    .. math:: y = \sigma(x w) \cdot \operatorname{branch}(x)

    Around the shared expert of a mixture it is that of Qwen1.5-MoE and Qwen2-MoE (Yang
    et al. 2024, arXiv:2407.10671):
    ``shared=part(SigmoidGate, branch=part(GatedFeedForward, hidden_dim=...))``.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    branch : Part
        A network that works on each token alone.

    Raises
    ------
    TypeError, ValueError
        If `branch` is not a part, `embed_dim` no positive integer, or `x` no
        floating-point tensor of width D.

    Notes
    -----
    The weight :math:`w` is ``gate.weight``, shape (1, D); the branch is ``branch``.
    The probe ``opening`` holds the sigmoid, shape (..., 1).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import GatedFeedForward, SigmoidGate, part
    >>> shared = SigmoidGate(8, branch=part(GatedFeedForward, hidden_dim=16))
    >>> shared(torch.randn(2, 5, 8)).shape, shared.gate.weight.shape
    (torch.Size([2, 5, 8]), torch.Size([1, 8]))
    """

    def __init__(self, embed_dim: int, *, branch: Part[nn.Module]) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        if not isinstance(branch, Part):
            raise TypeError(
                f"branch must be a part, got {type(branch).__name__}; "
                "write part(Component, ...) instead of Component(...)"
            )
        self.gate = Linear(embed_dim, 1, bias=False)
        self.opening = Probe()
        self.branch = branch.build(embed_dim)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Transform each token of `x`, shape (..., D); other arguments are the branch's."""
        vectors("x", x, self.embed_dim)
        opening = self.opening(self.gate(x).sigmoid())  # (..., 1)
        out: Tensor = opening * self.branch(x, *args, **kwargs)
        return out


def relu_squared(x: Tensor) -> Tensor:
    r"""Return the square of the positive part of each number, 0 for the others.

    .. math:: \operatorname{ReLU}^2(x) = \max(0, x)^2

    The activation of Primer (So et al. 2021, arXiv:2109.08668) and of Nemotron: zeros
    as ReLU has them, and a slope without a step. Hugging Face calls it ``relu2``.

    Parameters
    ----------
    x : Tensor
        Of any shape, which stays.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import relu_squared
    >>> relu_squared(torch.tensor([-2.0, 0.0, 3.0]))
    tensor([0., 0., 9.])
    """
    return F.relu(x).square()


def _callable(activation: Activation) -> Activation:
    if isinstance(activation, type) or not callable(activation):
        raise TypeError(
            f"activation must be a function of a tensor, such as F.gelu, "
            f"got {activation!r}"
        )
    return activation
