"""Routers: which experts of a mixture see a token, with which weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfdoc._checks import divides, flag, positive, positive_int
from tfdoc._tensor_checks import vectors
from tfdoc.probe import Probe

__all__ = ["SigmoidRouter", "SoftmaxRouter"]


class _Router(nn.Module):
    """What the routers share: one row of `weight` an expert, and the probes."""

    def __init__(self, embed_dim: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.embed_dim = positive_int("embed_dim", embed_dim)
        self.num_experts = positive_int("num_experts", num_experts)
        self.top_k = positive_int("top_k", top_k)
        if top_k > num_experts:
            raise ValueError(
                f"top_k={top_k} is more than num_experts={num_experts}: "
                "a token takes different experts"
            )
        self.weight = nn.Parameter(torch.empty(num_experts, embed_dim))
        nn.init.uniform_(self.weight, -(embed_dim**-0.5), embed_dim**-0.5)
        self.logits, self.scores, self.weights = Probe(), Probe(), Probe()

    def extra_repr(self) -> str:
        """Return what the printed module shows."""
        return f"{self.embed_dim}, num_experts={self.num_experts}, top_k={self.top_k}"


class SoftmaxRouter(_Router):
    r"""Softmax over all experts, then the k largest: Mixtral, Qwen3-MoE, OLMoE.

    .. math:: s = \operatorname{softmax}(x W_r + b_r), \qquad
              g_e = \frac{s_e}{\sum_{j \in \operatorname{top} k} s_j}
              \quad (e \in \operatorname{top} k)

    With the division this equals a softmax over the k largest logits alone, which is how
    gpt-oss writes it (Shazeer et al. 2017, arXiv:1701.06538). The softmax is taken in
    float32 or better.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts; in a mixture, the mixture sets it.
    top_k : int
        Experts a token, all different.
    normalise : bool
        Whether the k weights are divided by their sum, as in Mixtral and Qwen3-MoE;
        OLMoE and Qwen1.5-MoE do not.
    bias : bool
        Whether :math:`b_r` is there, as in gpt-oss: the parameter ``bias``, (E,).

    Raises
    ------
    TypeError, ValueError
        If a setting is no positive integer, `top_k` above `num_experts`, or `x` no
        floating-point tensor of width D.

    Notes
    -----
    The probes ``logits`` and ``scores`` hold numbers of shape (..., E), before and after
    the softmax; ``weights`` has shape (..., k).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import SoftmaxRouter
    >>> weights, chosen = SoftmaxRouter(8, num_experts=4, top_k=2)(torch.randn(3, 8))
    >>> chosen.shape
    torch.Size([3, 2])
    >>> torch.allclose(weights.sum(-1), torch.ones(3))
    True
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        normalise: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(embed_dim, num_experts, top_k)
        self.normalise = flag("normalise", normalise)
        self.bias = None
        if flag("bias", bias):
            bound = self.embed_dim**-0.5
            self.bias = nn.Parameter(torch.empty(num_experts).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and chosen experts, (..., k) each, of tokens (..., D)."""
        vectors("x", x, self.embed_dim)
        logits = self.logits(_exact(F.linear(x, self.weight, self.bias)))  # (..., E)
        weights, chosen = self.scores(logits.softmax(-1)).topk(self.top_k)  # (..., k)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return self.weights(weights), chosen


class SigmoidRouter(_Router):
    r"""A sigmoid for each expert, and a bias that balances: DeepSeek-V3.

    .. math:: s = \sigma(x W_r), \qquad \operatorname{top} k \text{ of } s + b, \qquad
              g_e = c\,\frac{s_e}{\sum_{j \in \operatorname{top} k} s_j}

    The correction bias :math:`b` only decides who is chosen; the weights come from the
    scores without it. It is no parameter: after each step, :meth:`update_bias` raises it
    for experts with too few tokens and lowers it for those with too many, so that no
    loss has to balance them (Wang et al. 2024, arXiv:2408.15664; DeepSeek-AI 2024,
    arXiv:2412.19437). Everything is computed in float32 or better.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts; in a mixture, the mixture sets it.
    top_k : int
        Experts a token, all different.
    normalise : bool
        Whether the k weights are divided by their sum.
    scale : float
        The factor :math:`c`; 2.5 in DeepSeek-V3.
    num_groups, top_groups : int
        With more than one group, each of E / `num_groups` neighbouring experts, a token
        first takes the `top_groups` groups with the largest sum of their two best
        biased scores, then its experts from these: 8 and 4 in DeepSeek-V3.

    Raises
    ------
    TypeError, ValueError
        If a number is not positive, `top_k` more than the experts there are to choose
        from, the groups do not divide the experts into twos at least, or `x` is no
        floating-point tensor of width D.

    Notes
    -----
    The buffer ``e_score_correction_bias``, shape (E,), has the name of Hugging Face's.
    The probes ``logits`` and ``scores`` hold numbers of shape (..., E), before and after
    the sigmoid, without bias; ``weights`` has shape (..., k).

    Llama 4's router is this one with ``normalise=False`` and no bias. It compares logits
    where this one compares scores: the choice is the same until, in float32, several
    logits above 17 all have the score 1.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import SigmoidRouter
    >>> router = SigmoidRouter(8, num_experts=4, top_k=1)
    >>> router.update_bias(torch.tensor([6, 2, 0, 0]), rate=0.5)
    >>> router.e_score_correction_bias
    tensor([-0.5000,  0.0000,  0.5000,  0.5000])
    """

    e_score_correction_bias: Tensor

    def __init__(
        self,
        embed_dim: int,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        normalise: bool = True,
        scale: float = 1.0,
        num_groups: int = 1,
        top_groups: int = 1,
    ) -> None:
        super().__init__(embed_dim, num_experts, top_k)
        self.normalise, self.scale = (
            flag("normalise", normalise),
            positive("scale", scale),
        )
        self.num_groups = positive_int("num_groups", num_groups)
        self.top_groups = positive_int("top_groups", top_groups)
        size = _group_size(num_experts, top_k, num_groups, top_groups)
        if num_groups > 1 and size < 2:
            raise ValueError(
                f"num_groups={num_groups} leaves groups of {size} of the "
                f"num_experts={num_experts}; a group is judged by its two best"
            )
        self.register_buffer("e_score_correction_bias", torch.zeros(num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and chosen experts, (..., k) each, of tokens (..., D)."""
        vectors("x", x, self.embed_dim)
        logits = self.logits(_product(x, self.weight))  # (..., E)
        scores = self.scores(logits.sigmoid())
        biased = scores + self.e_score_correction_bias
        biased = _in_best_groups(biased, self.num_groups, self.top_groups, judges=2)
        chosen = biased.topk(self.top_k).indices  # (..., k)
        weights = scores.gather(-1, chosen)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return self.weights(weights * self.scale), chosen

    @torch.no_grad()
    def update_bias(self, load: Tensor, rate: float = 1e-3) -> None:
        """Move the bias by `rate` towards balance.

        Parameters
        ----------
        load : Tensor
            Tokens of each expert in the last step, shape (E,): the probe ``load`` of
            :class:`tfdoc.MixtureOfExperts`, summed over devices.
        rate : float
            Size of the move; only the sign of an expert's lack or excess counts.
        """
        got = tuple(getattr(load, "shape", ())) or type(load).__name__
        if got != (self.num_experts,):
            raise ValueError(
                f"load must be a tensor of one number for each of the "
                f"{self.num_experts} experts, got {got}"
            )
        lack = load.double().mean() - load
        self.e_score_correction_bias += positive("rate", rate) * lack.sign()


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply in float32 or better, under autocast too."""
    if x.is_meta:  # which knows no autocast, nor any number
        return F.linear(_exact(x), _exact(weight))
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(_exact(x), _exact(weight))


def _group_size(num_experts: int, top_k: int, num_groups: int, top_groups: int) -> int:
    """Return how many experts a group has; refuse groups too few for the choices."""
    divides("num_groups", num_groups, "num_experts", num_experts)
    size = num_experts // num_groups
    if not top_k / size <= top_groups <= num_groups:
        raise ValueError(
            f"top_groups={top_groups} of num_groups={num_groups} groups of {size} "
            f"experts cannot give top_k={top_k}; it must be between "
            f"{-(-top_k // size)} and {num_groups}"
        )
    return size


def _in_best_groups(scores: Tensor, groups: int, kept: int, judges: int) -> Tensor:
    """Set to minus infinity the scores outside the groups with the best `judges`."""
    if kept == groups:
        return scores
    # Not unflatten, which does not compile in the context of a device.
    grouped = scores.view(*scores.shape[:-1], groups, scores.shape[-1] // groups)
    best = grouped.topk(judges).values.sum(-1).topk(kept).indices
    out = torch.ones(grouped.shape[:-1], dtype=torch.bool, device=best.device)
    out = out.scatter(-1, best, value=False).unsqueeze(-1)
    left: Tensor = grouped.masked_fill(out, -torch.inf)
    return left.flatten(-2)
