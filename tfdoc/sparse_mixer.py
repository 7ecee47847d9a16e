"""SparseMixer's router: a softmax for each choice, over the experts near the best."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tfdoc._checks import positive
from tfdoc._tensor_checks import vectors
from tfdoc.routers import _exact, _Router

__all__ = ["SparseMixerRouter"]


class SparseMixerRouter(_Router):
    r"""One choice after another, each weighed against near rivals only: Phi-3.5-MoE.

    .. math:: g_e = \frac{\exp z_e}{\sum_{j \in N_e} \exp z_j}, \qquad
              N_e = \Bigl\{ j \text{ left} : \frac{z_e - z_j}{\max(|z_j|, z_e)}
              \le 2 \varepsilon \Bigr\}

    with logits :math:`z = x W_r`. The best expert :math:`e` is taken, with its softmax
    over those within the bound; the next is the best of those left, with a softmax
    of its own. An expert without rivals has weight 1, so that the weights of a token sum
    to anything up to k (Liu et al. 2023, arXiv:2310.00811; Liu et al. 2024, *GRIN*,
    arXiv:2409.12136). The softmax is taken in float32 or better.

    This is the form for inference, in training mode as well. Phi-3.5-MoE was trained in
    another: it drew an expert at random among those within the bound, and estimated the
    router's gradient from the draws. Here the gradient is that of the weights above, so
    an expert without rivals passes none on.

    Parameters
    ----------
    embed_dim : int
        Width D of a token.
    num_experts : int
        Number E of experts; in a mixture, the mixture sets it.
    top_k : int
        Experts a token, all different: 2 in Phi-3.5-MoE.
    jitter : float
        The bound :math:`\varepsilon`; 0.01 in Phi-3.5-MoE.

    Raises
    ------
    TypeError, ValueError
        If a number is not positive, `top_k` above `num_experts`, or `x` no
        floating-point tensor of width D.

    Notes
    -----
    The probes ``logits`` and ``scores`` hold numbers of shape (..., E), before and after
    a softmax over all experts, which only the balancing loss needs; ``weights`` has shape
    (..., k).

    Examples
    --------
    >>> import torch
    >>> from tfdoc import SparseMixerRouter
    >>> router = SparseMixerRouter(1, num_experts=4).requires_grad_(False)
    >>> router.weight[:, 0] = torch.tensor([1.0, 3.0, 2.99, 1.0])
    >>> router(torch.ones(1))  # 1 and 2 are rivals; without 1, nobody is near 2
    (tensor([0.5025, 1.0000]), tensor([1, 2]))
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        jitter: float = 0.01,
    ) -> None:
        super().__init__(embed_dim, num_experts, top_k)
        self.jitter = positive("jitter", jitter)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and chosen experts, (..., k) each, of tokens (..., D)."""
        vectors("x", x, self.embed_dim)
        logits = self.logits(_exact(F.linear(x, self.weight)))  # (..., E)
        if self.scores.watched:
            self.scores(logits.softmax(-1))
        left, weights, chosen = logits, [], []
        for _ in range(self.top_k):
            best, expert = left.max(-1, keepdim=True)  # (..., 1)
            size = torch.maximum(logits.abs(), best)
            far = best - logits > 2 * self.jitter * size
            near = left.masked_fill(far, -torch.inf).softmax(-1)
            weights.append(near.gather(-1, expert))
            chosen.append(expert)
            left = left.scatter(-1, expert, -torch.inf)
        return self.weights(torch.cat(weights, -1)), torch.cat(chosen, -1)
