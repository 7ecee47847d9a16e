"""The experts of a mixture: networks with stacked weights, many computed in one call."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import positive, positive_int
from tfdoc._grouped import per_expert
from tfdoc._tensor_checks import vectors
from tfdoc.feedforward import Activation, _callable

__all__ = ["ClampedExperts", "GatedExperts", "ScaledInputExperts"]


class _Experts(nn.Module):
    """What all experts share: two stacked matrices, and the tokens' way to them."""

    def __init__(self, embed_dim: int, num_experts: int, hidden_dim: int) -> None:
        super().__init__()
        D = self.embed_dim = positive_int("embed_dim", embed_dim)
        E = self.num_experts = positive_int("num_experts", num_experts)
        H = self.hidden_dim = positive_int("hidden_dim", hidden_dim)
        self.gate_up_proj = _uniform(E, 2 * H, D, inputs=D)
        self.down_proj = _uniform(E, D, H, inputs=H)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Sum `weights` times the `chosen` experts, (..., k), at tokens `x`, (..., D).

        The number E, which no expert has, is the choice of none.
        """
        vectors("x", x, self.embed_dim)
        _check_choices(x, chosen, weights)
        tokens = x.reshape(-1, x.shape[-1])
        # Copies of tokens, sorted by expert; those that are no expert's come last.
        expert, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(self.num_experts, device=x.device)
        ends = torch.searchsorted(expert, numbers, right=True, out_int32=True)
        whole = torch.compiler.is_compiling() or x.is_meta
        if whole:  # the last expert takes the rest, which is thrown away below
            ends = torch.cat([ends[:-1], ends.new_full((1,), len(order))])
        else:
            order = order[: int(ends[-1])]
        token = order // chosen.shape[-1]
        share = weights.flatten()[order].unsqueeze(-1)  # (copies, 1)
        out = self._weighed(tokens.index_select(0, token), share, ends)
        if whole:
            out = out.masked_fill((expert == self.num_experts).unsqueeze(-1), 0)
        summed = torch.zeros_like(tokens, dtype=out.dtype).index_add_(0, token, out)
        return summed.view_as(x).type_as(x)

    def _weighed(self, x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        """Bring the weights in: here they multiply what the experts return."""
        return self._network(x, ends) * weights

    @abstractmethod
    def _network(self, x: Tensor, ends: Tensor) -> Tensor:
        """Transform rows (copies, D), each expert those up to its end."""

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.num_experts}, {self.embed_dim}, hidden_dim={self.hidden_dim}"


def _check_choices(x: Tensor, chosen: Tensor, weights: Tensor) -> None:
    shape = tuple(chosen.shape)
    if shape[:-1] != x.shape[:-1] or chosen.ndim != x.ndim or shape != weights.shape:
        raise ValueError(
            "chosen and weights must have shape (..., k) for x of shape (..., D), got "
            f"{shape} and {tuple(weights.shape)} for {tuple(x.shape)}"
        )
    if chosen.dtype is not torch.int64:
        raise TypeError(
            f"chosen must hold experts' numbers (int64), got {chosen.dtype}"
        )


class GatedExperts(_Experts):
    r"""Gated networks without biases, side by side: the experts of most mixtures.

    .. math:: y = \sum_{e} g_e\, \bigl(\operatorname{SiLU}(x W_{g,e}) \odot
              x W_{u,e}\bigr) W_{d,e}

    over the experts :math:`e` that a token has chosen, with its router's weights
    :math:`g` (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, Mixtral,
    arXiv:2401.04088). Each is a :class:`tfdoc.GatedFeedForward`.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts; in a mixture, the mixture sets it.
    hidden_dim : int
        Width F in between, of each expert; in a mixture, the mixture sets it.
    activation : callable
        Applied to the gates.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, `activation` not a function, or `x` no
        floating-point tensor of width D.

    Notes
    -----
    The weights are stacked, as Hugging Face stores them: ``gate_up_proj`` of shape
    (E, 2F, D), gates first, and ``down_proj``, (E, D, F). One matrix product then makes
    both halves.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import GatedExperts
    >>> experts = GatedExperts(8, num_experts=4, hidden_dim=16)
    >>> chosen = torch.tensor([[0, 3], [3, 1], [2, 0]])  # of three tokens
    >>> experts(torch.randn(3, 8), chosen, torch.full((3, 2), 0.5)).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_experts: int = 8,
        hidden_dim: int = 2048,
        activation: Activation = F.silu,
    ) -> None:
        super().__init__(embed_dim, num_experts, hidden_dim)
        self.activation = _callable(activation)

    def _network(self, x: Tensor, ends: Tensor) -> Tensor:
        gate, up = per_expert(x, self.gate_up_proj, ends).chunk(2, -1)  # (copies, F)
        hidden = self.activation(gate)
        hidden = hidden * up if hidden.requires_grad else hidden.mul_(up)
        return per_expert(hidden, self.down_proj, ends)  # (copies, D)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        act = self.activation
        return f"{super().extra_repr()}, activation={getattr(act, '__name__', act)}"


