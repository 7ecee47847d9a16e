"""The components once more, as naive loops over float64 numbers: the reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """Attend, one query at a time; shapes (T, d), (S, d), (S, v)."""
    rows = []
    for i, q in enumerate(query.tolist()):
        seen = [j for j in range(len(key)) if allowed is None or bool(allowed[i, j])]
        scores = [
            sum(a * b for a, b in zip(q, key[j].tolist(), strict=True))
            / math.sqrt(len(q))
            for j in seen
        ]
        powers = [math.exp(s - max(scores)) for s in scores]
        row = [0.0] * value.shape[1]
        for power, j in zip(powers, seen, strict=True):
            for c, v in enumerate(value[j].tolist()):
                row[c] += power / sum(powers) * v
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Normalise each row of (T, D) to mean 0 and variance 1."""
    rows = []
    for row in x.tolist():
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        rows.append([(v - mean) / math.sqrt(variance + eps) for v in row])
    return torch.tensor(rows, dtype=torch.float64)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide each row of (T, D) by its root mean square."""
    rows = []
    for row in x.tolist():
        square = sum(v * v for v in row) / len(row)
        rows.append([v / math.sqrt(square + eps) for v in row])
    return torch.tensor(rows, dtype=torch.float64)


def gelu(x: float) -> float:
    """x times the share of a normal distribution below x."""
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def silu(x: float) -> float:
    """x times its sigmoid."""
    return x / (1 + math.exp(-x))


def rope(x: Tensor, positions: list[int], base: float) -> Tensor:
    """Turn neighbouring channels of (T, d) by their position's angles."""
    rows = []
    for row, p in zip(x.tolist(), positions, strict=True):
        out = []
        for i in range(0, len(row), 2):
            angle = p * base ** (-i / len(row))
            cos, sin = math.cos(angle), math.sin(angle)
            a, b = row[i : i + 2]
            out += [a * cos - b * sin, a * sin + b * cos]
        rows.append(out)
    return torch.tensor(rows, dtype=torch.float64)


# What one expert contributes: its number, a token (D,), and the token's weight for it.
Visit = Callable[[int, Tensor, Tensor], Tensor]


def gated(experts: Any) -> Visit:
    """The weight times what a gated network returns."""

    def visit(e: int, x: Tensor, weight: Tensor) -> Tensor:
        gate, up = (experts.gate_up_proj[e] @ x).split(len(experts.down_proj[e].T))
        hidden = gate / (1 + torch.exp(-gate)) * up
        out: Tensor = weight * (experts.down_proj[e] @ hidden)
        return out

    return visit


def scaled_input(experts: Any) -> Visit:
    """What a gated network returns of the token times its weight."""
    return lambda e, x, weight: gated(experts)(e, weight * x, torch.ones_like(weight))


def clamped(experts: Any, limit: float = 7.0, alpha: float = 1.702) -> Visit:
    """The weight times what a network with biases and bounds returns."""

    def visit(e: int, x: Tensor, weight: Tensor) -> Tensor:
        both = experts.gate_up_proj[e] @ x + experts.gate_up_proj_bias[e]
        gate, up = both.split(len(both) // 2)
        gate = torch.where(gate > limit, limit, gate)
        up = torch.where(up > limit, limit, torch.where(up < -limit, -limit, up))
        hidden = (up + 1) * gate / (1 + torch.exp(-alpha * gate))
        out = experts.down_proj[e] @ hidden + experts.down_proj_bias[e]
        weighed: Tensor = weight * out
        return weighed

    return visit


def mixture(
    x: Tensor,
    visit: Visit,
    weights: Tensor,
    chosen: list[list[int]],
    room: float = math.inf,
) -> Tensor:
    """Send tokens (N, D), one after another, to experts with room for so many each.

    A token with no chosen experts is padding. Tensors stay tensors, for gradients.
    """
    taken: Counter[int] = Counter()
    rows = []
    for i, experts in enumerate(chosen):
        row = torch.zeros_like(x[i])
        for j, e in enumerate(experts):
            if taken[e] < room:
                taken[e] += 1
                row = row + visit(e, x[i], weights[i, j])
        rows.append(row)
    return torch.stack(rows)
