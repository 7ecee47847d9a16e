"""A call of attention: its keywords, and what they say about each pair of tokens."""

from __future__ import annotations

from functools import reduce
from typing import TypedDict

import torch
from torch import Tensor

from tfdoc._scores import BiasLike, MaskLike
from tfdoc._tensor_checks import (
    Positions,
    additive_bias,
    boolean_mask,
    first_position,
    resolve_positions,
    token_mask,
)
from tfdoc.biases import Bias
from tfdoc.cache_stacks import ModelCache
from tfdoc.caches import Cache, Places
from tfdoc.masks import Mask


class PairCall(TypedDict, total=False):
    """Keywords that speak of pairs of tokens: a block hands them on to its attention."""

    mask: MaskLike
    positions: Positions
    position_bias: BiasLike


class AttentionCall(PairCall, total=False):
    """All that a block hands on to its attention."""

    cache: Cache | None


def places(
    positions: Positions, x: Tensor, cache: Cache | ModelCache | None = None
) -> Places:
    """Return where the tokens of `x` stand: behind the cache's, if nothing is said."""
    if positions is None:
        return 0 if cache is None else cache.ahead(x.shape[1])
    if not isinstance(positions, Tensor):
        return first_position(positions)
    return resolve_positions(positions, x)


def stand(
    x: Tensor, real: Tensor | None, positions: Positions, cache: ModelCache | None
) -> Places:
    """Return where tokens stand: padding nowhere, at -1, the others behind each other."""
    if real is None:
        return places(positions, x, cache)
    mask = token_mask(real, "x", x if x.ndim == 3 else x.unsqueeze(-1), "real")
    if positions is None:
        held = 0 if cache is None else cache.ahead(1)
        at = held + mask.cumsum(1) - 1
    else:
        at = resolve_positions(positions, x)
    return torch.where(mask, at, -1)


def lined_up(mask: Mask | None, at: Places, key_at: Places) -> bool:
    """Say whether a core may evaluate the mask, with the queries as the last keys."""
    if isinstance(at, Tensor) or isinstance(key_at, Tensor):
        return False
    return key_at == 0 or mask is None or mask.band() is not None


def allowed_pairs(
    masks: tuple[MaskLike, ...],
    shape: tuple[int, ...],
    at: Places,
    key_at: Places,
    device: torch.device,
) -> Tensor | None:
    """Evaluate all masks at these positions; nobody attends to a negative one.

    `shape` is that of the scores, (B, H, T, S).
    """
    query, key = _spread(at, shape[-2], device), _spread(key_at, shape[-1], device)
    tables = [m(query, key) if isinstance(m, Mask) else m for m in masks]
    checked = [boolean_mask(table, shape) for table in tables if table is not None]
    if isinstance(key_at, Tensor):  # padding, or an empty slot
        real = key >= 0
        checked.append(real[:, None, None] if real.ndim == 2 else real)
    return reduce(torch.logical_and, checked) if checked else None


def added_scores(
    biases: tuple[BiasLike, ...],
    shape: tuple[int, ...],
    at: Places,
    key_at: Places,
    device: torch.device,
) -> Tensor | None:
    """Evaluate all biases at these positions and add them up."""
    given = [bias for bias in biases if bias is not None]
    if not given:
        return None
    query, key = _spread(at, shape[-2], device), _spread(key_at, shape[-1], device)
    tables = [b(query, key) if isinstance(b, Bias) else b for b in given]
    return reduce(torch.add, [additive_bias(table, shape) for table in tables])


def _spread(at: Places, tokens: int, device: torch.device) -> Tensor:
    return (
        at if isinstance(at, Tensor) else torch.arange(at, at + tokens, device=device)
    )
