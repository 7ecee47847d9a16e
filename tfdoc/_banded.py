"""Fast paths of fused attention: one query, and masks that are a band of distances."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries that are attended together where each sees a band of keys.
BLOCK = 128


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Call torch's kernel; key heads are shared by groups of query heads."""
    grouped = query.ndim == 4 and query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, mask, enable_gqa=grouped, **settings
    )


def one_query(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Attend with a single token, as in decoding.

    The query heads of a group become the rows of one product: their keys and values are
    read once instead of once for each head.
    """
    if query.ndim != 4 or query.shape[1] == key.shape[1]:
        return F.scaled_dot_product_attention(query, key, value, mask, **settings)
    batch, heads, _, width = query.shape
    groups = key.shape[1]
    if mask is not None:
        mask = mask.expand(batch, heads, 1, -1).reshape(
            batch, groups, heads // groups, key.shape[-2]
        )
    rows = query.reshape(batch, groups, heads // groups, width)
    out = F.scaled_dot_product_attention(rows, key, value, mask, **settings)
    return out.view(batch, heads, 1, out.shape[-1])


def in_band(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    back: float,
    ahead: float,
    always: int = 0,
    **settings: Any,
) -> Tensor:
    """Attend to keys at most so far back and ahead, block by block of queries.

    Time and memory grow with tokens times band, not with their square. The queries are
    the last of the keys. The first keys, `always` of them, are seen from everywhere and
    do not count.
    """
    keys = key.shape[-2] - always
    offset = keys - query.shape[-2]
    back = min(back, keys)
    masks: dict[tuple[int, ...], Tensor] = {}  # blocks in the middle share one
    out = []
    for block in query.split(BLOCK, -2):
        end = offset + block.shape[-2]
        first, last = max(0, offset - int(back)), int(min(keys, end + ahead))
        shape = (offset - first, block.shape[-2], last - first)
        if shape not in masks:
            masks[shape] = F.pad(_band(*shape, back, ahead, query), (always, 0))
        near, values = (_rows(x, always, first, last) for x in (key, value))
        out.append(kernel(block, near, values, masks[shape], **settings))
        offset = end
    return torch.cat(out, -2)


def _rows(x: Tensor, always: int, first: int, last: int) -> Tensor:
    rows = x[..., always + first : always + last, :]
    return torch.cat([x[..., :always, :], rows], -2) if always else rows


def _band(
    start: int, queries: int, keys: int, back: float, ahead: float, like: Tensor
) -> Tensor:
    """Return 0 in the band and -inf outside, for queries from `start` on."""
    at = torch.arange(start, start + queries, device=like.device)
    distance = at[:, None] - torch.arange(keys, device=like.device)
    hidden = (distance > back) | (distance < -ahead)
    zeros = torch.zeros(queries, keys, dtype=like.dtype, device=like.device)
    return zeros.masked_fill(hidden, float("-inf"))
