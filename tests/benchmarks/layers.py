"""Norms, feed-forward layers and a mixture of experts."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from .cases import Case, Run, case, copy_, impl, load, normal, zero_bias


class Norm(Case):
    sizes = {
        "s": dict(N=128, d=256),
        "m": dict(N=2048, d=768),
        "l": dict(N=8192, d=2048),
    }
    layer = True

    def make(self, p, g):
        p.eps = 1e-5
        return dict(
            x=normal(g, p.N, p.d) + 0.5,
            w=1 + 0.1 * normal(g, p.d),
            bias=torch.zeros(p.d, dtype=torch.float64),
        )

    def ref(self, t, p):
        x = t.x - t.x.mean(-1, keepdim=True) if self.layer else t.x
        return x / (x.pow(2).mean(-1, keepdim=True) + p.eps).sqrt() * t.w


case("norm/layer", Norm)
case("norm/rms", type("RMS", (Norm,), dict(layer=False)))


@impl("norm/layer", "nn.LayerNorm")
def _(t, p):
    m = load(nn.LayerNorm(p.d, p.eps).to(t.x), weight=t.w)
    return Run(lambda: m(t.x), params=m.parameters())


@impl("norm/layer", "x-transformers LayerNorm")
def _(t, p):
    from x_transformers.x_transformers import LayerNorm

    m = load(LayerNorm(p.d).to(t.x), gamma=t.w)
    return Run(lambda: m(t.x), params=m.parameters())


@impl("norm/layer", "naive mean/var")
def _(t, p):
    w, b = (z.detach().clone().requires_grad_() for z in (t.w, t.bias))

    def f():
        mu, var = t.x.mean(-1, keepdim=True), t.x.var(-1, unbiased=False, keepdim=True)
        return (t.x - mu) / torch.sqrt(var + p.eps) * w + b

    return Run(f, params=[w, b])


def _rms(label, build):
    impl("norm/rms", label)(build)


@impl("norm/rms", "nn.RMSNorm")
def _(t, p):
    m = load(nn.RMSNorm(p.d, p.eps).to(t.x), weight=t.w)
    return Run(lambda: m(t.x), params=m.parameters())


@impl("norm/rms", "HF LlamaRMSNorm")
def _(t, p):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    m = load(LlamaRMSNorm(p.d, p.eps).to(t.x), weight=t.w)
    return Run(lambda: m(t.x), params=m.parameters())


@impl("norm/rms", "torchtune RMSNorm")
def _(t, p):
    from torchtune.modules import RMSNorm

    m = load(RMSNorm(p.d, p.eps).to(t.x), scale=t.w)
    return Run(lambda: m(t.x), params=m.parameters())


@impl("norm/rms", "x-transformers RMSNorm")
def _(t, p):
    from x_transformers.x_transformers import RMSNorm

    m = load(RMSNorm(p.d).to(t.x), g=t.w)
    return Run(lambda: m(t.x), params=m.parameters(), note="eps differs")


def _naive_rms(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


@impl("norm/rms", "naive rsqrt(mean(x²))")
def _(t, p):
    w = t.w.detach().clone().requires_grad_()
    return Run(lambda: _naive_rms(t.x, w, p.eps), params=[w])


class FFN(Case):
    gated = False
    sizes = {
        "s": dict(N=128, D=128, I=512),
        "m": dict(N=1024, D=512, I=2048),
        "l": dict(N=2048, D=768, I=3072),
    }

    def make(self, p, g):
        s = p.D**-0.5
        t = dict(
            x=normal(g, 1, p.N, p.D),
            w1=normal(g, p.I, p.D, scale=s),
            w2=normal(g, p.D, p.I, scale=p.I**-0.5),
        )
        if self.gated:
            t["w3"] = normal(g, p.I, p.D, scale=s)
        return t

    def ref(self, t, p):
        h = (
            F.silu(t.x @ t.w1.T) * (t.x @ t.w3.T)
            if self.gated
            else F.gelu(t.x @ t.w1.T)
        )
        return h @ t.w2.T


case("ffn/gelu", FFN)


class SwiGLU(FFN):
    gated = True
    sizes = {
        "s": dict(N=128, D=128, I=352),
        "m": dict(N=1024, D=512, I=1408),
        "l": dict(N=2048, D=768, I=2048),
    }


case("ffn/swiglu", SwiGLU)


@impl("ffn/gelu", "nn.Sequential(Linear, GELU, Linear)")
def _(t, p):
    m = zero_bias(
        nn.Sequential(nn.Linear(p.D, p.I), nn.GELU(), nn.Linear(p.I, p.D))
    ).to(t.x)
    copy_(m[0].weight, t.w1), copy_(m[2].weight, t.w2)
    return Run(lambda: m(t.x), params=m.parameters())


def _gpt2_mlp(act):
    def b(t, p):
        from transformers import GPT2Config
        from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

        m = (
            zero_bias(
                GPT2MLP(
                    p.I,
                    GPT2Config(n_embd=p.D, activation_function=act, resid_pdrop=0.0),
                )
            )
            .to(t.x)
            .eval()
        )
        load(m, c_fc__weight=t.w1.T, c_proj__weight=t.w2.T)
        return Run(
            lambda: m(t.x),
            params=m.parameters(),
            tol=0 if act == "gelu" else 5e-3,
            note="" if act == "gelu" else "tanh GELU",
        )

    return b


impl("ffn/gelu", "HF GPT2MLP gelu")(_gpt2_mlp("gelu"))
impl("ffn/gelu", "HF GPT2MLP gelu_new (default)")(_gpt2_mlp("gelu_new"))


@impl(["ffn/gelu", "ffn/swiglu"], "x-transformers FeedForward")
def _(t, p):
    from x_transformers.x_transformers import FeedForward

    g = p.case.gated
    m = zero_bias(FeedForward(p.D, mult=p.I / p.D, glu=g, swish=g)).to(t.x).eval()
    lin = [x for x in m.modules() if isinstance(x, nn.Linear)]
    (
        copy_(lin[0].weight, torch.cat((t.w3, t.w1)) if g else t.w1),
        copy_(lin[1].weight, t.w2),
    )
    return Run(lambda: m(t.x), params=m.parameters())


@impl("ffn/swiglu", "HF LlamaMLP")
def _(t, p):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    m = LlamaMLP(LlamaConfig(hidden_size=p.D, intermediate_size=p.I)).to(t.x)
    load(m, gate_proj__weight=t.w1, up_proj__weight=t.w3, down_proj__weight=t.w2)
    return Run(lambda: m(t.x), params=m.parameters())


@impl("ffn/swiglu", "torchtune FeedForward")
def _(t, p):
    from torchtune.modules import FeedForward

    m = FeedForward(
        gate_proj=nn.Linear(p.D, p.I, bias=False),
        down_proj=nn.Linear(p.I, p.D, bias=False),
        up_proj=nn.Linear(p.D, p.I, bias=False),
    ).to(t.x)
    load(m, w1__weight=t.w1, w3__weight=t.w3, w2__weight=t.w2)
    return Run(lambda: m(t.x), params=m.parameters())


class MoE(Case):
    sizes = {
        "s": dict(N=128, D=128, I=352),
        "m": dict(N=512, D=512, I=704),
        "l": dict(N=2048, D=512, I=1408),
        "one": dict(N=1, D=512, I=1408),
    }
    E, K = 8, 2

    def make(self, p, g):
        s = p.D**-0.5
        return dict(
            x=normal(g, 1, p.N, p.D),
            wg=normal(g, 8, p.D, scale=s),
            w1=normal(g, 8, p.I, p.D, scale=s),
            w3=normal(g, 8, p.I, p.D, scale=s),
            w2=normal(g, 8, p.D, p.I, scale=p.I**-0.5),
        )

    def ref(self, t, p):
        x = t.x[0]
        w, i = (x @ t.wg.T).softmax(-1).topk(2, -1)
        w = w / w.sum(-1, keepdim=True)
        full = torch.zeros(p.N, 8, dtype=x.dtype).scatter(1, i, w)
        y = sum(
            full[:, e, None] * ((F.silu(x @ t.w1[e].T) * (x @ t.w3[e].T)) @ t.w2[e].T)
            for e in range(8)
        )
        return y[None]


case("ffn/moe", MoE)


def _mixtral(how):
    def b(t, p):
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

        c = MixtralConfig(
            hidden_size=p.D,
            intermediate_size=p.I,
            num_local_experts=8,
            num_experts_per_tok=2,
        )
        c._experts_implementation = how
        m = MixtralSparseMoeBlock(c).to(t.x).eval()
        load(
            m,
            gate__weight=t.wg,
            experts__gate_up_proj=torch.cat((t.w1, t.w3), 1),
            experts__down_proj=t.w2,
        )
        return Run(lambda: m(t.x), params=m.parameters())

    return b


for _h in ("eager", "grouped_mm", "batched_mm"):
    impl(
        "ffn/moe",
        f"HF MixtralSparseMoeBlock {_h}",
        sizes=("s", "one") if _h == "batched_mm" else None,
    )(_mixtral(_h))


@impl("ffn/moe", "naive loop, all experts on all tokens")
def _(t, p):
    ws = [z.detach().clone().requires_grad_() for z in (t.wg, t.w1, t.w3, t.w2)]
    return Run(
        lambda: p.case.ref(
            SimpleNamespace(x=t.x, wg=ws[0], w1=ws[1], w3=ws[2], w2=ws[3]), p
        ),
        params=ws,
    )


@impl("ffn/moe", "naive loop, mask per expert (old Mixtral)")
def _(t, p):
    wg, w1, w3, w2 = ws = [
        z.detach().clone().requires_grad_() for z in (t.wg, t.w1, t.w3, t.w2)
    ]

    def f():
        x = t.x.view(-1, p.D)
        w, i = F.softmax(x @ wg.T, -1).topk(2, -1)
        w = w / w.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e in range(8):
            tok, k = torch.where(i == e)
            if len(tok):
                h = x[tok]
                y.index_add_(
                    0,
                    tok,
                    ((F.silu(h @ w1[e].T) * (h @ w3[e].T)) @ w2[e].T) * w[tok, k, None],
                )
        return y[None]

    return Run(f, params=ws)
