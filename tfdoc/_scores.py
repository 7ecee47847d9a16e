"""The steps of scaled dot-product attention, shared by every core."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from tfdoc._checks import divides, positive
from tfdoc._tensor_checks import additive_bias, boolean_mask, vectors
from tfdoc.biases import Bias
from tfdoc.masks import Mask

# What may stand for a mask in a call: True = may attend.
MaskLike: TypeAlias = Tensor | Mask | None
# What may stand for a bias: numbers added to the scores.
BiasLike: TypeAlias = Tensor | Bias | None


def scaled_scores(
    query: Tensor, key: Tensor, scale: float, bias: Tensor | None
) -> Tensor:
    # Scaling the queries costs d numbers a token, scaling the scores one a pair.
    scores = (query * scale) @ per_head(key, query).mT
    return scores if bias is None else scores + bias


def masked_softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is None:
        return scores.softmax(-1)
    # The lowest finite number instead of -inf: a row with nothing to attend to then
    # passes through softmax without NaN, and the second fill makes it 0.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~allowed, lowest).softmax(-1).masked_fill(~allowed, 0.0)


def per_head(shared: Tensor, query: Tensor) -> Tensor:
    """Repeat key or value heads until each query head has its own: 0, 0, 1, 1, ..."""
    if query.ndim != 4 or shared.shape[1] == query.shape[1]:
        return shared
    return shared.repeat_interleave(query.shape[1] // shared.shape[1], dim=1)


def allowed_table(mask: MaskLike, query: Tensor, key: Tensor) -> Tensor | None:
    """Turn any mask into a bool tensor that fits the scores."""
    if mask is None:
        return None
    if isinstance(mask, Mask):
        mask = mask(*_ends(query, key))
    return boolean_mask(mask, (*query.shape[:-1], key.shape[-2]))


def seen_pairs(allowed: Tensor | None, added: Tensor | None) -> Tensor | None:
    """Take out the pairs whose bias is -inf: a row that loses them all comes out as 0."""
    if added is None:
        return allowed
    seen = added != float("-inf")
    return seen if allowed is None else allowed & seen


def added_table(bias: BiasLike, query: Tensor, key: Tensor) -> Tensor | None:
    """Turn any bias into a tensor that fits the scores, in their dtype."""
    if bias is None:
        return None
    if isinstance(bias, Bias):
        bias = bias(*_ends(query, key))
    return additive_bias(bias, (*query.shape[:-1], key.shape[-2])).to(query.dtype)


def mask_and_bias(
    mask: MaskLike, bias: BiasLike, query: Tensor, key: Tensor
) -> Tensor | None:
    """Write mask and bias as the one tensor that the kernel takes."""
    table, added = allowed_table(mask, query, key), added_table(bias, query, key)
    if added is None:  # the kernel wants a row of keys, even where all are alike
        return table if table is None else table.expand(*_rows(table), key.shape[-2])
    if table is not None:
        added = added.masked_fill(~table, float("-inf"))
    return added.expand(*query.shape[:-1], key.shape[-2])


def _rows(table: Tensor) -> tuple[int, ...]:
    return tuple(table.shape[:-1]) or (1,)


def _ends(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions, with the queries as the last of the keys."""
    if query.shape[-2] > key.shape[-2]:
        raise ValueError(
            "a Mask or Bias object counts the queries as the last of the keys, got "
            f"{query.shape[-2]} queries and {key.shape[-2]} keys; evaluate it on "
            "positions and give the tensor"
        )
    at = torch.arange(key.shape[-2], device=key.device)
    return at[key.shape[-2] - query.shape[-2] :], at


def check_heads(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None
) -> float:
    """Refuse what does not fit together; return the scale in use."""
    vectors("query", query, ndim=2)
    vectors("key", key, query.shape[-1], ndim=2)
    vectors("value", value, ndim=2)
    q, k, v = query.shape, key.shape, value.shape
    if k[:-1] != v[:-1]:
        raise ValueError(
            f"key and value must agree in all but the last dimension, got "
            f"{tuple(k)} and {tuple(v)}"
        )
    grouped = len(q) == len(k) == 4
    if q[0] != k[0] if grouped else q[:-2] != k[:-2]:
        raise ValueError(
            f"query of shape {tuple(q)} and key of shape {tuple(k)} "
            "must agree in all dimensions before tokens (heads may differ with four)"
        )
    if grouped and q[1] % k[1]:
        divides("key heads", k[1], "query heads", q[1])
    return query.shape[-1] ** -0.5 if scale is None else positive("scale", scale)