class ScaledInputExperts(GatedExperts):
    r"""Gated networks that read the token times its weight: Llama 4.

    .. math:: y = \sum_{e} \operatorname{FFN}_e(g_e\, x)

    The weight stands inside the network, where it bends what is computed: half the
    weight is not half the answer. Llama 4 (Meta 2025, in code only) chooses one expert
    with the weight :math:`\sigma(x W_r)`, which is
    ``router=part(SigmoidRouter, top_k=1, normalise=False)``, beside a shared one.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts; in a mixture, the mixture sets it.
    hidden_dim : int
        Width F in between, of each expert; in a mixture, the mixture sets it.
    activation : callable
        Applied to the gates.

    Raises
    ------
    TypeError, ValueError
        If a number is no positive integer, `activation` not a function, or `x` no
        floating-point tensor of width D.

    Notes
    -----
    Parameters have the names and shapes of those of :class:`tfdoc.GatedExperts`; Hugging
    Face's are transposed, (E, D, 2F) and (E, F, D). The product of token and weight is
    rounded to the token's dtype.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import ScaledInputExperts
    >>> experts = ScaledInputExperts(8, num_experts=4, hidden_dim=16)
    >>> x, first = torch.randn(3, 8), torch.zeros(3, 1, dtype=torch.int64)
    >>> half = experts(x, first, torch.full((3, 1), 0.5))
    >>> torch.equal(half, experts(0.5 * x, first, torch.ones(3, 1)))
    True
    """

    def _weighed(self, x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        return self._network((x * weights).type_as(x), ends)


class ClampedExperts(_Experts):
    r"""Networks with biases and a bounded product of gate and branch: gpt-oss.

    .. math:: \operatorname{FFN}(x) &= \bigl((u + 1) \odot g\, \sigma(\alpha g)\bigr) W_d
              + b_d \\
              g &= \min(x W_g + b_g,\, c), \qquad
              u = \operatorname{clip}(x W_u + b_u,\, -c,\, c)

    with :math:`c` the `limit` (OpenAI 2025, arXiv:2508.10925). The gate's
    :math:`g\,\sigma(\alpha g)` is the sigmoid form of GELU (Hendrycks and Gimpel 2016,
    arXiv:1606.08415); the 1 lets the gate through where the other branch is 0. Beyond
    the limit the gradient is 0.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts; in a mixture, the mixture sets it.
    hidden_dim : int
        Width F in between, of each expert; in a mixture, the mixture sets it.
    limit : float
        The bound :math:`c`, of the gate from above only.
    alpha : float
        How steep the gate's sigmoid is.

    Raises
    ------
    TypeError, ValueError
        If a number is not positive, or `x` no floating-point tensor of width D.

    Notes
    -----
    The weights are stacked: ``gate_up_proj`` of shape (E, 2F, D) and
    ``gate_up_proj_bias``, (E, 2F), gates first; ``down_proj``, (E, D, F), and
    ``down_proj_bias``, (E, D). Hugging Face stores gates and the others in turns, at even
    and odd numbers, and its matrices transposed, (E, D, 2F) and (E, F, D):
    ``torch.cat([w[..., ::2], w[..., 1::2]], -1).mT`` is ``gate_up_proj`` here. gpt-oss's
    router is ``part(SoftmaxRouter, top_k=4, bias=True)``.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import ClampedExperts, MixtureOfExperts, SoftmaxRouter, part
    >>> router = part(SoftmaxRouter, top_k=2, bias=True)
    >>> moe = MixtureOfExperts(
    ...     8, num_experts=4, hidden_dim=16, router=router, experts=part(ClampedExperts)
    ... )
    >>> moe(torch.randn(2, 5, 8)).shape, moe.experts.down_proj_bias.shape
    (torch.Size([2, 5, 8]), torch.Size([4, 8]))
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_experts: int = 8,
        hidden_dim: int = 2048,
        limit: float = 7.0,
        alpha: float = 1.702,
    ) -> None:
        super().__init__(embed_dim, num_experts, hidden_dim)
        self.limit, self.alpha = positive("limit", limit), positive("alpha", alpha)
        E, D, H = self.num_experts, self.embed_dim, self.hidden_dim
        self.gate_up_proj_bias = _uniform(E, 2 * H, inputs=D)
        self.down_proj_bias = _uniform(E, D, inputs=H)

    def _network(self, x: Tensor, ends: Tensor) -> Tensor:
        rows = torch.arange(len(x), dtype=ends.dtype, device=x.device)
        expert = torch.searchsorted(ends, rows, right=True)  # whose row it is
        both = per_expert(x, self.gate_up_proj, ends)
        gate, up = (both + self.gate_up_proj_bias.index_select(0, expert)).chunk(2, -1)
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        hidden = (up + 1) * gate * torch.sigmoid(self.alpha * gate)  # (copies, F)
        out = per_expert(hidden, self.down_proj, ends)  # (copies, D)
        return out + self.down_proj_bias.index_select(0, expert)

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{super().extra_repr()}, limit={self.limit}, alpha={self.alpha}"


def _uniform(*shape: int, inputs: int) -> nn.Parameter:
    """Draw a parameter as torch.nn.Linear draws that of a layer with so many inputs."""
    bound = inputs**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
