"""Losses that keep a router balanced and its logits small."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from tfdoc._checks import positive_int
from tfdoc._tensor_checks import token_mask, vectors

__all__ = ["load_balancing_loss", "router_z_loss"]


def load_balancing_loss(
    scores: Tensor | Iterable[Tensor], top_k: int, *, mask: Tensor | None = None
) -> Tensor:
    r"""Return the auxiliary loss that is smallest when all experts are used alike.

    .. math:: E \sum_{e=1}^{E} f_e\,P_e

    with :math:`f_e` the share of tokens that chose expert e and :math:`P_e` its mean
    score. Balanced, it is k; when all tokens choose the same k experts with certainty,
    E. Gradients flow through :math:`P_e` only (Fedus et al. 2021, arXiv:2101.03961,
    equations 4 to 6). Equal to Hugging Face's ``load_balancing_loss_func``.

    Parameters
    ----------
    scores : Tensor or iterable of Tensor
        Softmax scores, (..., E): the probe ``scores`` of a router. The tokens of several
        layers, such as ``seen.values()`` of a recording, are taken together. Sigmoid
        scores have to be divided by their sum first.
    top_k : int
        Experts a token.
    mask : Tensor, optional
        True at real tokens, (...): the same for all layers. Padding does not count.

    Raises
    ------
    TypeError, ValueError
        If `scores` are no floating-point tensors or there are none, `top_k` is not
        between 1 and E, or `mask` does not fit.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import load_balancing_loss
    >>> load_balancing_loss(torch.eye(4), top_k=1)  # one token each
    tensor(1.)
    >>> load_balancing_loss(torch.eye(4)[[0, 0, 0, 0]], top_k=1)  # all the same
    tensor(4.)
    """
    layers = [scores] if isinstance(scores, Tensor) else list(scores)
    if not layers:
        raise ValueError("scores must hold one tensor at least, got none")
    flat = torch.cat([_tokens("scores", layer, mask) for layer in layers])  # (N, E)
    if not 1 <= positive_int("top_k", top_k) <= flat.shape[-1]:
        raise ValueError(
            f"top_k must be at most {flat.shape[-1]}, the number of experts, got {top_k}"
        )
    chosen = torch.zeros_like(flat).scatter(-1, flat.topk(top_k).indices, 1.0)
    return flat.shape[-1] * (chosen.mean(0) * flat.mean(0)).sum()


def router_z_loss(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Return the mean of :math:`(\log \sum_e \exp z_e)^2`: it keeps logits small.

    Large logits round badly in half precision (Zoph et al. 2022, arXiv:2202.08906,
    equation 5; there with the factor 0.001 in the loss).

    Parameters
    ----------
    logits : Tensor
        The probe ``logits`` of a router, (..., E).
    mask : Tensor, optional
        True at real tokens, (...).

    Raises
    ------
    TypeError, ValueError
        If `logits` is no floating-point tensor or `mask` does not fit.

    Examples
    --------
    >>> import torch
    >>> from tfdoc import router_z_loss
    >>> router_z_loss(torch.zeros(5, 8)).sqrt()  # log 8
    tensor(2.0794)
    """
    return _tokens("logits", logits, mask).logsumexp(-1).square().mean()


def _tokens(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the rows of real tokens, (N, E)."""
    vectors(name, x, ndim=2)
    return x.flatten(0, -2) if mask is None else x[token_mask(mask, name, x)]
