"""What is measured: cases, and the implementations registered for them.

A case makes inputs and weights in float64, and computes what has to come out. Whoever
wants to be compared registers a function that takes the same tensors in float32::

    @impl("norm/rms", "a library")
    def _(t, p):  # t: inputs and weights, p: the sizes
        norm = library.RMSNorm(p.d, eps=p.eps)
        copy_(norm.weight, t.w)
        return Run(lambda: norm(t.x), params=norm.parameters())
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Generator, Tensor, nn

Sizes = dict[str, dict[str, int]]
Build = Callable[[Any, Any], "Run"]
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


@dataclass
class Run:
    """One implementation, ready to be called.

    `post` brings its output to the layout of the reference, for the check alone;
    `inputs` are its own leaves, where it does not take those of the case; a wider
    tolerance has its reason in `note`.
    """

    fn: Callable[[], Any]
    params: Iterable[Tensor] = ()
    post: Callable[[Any], Tensor] | None = None
    inputs: Sequence[Tensor] | None = None
    tol: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Implementation:
    """Who is compared: "peer" or "own", and in which modes and sizes."""

    label: str
    kind: str
    build: Build
    modes: Sequence[str] | None = None
    sizes: Sequence[str] | None = None

    def runs(self, mode: str, size: str) -> bool:
        """Return whether it takes part."""
        return mode in (self.modes or [mode]) and size in (self.sizes or [size])


@dataclass
class Case(ABC):
    """One thing to compute, in a few sizes and modes."""

    name: str = ""
    impls: dict[str, Implementation] = field(default_factory=dict)

    sizes: ClassVar[Sizes] = {}
    modes: ClassVar[Sequence[str]] = ("fwd", "fwdbwd")
    grads: ClassVar[Sequence[str]] = ("x",)

    @abstractmethod
    def make(self, p: Any, g: Generator) -> dict[str, Tensor]:
        """Return inputs and weights, those with a fraction in float64."""

    @abstractmethod
    def ref(self, t: Any, p: Any) -> Tensor:
        """Return what has to come out, in float64."""

    def sized(self, size: str) -> SimpleNamespace:
        """Return the sizes by name, with the case itself."""
        variant = getattr(self, "variant", None)
        return SimpleNamespace(**self.sizes[size], case=self, variant=variant)


CASES: dict[str, Case] = {}


def case(name: str, kind: type[Case]) -> None:
    """Register a case."""
    CASES[name] = kind(name)


def impl(
    names: str | Sequence[str], label: str, *, kind: str = "peer", **limits: Any
) -> Callable[[Build], Build]:
    """Register a function that builds an implementation of these cases."""

    def register(build: Build) -> Build:
        for name in [names] if isinstance(names, str) else names:
            CASES[name].impls[label] = Implementation(label, kind, build, **limits)
        return build

    return register


def copy_(target: Tensor, source: Tensor) -> None:
    """Copy values into a parameter."""
    with torch.no_grad():
        target.copy_(source.to(target.dtype))


def load(module: M, **weights: Tensor) -> M:
    """Copy tensors into parameters, whose dots are written as two underscores."""
    parameters = dict(module.named_parameters())
    for name, weight in weights.items():
        copy_(parameters[name.replace("__", ".")], weight)
    return module


def zero_bias(module: M) -> M:
    """Set every bias to zero: not all peers have one."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            copy_(parameter, torch.zeros_like(parameter))
    return module


def normal(g: Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Return normal float64 numbers."""
    return torch.randn(*shape, generator=g, dtype=torch.float64) * scale


def naive_attention(q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Tensor:
    """Return softmax(q kᵀ / √d) v, with every score in memory."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def causal_mask(n: int, window: int | None = None) -> Tensor:
    """Return which of the keys before it a query may see."""
    i = torch.arange(n)
    behind = i[:, None] - i
    return (behind >= 0) & (behind < (window or n))


def rope_tables(n: int, d: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of n positions and d / 2 frequencies."""
    frequencies = 10000.0 ** -(torch.arange(0, d, 2, dtype=torch.float64) / d)
    angles = torch.outer(torch.arange(n, dtype=torch.float64), frequencies)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rope_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (..., n, d), whose pairs are a channel and the one d / 2 behind it."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def interleave_rows(weight: Tensor, heads: int) -> Tensor:
    """Bring the pairs of rotated rows together, for those who turn neighbours."""
    pairs = weight.view(heads, 2, weight.shape[0] // heads // 2, -1)
    return pairs.transpose(1, 2).reshape(weight.shape)


def interleaved(x: Tensor) -> Tensor:
    """Bring the pairs of rotated channels together."""
    pairs = x.detach().unflatten(-1, (2, -1)).mT
    return torch.flatten(pairs, -2).contiguous().requires_grad_()


def halves(x: Tensor) -> Tensor:
    """Undo `interleaved`."""
    return torch.flatten(x.unflatten(-1, (-1, 2)).mT, -2)


def xt_heads(weight: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Order the rows of query heads as x-transformers pairs them with key heads.

    It pairs query head j with key head j % G, the others with j // (H / G).
    """
    groups = weight.view(kv_heads, heads // kv_heads, -1, *weight.shape[1:])
    return groups.transpose(0, 1).reshape(weight.shape)
