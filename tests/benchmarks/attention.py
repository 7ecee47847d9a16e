"""Attention cores, on queries, keys and values that are given."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from .cases import Case, Run, case, causal_mask, impl, naive_attention, normal


class Attn(Case):
    """Queries, keys and values of all heads; `fmask` is the mask as 0 and -inf."""

    variant = "full"
    grads = ("q", "k", "v")
    sizes = {
        "s": dict(b=2, h=4, n=128, d=64),
        "m": dict(b=2, h=8, n=512, d=64),
        "l": dict(b=1, h=8, n=2048, d=64),
    }

    def make(self, p, g):
        hk = p.h // 4 if "gqa" in self.variant else p.h
        nq = 1 if self.variant.startswith("decode") else p.n
        t = dict(
            q=normal(g, p.b, p.h, nq, p.d),
            k=normal(g, p.b, hk, p.n, p.d),
            v=normal(g, p.b, hk, p.n, p.d),
        )
        v = self.variant
        if v in ("causal", "gqa"):
            t["mask"] = causal_mask(p.n)
        elif v == "window":
            p.w = max(p.n // 8, 32)
            t["mask"] = causal_mask(p.n, p.w)
        elif v in ("padding", "fullmask"):
            lens = (
                torch.tensor([p.n, p.n * 5 // 8, p.n // 2, p.n * 3 // 4])[: p.b]
                if p.b > 1
                else torch.tensor([p.n * 3 // 4])
            )
            if v == "fullmask":
                lens[-1] = 0
            t["mask"] = (torch.arange(p.n) < lens[:, None])[:, None, None, :]
        if "mask" in t:
            t["fmask"] = torch.zeros(t["mask"].shape, dtype=torch.float64).masked_fill(
                ~t["mask"], -math.inf
            )
        return t

    def ref(self, t, p):
        r = t.q.shape[1] // t.k.shape[1]
        o = naive_attention(
            t.q,
            t.k.repeat_interleave(r, 1),
            t.v.repeat_interleave(r, 1),
            getattr(t, "mask", None),
        )
        return o.nan_to_num(0.0)


class Decode(Attn):
    """One query, and the keys of a cache."""

    modes = ("fwd",)
    sizes = {
        "s": dict(b=1, h=8, n=256, d=64),
        "m": dict(b=8, h=8, n=512, d=64),
        "l": dict(b=8, h=12, n=2048, d=64),
    }


class FullMask(Attn):
    """A row that may attend to nothing."""

    sizes = {k: v for k, v in Attn.sizes.items() if k == "m"}


KINDS = {"decode": Decode, "decode_gqa": Decode, "fullmask": FullMask}
for _v in ("full", "causal", "padding", "window", "gqa", *KINDS):
    case("attn/" + _v, type("Attn_" + _v, (KINDS.get(_v, Attn),), dict(variant=_v)))

ALLA = [
    "attn/" + v for v in ("full", "causal", "padding", "window", "fullmask", "decode")
]


@impl(ALLA, "naive softmax(QK)V")
def _(t, p):
    m = getattr(t, "mask", None)
    return Run(lambda: naive_attention(t.q, t.k, t.v, m))


@impl(["attn/causal"], "naive, mask built per call")
def _(t, p):
    return Run(
        lambda: naive_attention(t.q, t.k, t.v, torch.tril(torch.ones(p.n, p.n)).bool())
    )


@impl(["attn/full", "attn/decode"], "F.sdpa")
def _(t, p):
    return Run(lambda: sdpa(t.q, t.k, t.v))


@impl(["attn/causal"], "F.sdpa is_causal")
def _(t, p):
    return Run(lambda: sdpa(t.q, t.k, t.v, is_causal=True))


@impl(
    ["attn/causal", "attn/padding", "attn/window", "attn/fullmask"], "F.sdpa bool mask"
)
def _(t, p):
    return Run(lambda: sdpa(t.q, t.k, t.v, attn_mask=t.mask))


@impl(
    ["attn/causal", "attn/padding", "attn/window", "attn/fullmask"], "F.sdpa float mask"
)
def _(t, p):
    return Run(lambda: sdpa(t.q, t.k, t.v, attn_mask=t.fmask))


@impl(["attn/full", "attn/causal"], "F.sdpa MATH backend")
def _(t, p):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    c = "mask" in vars(t)

    def f():
        with sdpa_kernel(SDPBackend.MATH):
            return sdpa(t.q, t.k, t.v, is_causal=c)

    return Run(f)


def _hf(groups=1, training=False, causal=True):
    return SimpleNamespace(
        num_key_value_groups=groups, training=training, is_causal=causal
    )


@impl(ALLA, "HF eager_attention_forward")
def _(t, p):
    from transformers.models.llama.modeling_llama import eager_attention_forward as f

    m, fm = _hf(), getattr(t, "fmask", None)
    return Run(
        lambda: f(m, t.q, t.k, t.v, fm, scaling=p.d**-0.5)[0],
        post=lambda o: o.transpose(1, 2),
    )


@impl(ALLA, "HF sdpa_attention_forward")
def _(t, p):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as f

    c = p.variant == "causal"
    m, mask = _hf(causal=c), None if c else getattr(t, "mask", None)
    return Run(
        lambda: f(m, t.q, t.k, t.v, mask, scaling=p.d**-0.5)[0],
        post=lambda o: o.transpose(1, 2),
    )


def _xt_attend(flash):
    def b(t, p):
        from x_transformers.attend import Attend

        c = p.variant == "causal"
        a = Attend(causal=c, flash=flash, scale=p.d**-0.5)
        mask = None if c else getattr(t, "mask", None)
        if mask is not None and mask.ndim == 2:
            mask = mask[None, None]
        return Run(lambda: a(t.q, t.k, t.v, mask=mask)[0])

    return b


impl(ALLA, "x-transformers Attend flash")(_xt_attend(True))
impl(ALLA, "x-transformers Attend")(_xt_attend(False))


@impl("attn/window", "local-attention")
def _(t, p):
    from local_attention import LocalAttention

    # Its exact window is what lies behind: the token itself comes on top.
    settings = dict(causal=True, exact_windowsize=True, use_rotary_pos_emb=False)
    a = LocalAttention(window_size=p.w - 1, look_backward=1, autopad=True, **settings)
    return Run(lambda: a(t.q, t.k, t.v))


GQA = ["attn/gqa", "attn/decode_gqa"]


def _gqa_mask(t, p):
    return dict(is_causal=True) if p.variant == "gqa" else {}


@impl(GQA, "naive repeat_interleave")
def _(t, p):
    r, m = t.q.shape[1] // t.k.shape[1], getattr(t, "mask", None)
    return Run(
        lambda: naive_attention(
            t.q, t.k.repeat_interleave(r, 1), t.v.repeat_interleave(r, 1), m
        )
    )


@impl(GQA, "F.sdpa enable_gqa")
def _(t, p):
    kw = _gqa_mask(t, p)
    return Run(lambda: sdpa(t.q, t.k, t.v, enable_gqa=True, **kw))


@impl(GQA, "F.sdpa repeat_interleave")
def _(t, p):
    kw, r = _gqa_mask(t, p), t.q.shape[1] // t.k.shape[1]
    return Run(
        lambda: sdpa(
            t.q, t.k.repeat_interleave(r, 1), t.v.repeat_interleave(r, 1), **kw
        )
    )


@impl(GQA, "F.sdpa expand+flatten (torchtune)")
def _(t, p):
    kw, r = _gqa_mask(t, p), t.q.shape[1] // t.k.shape[1]
    b, hk, n, d = t.k.shape
    ex = lambda z: z.unsqueeze(2).expand(b, hk, r, n, d).flatten(1, 2)
    return Run(lambda: sdpa(t.q, ex(t.k), ex(t.v), **kw))


@impl(GQA, "HF sdpa_attention_forward")
def _(t, p):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as f

    m = _hf(groups=t.q.shape[1] // t.k.shape[1])
    return Run(
        lambda: f(m, t.q, t.k, t.v, None, scaling=p.d**-0.5)[0],
        post=lambda o: o.transpose(1, 2),
    )


@impl(GQA, "HF eager_attention_forward")
def _(t, p):
    from transformers.models.llama.modeling_llama import eager_attention_forward as f

    m, fm = _hf(groups=t.q.shape[1] // t.k.shape[1]), getattr(t, "fmask", None)
    return Run(
        lambda: f(m, t.q, t.k, t.v, fm, scaling=p.d**-0.5)[0],
        post=lambda o: o.transpose(1, 2),
    )
