"""Attention with its four projections."""

from __future__ import annotations

import torch
from torch import nn

from .cases import (
    Case,
    Run,
    case,
    causal_mask,
    impl,
    interleave_rows,
    load,
    naive_attention,
    normal,
    rope_half,
    rope_tables,
    xt_heads,
    zero_bias,
)

MHAS = {
    "s": dict(b=2, n=64, D=128, h=4, hk=4),
    "m": dict(b=4, n=256, D=512, h=8, hk=8),
    "l": dict(b=2, n=1024, D=768, h=12, hk=12),
}


class MHA(Case):
    sizes = MHAS
    causal = rope = False

    def make(self, p, g):
        D, dk = p.D, p.D // p.h * p.hk
        s = D**-0.5
        return dict(
            x=normal(g, p.b, p.n, D),
            wq=normal(g, D, D, scale=s),
            wk=normal(g, dk, D, scale=s),
            wv=normal(g, dk, D, scale=s),
            wo=normal(g, D, D, scale=s),
        )

    def ref(self, t, p):
        b, n, D = t.x.shape
        hd = D // p.h
        sp = lambda w, h: (t.x @ w.T).view(b, n, h, hd).transpose(1, 2)
        q, k, v = sp(t.wq, p.h), sp(t.wk, p.hk), sp(t.wv, p.hk)
        if self.rope:
            cos, sin = rope_tables(n, hd, t.x)
            q, k = rope_half(q, cos, sin), rope_half(k, cos, sin)
        k, v = (z.repeat_interleave(p.h // p.hk, 1) for z in (k, v))
        o = naive_attention(q, k, v, causal_mask(n) if self.causal else None)
        return o.transpose(1, 2).reshape(b, n, D) @ t.wo.T


case("mha/bidir", MHA)


class Causal(MHA):
    causal = True


class Llama(Causal):
    rope = True
    sizes = {k: {**v, "hk": v["h"] // 4} for k, v in MHAS.items()}


case("mha/causal", Causal)
case("mha/llama", Llama)


def _nn_mha(need_weights, fast=True):
    def b(t, p):
        m = zero_bias(nn.MultiheadAttention(p.D, p.h, batch_first=True).to(t.x)).eval()
        load(m, in_proj_weight=torch.cat((t.wq, t.wk, t.wv)), out_proj__weight=t.wo)
        kw = dict(need_weights=need_weights)
        if p.case.causal:
            kw.update(
                attn_mask=nn.Transformer.generate_square_subsequent_mask(
                    p.n, dtype=t.x.dtype
                ),
                is_causal=True,
            )

        def f():
            return m(t.x, t.x, t.x, **kw)[0]

        def g():
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                return m(t.x, t.x, t.x, **kw)[0]
            finally:
                torch.backends.mha.set_fastpath_enabled(True)

        return Run(f if fast else g, params=m.parameters())

    return b


impl(["mha/bidir", "mha/causal"], "nn.MHA need_weights=False")(_nn_mha(False))
impl(["mha/bidir", "mha/causal"], "nn.MHA need_weights=True (default)")(_nn_mha(True))
impl(["mha/bidir"], "nn.MHA need_weights=False, no fast path", modes=("fwd",))(
    _nn_mha(False, fast=False)
)


def _bert_attn(attn):
    def b(t, p):
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertSelfAttention

        m = BertSelfAttention(
            BertConfig(
                hidden_size=p.D,
                num_attention_heads=p.h,
                attention_probs_dropout_prob=0.0,
                attn_implementation=attn,
            )
        )
        m.config._attn_implementation = attn
        m.dense = nn.Linear(p.D, p.D)
        m = zero_bias(m).to(t.x).eval()
        load(
            m,
            query__weight=t.wq,
            key__weight=t.wk,
            value__weight=t.wv,
            dense__weight=t.wo,
        )
        return Run(lambda: m.dense(m(t.x)[0]), params=m.parameters())

    return b


impl("mha/bidir", "HF BertSelfAttention sdpa + dense")(_bert_attn("sdpa"))
impl("mha/bidir", "HF BertSelfAttention eager + dense")(_bert_attn("eager"))


def _gpt2_attn(attn):
    def b(t, p):
        from transformers import GPT2Config
        from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

        c = GPT2Config(n_embd=p.D, n_head=p.h, attn_pdrop=0.0, resid_pdrop=0.0)
        c._attn_implementation = attn
        m = zero_bias(GPT2Attention(c, layer_idx=0)).to(t.x).eval()
        load(m, c_attn__weight=torch.cat((t.wq, t.wk, t.wv)).T, c_proj__weight=t.wo.T)
        mask = None
        if attn == "eager":
            mask = (
                torch.zeros(1, 1, p.n, p.n)
                .masked_fill(~causal_mask(p.n), torch.finfo(torch.float32).min)
                .to(t.x)
            )
        return Run(lambda: m(t.x, attention_mask=mask)[0], params=m.parameters())

    return b


impl("mha/causal", "HF GPT2Attention sdpa")(_gpt2_attn("sdpa"))
impl("mha/causal", "HF GPT2Attention eager")(_gpt2_attn("eager"))


def _xt_attn(flash):
    def b(t, p):
        from x_transformers.x_transformers import Attention, RotaryEmbedding

        rope = p.case.rope
        m = (
            Attention(
                p.D,
                dim_head=p.D // p.h,
                heads=p.h,
                kv_heads=p.hk,
                causal=p.case.causal,
                flash=flash,
            )
            .to(t.x)
            .eval()
        )
        il = interleave_rows if rope else (lambda w, h: w)
        wq, wo = xt_heads(il(t.wq, p.h), p.h, p.hk), xt_heads(t.wo.T, p.h, p.hk).T
        load(
            m,
            to_q__weight=wq,
            to_k__weight=il(t.wk, p.hk),
            to_v__weight=t.wv,
            to_out__weight=wo,
        )
        if rope:
            r = RotaryEmbedding(p.D // p.h)
            return Run(
                lambda: m(t.x, rotary_pos_emb=r.forward_from_seq_len(p.n)),
                params=m.parameters(),
            )
        return Run(lambda: m(t.x), params=m.parameters())

    return b


impl(["mha/bidir", "mha/causal", "mha/llama"], "x-transformers Attention flash")(
    _xt_attn(True)
)
impl(["mha/bidir", "mha/causal", "mha/llama"], "x-transformers Attention")(
    _xt_attn(False)
)


@impl(["mha/bidir", "mha/causal", "mha/llama"], "torchtune MultiHeadAttention")
def _(t, p):
    from torchtune.modules import MultiHeadAttention, RotaryPositionalEmbeddings

    hd, rope = p.D // p.h, p.case.rope
    L = lambda o: nn.Linear(p.D, o, bias=False)
    m = (
        MultiHeadAttention(
            embed_dim=p.D,
            num_heads=p.h,
            num_kv_heads=p.hk,
            head_dim=hd,
            q_proj=L(p.D),
            k_proj=L(hd * p.hk),
            v_proj=L(hd * p.hk),
            output_proj=L(p.D),
            is_causal=p.case.causal,
            pos_embeddings=RotaryPositionalEmbeddings(hd, p.n) if rope else None,
        )
        .to(t.x)
        .eval()
    )
    il = interleave_rows if rope else (lambda w, h: w)
    load(
        m,
        q_proj__weight=il(t.wq, p.h),
        k_proj__weight=il(t.wk, p.hk),
        v_proj__weight=t.wv,
        output_proj__weight=t.wo,
    )
    return Run(lambda: m(t.x, t.x), params=m.parameters())


def _llama_attn(attn):
    def b(t, p):
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import (
            LlamaAttention,
            LlamaRotaryEmbedding,
        )

        c = LlamaConfig(
            hidden_size=p.D,
            num_attention_heads=p.h,
            num_key_value_heads=p.hk,
            max_position_embeddings=p.n,
        )
        c._attn_implementation = attn
        m = LlamaAttention(c, 0).to(t.x).eval()
        load(
            m,
            q_proj__weight=t.wq,
            k_proj__weight=t.wk,
            v_proj__weight=t.wv,
            o_proj__weight=t.wo,
        )
        r = LlamaRotaryEmbedding(c)
        pos = torch.arange(p.n)[None]
        mask = None
        if attn == "eager":
            mask = (
                torch.zeros(1, 1, p.n, p.n)
                .masked_fill(~causal_mask(p.n), torch.finfo(torch.float32).min)
                .to(t.x)
            )
        return Run(
            lambda: m(t.x, position_embeddings=r(t.x, pos), attention_mask=mask)[0],
            params=m.parameters(),
        )

    return b


impl("mha/llama", "HF LlamaAttention sdpa")(_llama_attn("sdpa"))
impl("mha/llama", "HF LlamaAttention eager")(_llama_attn("eager"))
