"""Checks of tensors, written once: each error names argument, shape and fix."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

# None: 0 ... T-1. An int: that many further on. A tensor: (T,) or (B, T).
Positions = Tensor | int | None
# Positions can be subtracted: bytes without a sign would wrap around.
WHOLE = torch.int64, torch.int32


def vectors(name: str, x: Any, width: int | None = None, *, ndim: int = 1) -> None:
    """Refuse anything but a floating-point tensor of the given width and rank."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(x).__name__}; "
            "torch.as_tensor() converts lists and arrays"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must hold floating-point vectors, got dtype {x.dtype}; "
            "embed token ids first, or convert with .float()"
        )
    if x.ndim < ndim:
        raise ValueError(
            f"{name} must have at least {ndim} dimensions, got shape {tuple(x.shape)}; "
            "add the missing ones with x[None]"
        )
    if width is not None and x.size(-1) != width:
        raise ValueError(
            f"the last dimension of {name} must be {width}, "
            f"got {x.shape[-1]} in shape {tuple(x.shape)}"
        )


def batch_of_vectors(name: str, x: Any, width: int) -> None:
    """Refuse anything but a floating-point tensor of shape (B, T, `width`)."""
    vectors(name, x, width)
    if x.dim() != 3:
        raise ValueError(
            f"{name} must have shape (batch, tokens, {width}), got {tuple(x.shape)}; "
            "a single sequence needs x[None]"
        )


def boolean_mask(mask: Any, scores_shape: tuple[int, ...]) -> Tensor:
    """Return `mask`, a bool tensor that broadcasts to the shape of the scores."""
    if not isinstance(mask, torch.Tensor):
        raise TypeError(
            f"mask must be a bool tensor (True = may attend), got {type(mask).__name__}; "
            "numbers to add to the scores go to bias="
        )
    if mask.dtype is not torch.bool:
        raise TypeError(
            f"mask must be a bool tensor (True = may attend), got dtype {mask.dtype}; "
            "a 0/1 mask needs .bool(), a torch.nn mask tfdoc.mask_from_torch(); "
            "numbers to add to the scores go to bias="
        )
    try:
        fits = torch.broadcast_shapes(mask.shape, scores_shape) == scores_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not fit scores of shape "
            f"{tuple(scores_shape)} (batch, heads, queries, keys); a padding mask "
            "of shape (batch, keys) needs mask[:, None, None, :]"
        )
    return mask


def token_mask(mask: Any, name: str, x: Tensor, given: str = "mask") -> Tensor:
    """Return `mask`, one bool for each token of `x`, True where it is real."""
    if not isinstance(mask, torch.Tensor) or mask.dtype is not torch.bool:
        got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(
            f"{given} must be a bool tensor (True = real token), got {got}; "
            "a 0/1 mask needs .bool()"
        )
    if mask.shape != x.shape[:-1]:
        raise ValueError(
            f"{given} must have shape {tuple(x.shape[:-1])} for {name} of shape "
            f"{tuple(x.shape)}, got {tuple(mask.shape)}"
        )
    return mask


def additive_bias(bias: Any, scores_shape: tuple[int, ...]) -> Tensor:
    """Return `bias`, a floating-point tensor that broadcasts to the scores."""
    if not isinstance(bias, torch.Tensor) or not bias.is_floating_point():
        raise TypeError(
            "bias must be a Bias such as ALiBi(8) or a floating-point tensor that is "
            f"added to the scores, got {describe(bias)}; what says who may attend is "
            "a mask"
        )
    try:
        fits = torch.broadcast_shapes(bias.shape, scores_shape) == scores_shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"bias of shape {tuple(bias.shape)} does not fit scores of shape "
            f"{tuple(scores_shape)} (batch, heads, queries, keys)"
        )
    return bias


def first_position(positions: object) -> int:
    """Return an offset; None is 0."""
    if positions is None:
        return 0
    if type(positions) is int and positions >= 0:  # at every layer of every token
        return positions
    if isinstance(positions, bool) or not isinstance(positions, Integral):
        raise TypeError(
            "positions must be None, an integer offset or a tensor of integers, got "
            f"{type(positions).__name__}"
        )
    if positions < 0:
        raise ValueError(
            f"positions={positions} as an offset must be at least 0; in a tensor a "
            "negative position says that there is no token"
        )
    return int(positions)


def resolve_positions(positions: object, x: Tensor) -> Tensor:
    """Return positions of the tokens of `x` as a tensor, (T,) or (B, T)."""
    length = x.shape[1]
    if not isinstance(positions, Tensor):
        return torch.arange(length, device=x.device) + first_position(positions)
    if positions.dtype not in WHOLE:
        raise TypeError(
            f"positions must be a tensor of int64 or int32, got {describe(positions)}; a "
            "mask of the real tokens goes to a model's real="
        )
    if positions.shape not in ((length,), (x.shape[0], length)):
        raise ValueError(
            f"positions must have shape ({length},) or {(x.shape[0], length)} for x of "
            f"shape {tuple(x.shape)}, got {tuple(positions.shape)}"
        )
    return positions


def whole_positions(name: str, at: object) -> None:
    """Refuse anything but positions of shape (tokens,) or (batch, tokens)."""
    if isinstance(at, Tensor) and at.dtype in WHOLE and at.ndim in (1, 2):
        return
    raise TypeError(
        f"{name} must hold whole positions of shape (tokens,) or (batch, tokens), "
        f"got {describe(at)}; torch.arange makes them"
    )


def describe(value: Any) -> str:
    """Say what a value is, without printing a tensor."""
    if isinstance(value, Tensor):
        return f"a tensor of dtype {value.dtype} and shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__name__})"
