"""Norms for a benchmark of several libraries, which hands over inputs and weights."""

from __future__ import annotations

from typing import Any

from bench_peers import Run, copy_, impl  # type: ignore[import-not-found]

from tfdoc import LayerNorm, RMSNorm


@impl("norm/layer", "tfdoc", kind="own")  # type: ignore[untyped-decorator]
def _(t: Any, p: Any) -> Any:
    norm = LayerNorm(p.d, eps=p.eps).to(t.x)
    copy_(norm.weight, t.w)
    return Run(lambda: norm(t.x), params=norm.parameters())


@impl("norm/rms", "tfdoc", kind="own")  # type: ignore[untyped-decorator]
def _(t: Any, p: Any) -> Any:
    norm = RMSNorm(p.d, eps=p.eps).to(t.x)
    copy_(norm.weight, t.w)
    return Run(lambda: norm(t.x), params=norm.parameters())
