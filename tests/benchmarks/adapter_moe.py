"""The mixture of experts of tfdoc, for a benchmark that compares it with its peers."""

from __future__ import annotations

import torch
from bench_peers import Run, impl, load  # type: ignore[import-not-found]

from tfdoc import MixtureOfExperts


@impl("ffn/moe", "tfdoc MixtureOfExperts", kind="own")
def mixture(t, p):  # type: ignore[no-untyped-def]
    moe = MixtureOfExperts(p.D, num_experts=8, hidden_dim=p.I).to(t.x)
    gate_up = torch.cat((t.w1, t.w3), 1)
    load(
        moe,
        router__weight=t.wg,
        experts__gate_up_proj=gate_up,
        experts__down_proj=t.w2,
    )
    return Run(lambda: moe(t.x), params=moe.parameters())
