"""A router that keeps a token's experts to a few groups of neighbours."""

from __future__ import annotations

from torch import Tensor

from tfdoc._checks import positive, positive_int
from tfdoc._tensor_checks import vectors
from tfdoc.routers import _group_size, _in_best_groups, _product, _Router

__all__ = ["GroupedSoftmaxRouter"]


class GroupedSoftmaxRouter(_Router):
    r"""Softmax over all experts, then the k largest within the best groups: DeepSeek-V2.

    .. math:: s = \operatorname{softmax}(x W_r), \qquad
              g_e = c\, s_e \quad (e \in \operatorname{top} k
              \text{ of the best groups})

    A group, neighbouring experts on one device, is judged by its best expert; a token
    then asks few devices only (DeepSeek-AI 2024, section 2.2.2, arXiv:2405.04434). The
    weights are the scores as they are, whose sum is small where there are many experts:
    the factor :math:`c` makes up for it. Everything is computed in float32 or better.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts; in a mixture, the mixture sets it.
    top_k : int
        Experts a token, all different: 6 in DeepSeek-V2.
    num_groups, top_groups : int
        How many groups, each of E / `num_groups` neighbouring experts, and how many of
        them a token keeps: 8 and 3 in DeepSeek-V2. With one group it is the plain choice
        of DeepSeek-V2-Lite.
    scale : float
        The factor :math:`c`; 16 in DeepSeek-V2.

    Raises
    ------
    TypeError, ValueError
        If a number is not positive, the groups do not divide the experts, those kept
        have fewer than `top_k`, or `x` is no floating-point tensor of width D.

    Notes
    -----
    The probes ``logits`` and ``scores`` hold numbers of shape (..., E), before and after
    the softmax; ``weights`` has shape (..., k). Configs say ``norm_topk_prob=False``;
    like Hugging Face's model, this router never divides by the sum.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import GroupedSoftmaxRouter
    >>> router = GroupedSoftmaxRouter(8, num_experts=6, top_k=2, num_groups=3, top_groups=1)
    >>> _, chosen = router(torch.randn(4, 8))
    >>> bool((chosen[:, 0] // 2 == chosen[:, 1] // 2).all())  # both of one pair
    True
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        num_groups: int,
        top_groups: int,
        scale: float = 1.0,
    ) -> None:
        super().__init__(embed_dim, num_experts, top_k)
        self.num_groups = positive_int("num_groups", num_groups)
        self.top_groups = positive_int("top_groups", top_groups)
        _group_size(num_experts, top_k, num_groups, top_groups)
        self.scale = positive("scale", scale)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and chosen experts, (..., k) each, of tokens (..., D)."""
        vectors("x", x, self.embed_dim)
        logits = self.logits(_product(x, self.weight))  # (..., E)
        scores = self.scores(logits.softmax(-1))
        near = _in_best_groups(scores, self.num_groups, self.top_groups, judges=1)
        weights, chosen = near.topk(self.top_k)  # (..., k)
        return self.weights(weights * self.scale), chosen
