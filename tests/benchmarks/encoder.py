"""Rotary positions, and one layer of an encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .cases import (
    Case,
    Run,
    case,
    copy_,
    halves,
    impl,
    interleaved,
    load,
    naive_attention,
    normal,
    rope_half,
    rope_tables,
    zero_bias,
)


class Rope(Case):
    """Rotate q and k, given (b, n, h, d) as projections return them; tables are ready."""

    grads = ("q", "k")
    sizes = {
        "s": dict(b=2, n=128, h=4, hk=4, d=64),
        "m": dict(b=4, n=512, h=8, hk=8, d=64),
        "l": dict(b=4, n=2048, h=16, hk=4, d=64),
        "one": dict(b=1, n=1, h=8, hk=8, d=64),
    }

    def make(self, p, g):
        return dict(q=normal(g, p.b, p.n, p.h, p.d), k=normal(g, p.b, p.n, p.hk, p.d))

    def ref(self, t, p):
        cos, sin = rope_tables(p.n, p.d, t.q)
        return torch.cat(
            [rope_half(z.transpose(1, 2), cos, sin) for z in (t.q, t.k)], 1
        )


case("rope", Rope)


@impl("rope", "HF apply_rotary_pos_emb")
def _(t, p):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cos, sin = (torch.cat((z, z), -1)[None] for z in rope_tables(p.n, p.d, t.q))
    return Run(
        lambda: apply_rotary_pos_emb(
            t.q.transpose(1, 2), t.k.transpose(1, 2), cos, sin
        ),
        post=lambda o: torch.cat(o, 1),
    )


@impl("rope", "torchtune RotaryPositionalEmbeddings")
def _(t, p):
    from torchtune.modules import RotaryPositionalEmbeddings

    m = RotaryPositionalEmbeddings(p.d, p.n)
    q, k = interleaved(t.q), interleaved(t.k)
    return Run(
        lambda: (m(q), m(k)),
        inputs=[q, k],
        post=lambda o: torch.cat([halves(z.transpose(1, 2)) for z in o], 1),
    )


@impl("rope", "complex numbers (LLaMA reference)")
def _(t, p):
    cos, sin = rope_tables(p.n, p.d, t.q.float())
    fr = torch.complex(cos, sin)[None, :, None]
    q, k = interleaved(t.q), interleaved(t.k)
    f = lambda x: (
        torch.view_as_real(
            torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * fr
        )
        .flatten(3)
        .type_as(x)
    )
    return Run(
        lambda: (f(q), f(k)),
        inputs=[q, k],
        post=lambda o: torch.cat([halves(z.transpose(1, 2)) for z in o], 1),
    )


@impl("rope", "x-transformers apply_rotary_pos_emb")
def _(t, p):
    from x_transformers.x_transformers import RotaryEmbedding, apply_rotary_pos_emb

    fr, _s = RotaryEmbedding(p.d).forward_from_seq_len(p.n)
    q, k = interleaved(t.q), interleaved(t.k)
    f = lambda z: apply_rotary_pos_emb(z.transpose(1, 2), fr)
    return Run(
        lambda: (f(q), f(k)),
        inputs=[q, k],
        post=lambda o: torch.cat([halves(z) for z in o], 1),
    )


@impl("rope", "naive half-split cat")
def _(t, p):
    cos, sin = rope_tables(p.n, p.d, t.q)
    return Run(
        lambda: (
            rope_half(t.q.transpose(1, 2), cos, sin),
            rope_half(t.k.transpose(1, 2), cos, sin),
        ),
        post=lambda o: torch.cat(o, 1),
    )


class Enc(Case):
    pad = False
    sizes = {
        "s": dict(b=2, n=64, D=128, h=4, I=512),
        "m": dict(b=4, n=256, D=512, h=8, I=2048),
        "l": dict(b=4, n=512, D=768, h=12, I=3072),
    }

    def make(self, p, g):
        D, s = p.D, p.D**-0.5
        t = dict(
            x=normal(g, p.b, p.n, D),
            wq=normal(g, D, D, scale=s),
            wk=normal(g, D, D, scale=s),
            wv=normal(g, D, D, scale=s),
            wo=normal(g, D, D, scale=s),
            w1=normal(g, p.I, D, scale=s),
            w2=normal(g, D, p.I, scale=p.I**-0.5),
        )
        if self.pad:
            lens = torch.tensor([p.n if i % 2 == 0 else p.n // 2 for i in range(p.b)])
            t["mask"] = torch.arange(p.n) < lens[:, None]  # True = keep
        return t

    def ref(self, t, p):
        b, n, D = t.x.shape
        ln = lambda z: F.layer_norm(z, (D,), eps=1e-5)
        sp = lambda w: (t.x @ w.T).view(b, n, p.h, D // p.h).transpose(1, 2)
        m = t.mask[:, None, None, :] if self.pad else None
        a = (
            naive_attention(sp(t.wq), sp(t.wk), sp(t.wv), m)
            .transpose(1, 2)
            .reshape(b, n, D)
            @ t.wo.T
        )
        x = ln(t.x + a)
        y = ln(x + F.gelu(x @ t.w1.T) @ t.w2.T)
        return y * t.mask[..., None] if self.pad else y  # padded rows do not count


case("encoder/nomask", Enc)
case("encoder/padded", type("EncPad", (Enc,), dict(pad=True)))
ENC = ["encoder/nomask", "encoder/padded"]


def real_rows(t, p):
    return (lambda o: o * t.mask[..., None]) if p.case.pad else None


def _nn_enc(fast):
    def b(t, p):
        m = nn.TransformerEncoderLayer(
            p.D, p.h, p.I, dropout=0.0, activation="gelu", batch_first=True
        )
        m = zero_bias(m).to(t.x).eval()
        load(
            m,
            self_attn__in_proj_weight=torch.cat((t.wq, t.wk, t.wv)),
            self_attn__out_proj__weight=t.wo,
            linear1__weight=t.w1,
            linear2__weight=t.w2,
        )
        kw = dict(src_key_padding_mask=~t.mask) if p.case.pad else {}

        def f():
            torch.backends.mha.set_fastpath_enabled(fast)
            try:
                return m(t.x, **kw)
            finally:
                torch.backends.mha.set_fastpath_enabled(True)

        return Run(f, params=m.parameters(), post=real_rows(t, p))

    return b


impl(ENC, "nn.TransformerEncoderLayer (fast path)")(_nn_enc(True))
impl(ENC, "nn.TransformerEncoderLayer, no fast path", modes=("fwd",))(_nn_enc(False))


@impl("encoder/padded", "nn.TransformerEncoder(1 layer), nested tensor", modes=("fwd",))
def _(t, p):
    m = nn.TransformerEncoderLayer(
        p.D, p.h, p.I, dropout=0.0, activation="gelu", batch_first=True
    )
    m = zero_bias(m).to(t.x).eval()
    load(
        m,
        self_attn__in_proj_weight=torch.cat((t.wq, t.wk, t.wv)),
        self_attn__out_proj__weight=t.wo,
        linear1__weight=t.w1,
        linear2__weight=t.w2,
    )
    m = nn.TransformerEncoder(m, 1, enable_nested_tensor=True).eval()
    return Run(lambda: m(t.x, src_key_padding_mask=~t.mask), post=real_rows(t, p))


def _bert_layer(attn):
    def b(t, p):
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertLayer

        c = BertConfig(
            hidden_size=p.D,
            num_attention_heads=p.h,
            intermediate_size=p.I,
            hidden_act="gelu",
            layer_norm_eps=1e-5,
            attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.0,
        )
        c._attn_implementation = attn
        m = zero_bias(BertLayer(c)).to(t.x).eval()
        load(
            m,
            attention__self__query__weight=t.wq,
            attention__self__key__weight=t.wk,
            attention__self__value__weight=t.wv,
            attention__output__dense__weight=t.wo,
            intermediate__dense__weight=t.w1,
            output__dense__weight=t.w2,
        )
        mask = None
        if p.case.pad:
            mask = t.mask[:, None, None, :].expand(-1, 1, p.n, -1)
            if attn == "eager":
                mask = (
                    torch.zeros(mask.shape, device=mask.device)
                    .masked_fill(~mask, torch.finfo(torch.float32).min)
                    .to(t.x)
                )
        return Run(lambda: m(t.x, mask), params=m.parameters(), post=real_rows(t, p))

    return b


impl(ENC, "HF BertLayer sdpa")(_bert_layer("sdpa"))
impl(ENC, "HF BertLayer eager")(_bert_layer("eager"))


@impl(ENC, "x-transformers Encoder post-norm flash")
def _(t, p):
    from x_transformers import Encoder

    m = (
        zero_bias(
            Encoder(
                dim=p.D,
                depth=1,
                heads=p.h,
                attn_dim_head=p.D // p.h,
                pre_norm=False,
                attn_flash=True,
                ff_mult=p.I / p.D,
            )
        )
        .to(t.x)
        .eval()
    )
    lin = [x for x in m.modules() if isinstance(x, nn.Linear)]
    for l, w in zip(lin, (t.wq, t.wk, t.wv, t.wo, t.w1, t.w2), strict=True):
        copy_(l.weight, w)
    kw = dict(mask=t.mask) if p.case.pad else {}
    return Run(lambda: m(t.x, **kw), params=m.parameters(), post=real_rows(t, p))
