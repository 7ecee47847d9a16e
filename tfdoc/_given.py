"""Checks of what an attention is built of."""

from __future__ import annotations

import inspect

from torch import nn

from tfdoc._tensor_checks import describe
from tfdoc.biases import Bias
from tfdoc.masks import Mask
from tfdoc.parts import Part
from tfdoc.positions import RoPE


def given_mask(mask: object) -> Mask | None:
    """Return a mask for every call."""
    if mask is None or isinstance(mask, Mask):
        return mask
    raise TypeError(
        f"mask must be a Mask such as Causal(), got {type(mask).__name__}; a tensor goes "
        "to the call, forward(mask=...)"
    )


def given_rotary(rotary: object, head_dim: int) -> RoPE | None:
    """Return a rotation that fits heads of this width."""
    if rotary is None:
        return None
    if not isinstance(rotary, RoPE):
        raise TypeError(f"rotary must be a RoPE, got {rotary!r}; RoPE() makes one")
    rotary.frequencies(head_dim)  # refuses what does not fit
    return rotary


def build_norm(norm: object, head_dim: int, num_heads: int) -> nn.Module | None:
    """Build a norm of queries or keys for heads of this width."""
    if norm is None:
        return None
    told = _told("qk_norm", norm, "part(RMSNorm)", num_heads)
    return told.build(head_dim)


def build_core(core: object, num_heads: int) -> nn.Module:
    """Build a core, which works on heads of any width."""
    return _told("core", core, "part(DotProductCore)", num_heads).build()


def _told(name: str, given: object, example: str, num_heads: int) -> Part[nn.Module]:
    """Tell a part how many heads there are, if it asks for it."""
    if not isinstance(given, Part):
        raise TypeError(
            f"{name} must be a part, got {type(given).__name__}; {example} makes one"
        )
    if "num_heads" not in inspect.signature(given.component).parameters:
        return given
    if (asked := given.settings.get("num_heads", num_heads)) != num_heads:
        raise ValueError(
            f"the {name} part has num_heads={asked} and the attention {num_heads}; leave "
            f"it out in the {name} part"
        )
    return given.but(num_heads=num_heads)


def given_bias(bias: object, num_heads: int) -> Bias | None:
    """Return a bias made for as many heads."""
    if bias is None:
        return None
    if not isinstance(bias, Bias):
        raise TypeError(
            f"position_bias must be a Bias such as ALiBi({num_heads}), got "
            f"{describe(bias)}; a tensor goes to the call, forward(position_bias=...)"
        )
    if bias.num_heads != num_heads:
        raise ValueError(
            f"position_bias is made for num_heads={bias.num_heads}, but the attention "
            f"has num_heads={num_heads}; build both with the same number"
        )
    return bias
