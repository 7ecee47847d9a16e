"""Language models of the shapes of GPT-2 and Llama: logits, and a step of training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .cases import Case, Run, case, copy_, impl, interleave_rows, xt_heads, zero_bias

GPTS = {
    "s": dict(b=4, n=128, L=6, D=384, h=6, V=8192, ctx=256),
    "m": dict(b=1, n=256, L=12, D=768, h=12, V=50304, ctx=512),
}
LLAMAS = {
    "s": dict(b=2, n=64, L=4, D=128, h=4, hk=2, I=352, V=2048, ctx=256),
    "m": dict(b=4, n=128, L=8, D=384, h=6, hk=2, I=1024, V=8192, ctx=512),
}
# The dictionary of the shape used last: one of a large model is enough.
_WEIGHTS = {}


def hf_gpt2(p, dtype, attn="sdpa", act="gelu"):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    c = GPT2Config(
        n_embd=p.D,
        n_layer=p.L,
        n_head=p.h,
        vocab_size=p.V,
        n_positions=p.ctx,
        activation_function=act,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation=attn,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(c).to(dtype)


def hf_llama(p, dtype, attn="sdpa"):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    c = LlamaConfig(
        hidden_size=p.D,
        num_hidden_layers=p.L,
        num_attention_heads=p.h,
        num_key_value_heads=p.hk,
        intermediate_size=p.I,
        vocab_size=p.V,
        max_position_embeddings=p.ctx,
        tie_word_embeddings=False,
        attn_implementation=attn,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(c).to(dtype)


def hf_weights(p, family):
    """Return seeded weights under Hugging Face's names, in float32.

    They are larger than at the start of a training: the logits differ, and the best
    token of a greedy step is well defined. Biases are zero: x-transformers has none.
    """
    key = (family, p.D, p.L, p.V, p.ctx)
    if key not in _WEIGHTS:
        _WEIGHTS.clear()
        model = (hf_gpt2 if family == "gpt2" else hf_llama)(p, torch.float32)
        weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        g = torch.Generator().manual_seed(1)
        for name, weight in weights.items():
            if weight.ndim == 2 and "wpe" not in name:
                scale = min(weight.shape) ** -0.5
                if "wte" in name or "lm_head" in name:
                    scale = 0.05
                elif "embed" in name:
                    scale = 1.0
                weights[name] = torch.randn(weight.shape, generator=g) * scale
        if family == "gpt2":
            weights["lm_head.weight"] = weights["transformer.wte.weight"]
        _WEIGHTS[key] = weights
    return _WEIGHTS[key]


def _hf(m, sd):
    m.load_state_dict(sd)
    return (
        m.eval(),
        lambda i: m(i, use_cache=False).logits,
        lambda i, y: m(i, labels=y, shift_labels=y, use_cache=False).loss,
    )


def _plain(m):
    def loss(i, y):
        return F.cross_entropy(m(i).flatten(0, 1), y.flatten())

    return m.eval(), m, loss


def _precision(kind):
    return (
        torch.float64 if kind == "hf64" else torch.float32,
        "eager" if kind == "hf-eager" else "sdpa",
    )


def build_gpt(p, kind):
    """Return the model, its logits(ids), and its loss(ids, targets)."""
    sd = hf_weights(p, "gpt2")
    if kind.startswith("hf"):
        act = "gelu_new" if kind == "hf-new" else "gelu"
        return _hf(hf_gpt2(p, *_precision(kind), act), sd)
    if kind == "xt":
        from x_transformers import Decoder, TransformerWrapper

        m = TransformerWrapper(
            num_tokens=p.V,
            max_seq_len=p.ctx,
            tie_embedding=True,
            tie_embedding_scale=1.0,
            attn_layers=Decoder(
                dim=p.D, depth=p.L, heads=p.h, attn_dim_head=p.D // p.h, attn_flash=True
            ),
        )
        zero_bias(m)
        copy_(m.token_emb.emb.weight, sd["transformer.wte.weight"])
        copy_(m.pos_emb.emb.weight, sd["transformer.wpe.weight"] / m.pos_emb.scale)
        _xt_layers(m, [_gpt_block(sd, i) for i in range(p.L)])
        return _plain(m)
    raise KeyError(kind)


def _gpt_block(sd, i):
    k = f"transformer.h.{i}."
    q, kk, v = sd[k + "attn.c_attn.weight"].T.chunk(3)
    return [
        q,
        kk,
        v,
        sd[k + "attn.c_proj.weight"].T,
        sd[k + "mlp.c_fc.weight"].T,
        sd[k + "mlp.c_proj.weight"].T,
    ]


def _xt_layers(m, blocks):
    lin = [x for x in m.attn_layers.modules() if isinstance(x, nn.Linear)]
    flat = [w for b in blocks for w in b]
    for l, w in zip(lin, flat, strict=True):
        copy_(l.weight, w)


def build_llama(p, kind):
    """Return the model, its logits(ids), and its loss(ids, targets)."""
    sd = hf_weights(p, "llama")
    if kind.startswith("hf"):
        return _hf(hf_llama(p, *_precision(kind)), sd)

    def matrix(i, n):
        return sd[f"model.layers.{i}.{n}.weight"]

    if kind == "torchtune":
        from torchtune.models.llama3._component_builders import llama3

        m = llama3(
            vocab_size=p.V,
            num_layers=p.L,
            num_heads=p.h,
            num_kv_heads=p.hk,
            embed_dim=p.D,
            max_seq_len=p.ctx,
            rope_base=10000,
            intermediate_dim=p.I,
        )
        copy_(m.tok_embeddings.weight, sd["model.embed_tokens.weight"])
        copy_(m.output.weight, sd["lm_head.weight"])
        for i, l in enumerate(m.layers):
            q, k, *others = _llama_block(matrix, i, p)
            theirs = (l.attn.v_proj, l.attn.output_proj, l.mlp.w3, l.mlp.w1, l.mlp.w2)
            copy_(l.attn.q_proj.weight, q)
            copy_(l.attn.k_proj.weight, k)
            for linear, weight in zip(theirs, others, strict=True):
                copy_(linear.weight, weight)
        return _plain(m)
    if kind == "xt":
        from x_transformers import Decoder, TransformerWrapper

        m = TransformerWrapper(
            num_tokens=p.V,
            max_seq_len=p.ctx,
            use_abs_pos_emb=False,
            attn_layers=Decoder(
                dim=p.D,
                depth=p.L,
                heads=p.h,
                attn_dim_head=p.D // p.h,
                attn_kv_heads=p.hk,
                attn_flash=True,
                use_rmsnorm=True,
                rotary_pos_emb=True,
                rotary_emb_dim=p.D // p.h,
                ff_glu=True,
                ff_swish=True,
                ff_no_bias=True,
                ff_mult=p.I / p.D,
            ),
        )
        zero_bias(m)
        copy_(m.token_emb.emb.weight, sd["model.embed_tokens.weight"])
        copy_(m.to_logits.weight, sd["lm_head.weight"])
        blocks = []
        for i in range(p.L):
            q, k, v, o, up, gate, down = _llama_block(matrix, i, p)
            q, o = xt_heads(q, p.h, p.hk), xt_heads(o.T, p.h, p.hk).T
            blocks.append([q, k, v, o, torch.cat((up, gate)), down])
        _xt_layers(m, blocks)
        return _plain(m)
    raise KeyError(kind)


def _llama_block(matrix, i, p):
    """Return q, k, v, o, up, gate, down; rotated pairs are neighbours."""
    q = interleave_rows(matrix(i, "self_attn.q_proj"), p.h)
    k = interleave_rows(matrix(i, "self_attn.k_proj"), p.hk)
    names = ("self_attn.v_proj", "self_attn.o_proj")
    names += ("mlp.up_proj", "mlp.gate_proj", "mlp.down_proj")
    return [q, k, *(matrix(i, name) for name in names)]


class LM(Case):
    fam, what, modes = "gpt2", "fwd", ("fwd",)
    sizes = GPTS

    def make(self, p, g):
        ids = torch.randint(0, p.V, (p.b, p.n + 1), generator=g)
        return dict(ids=ids[:, :-1].contiguous(), y=ids[:, 1:].contiguous())

    def ref(self, t, p):
        m, logits, loss = BUILD[self.fam](p, "hf64")
        if self.what == "fwd":
            with torch.no_grad():
                return logits(t.ids)
        return TrainingStep(m, loss, t)()


class TrainingStep:
    """One step of AdamW, returning the loss before it.

    The first call makes two: the loss of the second checks gradients and update.
    """

    def __init__(self, m, loss, t, fused=False):
        settings = dict(lr=1e-4, weight_decay=0.1, fused=fused or None)
        self.opt = torch.optim.AdamW(m.train().parameters(), **settings)
        self.loss, self.t, self.first = loss, t, True

    def step(self):
        self.opt.zero_grad(set_to_none=True)
        l = self.loss(self.t.ids, self.t.y)
        l.backward()
        self.opt.step()
        return l.detach()

    def __call__(self):
        if self.first:
            self.first = False
            self.step()
        return self.step()


BUILD = dict(gpt2=build_gpt, llama=build_llama)
case("lm/gpt2/fwd", LM)
case("lm/gpt2/train", type("GPTTrain", (LM,), dict(what="train", modes=("train",))))


class Llama(LM):
    fam, sizes = "llama", LLAMAS


case("lm/llama/fwd", Llama)
case("lm/llama/train", type("Step", (Llama,), dict(what="train", modes=("train",))))


def _lm(fam, kind, label, tol=0.0, note="", fused=False):
    def fwd(t, p):
        _m, logits, _l = BUILD[fam](p, kind)
        return Run(lambda: logits(t.ids), tol=tol, note=note)

    def train(t, p):
        m, _l, loss = BUILD[fam](p, kind)
        return Run(TrainingStep(m, loss, t, fused), tol=tol, note=note)

    if not fused:
        impl(f"lm/{fam}/fwd", label)(fwd)
    impl(f"lm/{fam}/train", label)(train)


_lm("gpt2", "hf", "HF GPT2LMHeadModel sdpa (gelu)")
_lm(
    "gpt2",
    "hf-new",
    "HF GPT2LMHeadModel sdpa (default gelu_new)",
    tol=2e-2,
    note="tanh GELU",
)
_lm("gpt2", "hf-eager", "HF GPT2LMHeadModel eager")
_lm("gpt2", "xt", "x-transformers TransformerWrapper flash")
_lm("llama", "hf", "HF LlamaForCausalLM sdpa")
_lm("llama", "hf", "HF LlamaForCausalLM sdpa + AdamW(fused=True)", fused=True)
_lm("llama", "hf-eager", "HF LlamaForCausalLM eager")
_lm("llama", "torchtune", "torchtune llama3")
_lm("llama", "xt", "x-transformers TransformerWrapper flash")
